"""What makes two problems the same."""

from __future__ import annotations

import re

from maieutic.core.messages import Problem, fingerprint

_CODE = re.compile(
    r"^\s*(?:\d+\.\s*)?(?:def \w+\s*\(|class \w+|import \w+|from [\w.]+ import |#include|function \w*\s*\(|"
    r"(?:public|private|static) \w+|(?:for|while|if) .*[:{]\s*$|(?:const|let|var) \w+ ?=)",
    re.MULTILINE,
)


def program(problem: Problem) -> str | None:
    """The student's attempt where it is code. A wrong solution in words is the student's, not the problem's."""
    return problem.attempt if problem.attempt and _CODE.search(problem.attempt) else None


def problem_key(problem: Problem | None) -> str | None:
    """What makes two problems the same: statement and program, up to white space; None without either."""
    if problem is None:
        return None
    words = [" ".join(text.split()) for text in (problem.statement, program(problem) or "")]
    return fingerprint(words) if any(words) else None


def program_key(problem: Problem | None) -> str | None:
    """What makes two programs the same: their text up to white space, whatever the statement; None without one."""
    code = program(problem) if problem else None
    return fingerprint(" ".join(code.split())) if code and code.strip() else None
