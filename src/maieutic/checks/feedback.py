"""Does a reply give wrong feedback: confirm a student's wrong answer, or ignore or deny a right answer?

The check reads the tutor's own words clause by clause. A question ("is that right?") and a condition ("check whether
it is right") confirm nothing. Praise for trying ("good try") does not praise the answer. A yes together with "but" or
"let's look again" is not a plain yes. If the reply calls the *answer* right, a "but" does not change that.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from maieutic.checks.answers import answer_values, known_answer, rule, states_number, states_phrase
from maieutic.checks.numbers import numbers, plain
from maieutic.checks.questions import is_question, own_words, sentences
from maieutic.checks.student_state import Claim, State, claim, state_before
from maieutic.core.messages import Problem


class Confirms(IntEnum):
    """How much of the student's turn a reply confirms."""

    NOTHING = 0
    EFFORT = 1
    """Praise: "Great job!"."""
    SOMETHING = 2
    """Only "Yes.", which may answer something else."""
    TURN = 3
    """The reply confirms what the student said: "That's right", "you have understood"."""
    ANSWER = 4
    """The reply calls the answer, or the whole solution, right."""


class Feedback(NamedTuple):
    """What a reply says about the student's last turn."""

    confirms: Confirms
    denies: bool
    doubts: bool
    """The reply limits its praise, or asks the student to look again."""
    asks: bool
    moves_on: bool
    """The reply turns to another problem, as tutors do once a problem is solved."""


_VERY = r"""(?:(?:absolutely|exactly|totally|quite|completely|all|perfectly|very|definitely|indeed|just|also|certainly
    |clearly|really|so|a|an|the|now|entirely|again|actually|simply)\s+){0,3}"""
_GOOD = r"(?:right|correct|perfect|spot\s+on|accurate|true|exact|it|bang\s+on|flawless)"
_LIMITED = r"""(?!\s+(?:to|that|about|ideas?|track|direction|in|so\s+far|up\s+to|until|but|and\s+that|start|on\s+the
    |path|lines?|place|question|way|as\s+far))"""
_BE = r"(?:\s+(?:is|are|was|were|looks?|seems?|sounds?)|'s|'re)"
_WORK = r"(?:answers?|results?|solutions?|code|program|function|fix|final\s+\w+|everything|work|sign|choice)"
_EFFORT = r"""(?!\s+(?:try|tries|question|start|guess|effort|attempt|begin|ideas?|point|observation|thought|morning
    |afternoon|evening|luck|to\s+(?:hear|see|know)|that\s+you|deal|approach|strategy|progress))"""

_ANSWER = rule(
    rf"""\b(?:your|the|this|that|all\s+(?:of\s+)?(?:your|the))\s+(?:\w+\s+){{0,2}}?{_WORK}(?:\s+(?:of|for)\s+\S+)?{_BE}\s+
      {_VERY}(?:right|correct|perfect|spot\s+on|accurate|fine|great|good|excellent){_LIMITED}\b
    | \b(?:that|this|it|CLAIM){_BE}\s+{_VERY}(?:right|correct)\s+(?:answer|solution|result|fix|choice|sign)\b
    | \b(?:that|it|this|which){_BE}\s+(?:indeed\s+)?(?:exactly\s+)?the\s+(?:final\s+)?(?:answer|solution|fix)\b
    | \byou(?:'ve|\s+have|'re|\s+all)?\s+(?:(?:just|now|finally|clearly|really)\s+)?
      (?:got|found|solved|nailed|cracked|worked\s+out|figured\s+out|did|done|fixed|arrived\s+at|reached)\s+(?:out\s+)?
      (?:it|the\s+(?:right\s+|correct\s+|whole\s+|final\s+)?(?:answer|solution|problem|result|bug|fix|sign))\b
      (?!\s+(?:wrong|by|from|when|if|all\s+wrong|incorrect))
    | \bCLAIM\s*(?:[a-z]+\s+){{0,3}}?(?:is|are)\s+{_VERY}(?:right|correct)\b{_LIMITED}
    | \b(?:agree|happy|go)\s+with\s+your\s+(?:\w+\s+)?(?:answer|solution|result)\b
    | \b(?:correct|right)\s+(?:answer|solution|result)(?:$|\s+(?:is|to)\s+(?:indeed\s+)?CLAIM)
    | \bFLAWLESS\b | \bnothing\s+(?:left\s+)?to\s+(?:fix|change|correct|add)\b
    | \b(?:code|program|function|loop|it)\s+(?:now\s+)?works?\s+
      (?:now|fine|perfectly|correctly|well|as\s+it\s+should)\b"""
)
_SAID = rule(
    rf"""\b(?:that|this|it|you|they|those|both|all|which){_BE}\s+{_VERY}{_GOOD}{_LIMITED}(?!\w)
    | \b(?:exactly|quite|absolutely|totally|perfectly|all|that's|you're)\s+(?:right|correct|perfect)\b{_LIMITED}
    | \bi\s+(?:(?:fully|totally|completely)\s+)?agree(?:\s+with\s+(?:you|that|this))?$
    | \b(?:could|can)(?:n't|\s+not|not)\s+(?:have\s+(?:said|done|put)|agree|be\s+more|do)\b
    | ^CLAIM$ | \bas\s+you\s+(?:say|said|rightly|correctly)\b
    | \byou\s+(?:(?:have|clearly|really|always|fully)\s+)*
      (?:understand|understood|got|have|know|nailed)\s+(?:it|this|that)\b"""
)
_BARE = rule(
    r"""^(?:yes|yep|yeah|yup|correct|exactly|precisely|indeed|absolutely|bravo|spot\s+on|agreed|definitely|perfect
        |that's\s+it|you\s+got\s+it|bingo|right|nailed\s+it|true)
        (?:\s+(?:you\s+(?:are|did|got)|it\s+(?:is|does)|they\s+are|right|correct|indeed|exactly|absolutely|well\s+done
          |CLAIM)\b.{0,40})?$"""
)
_PRAISE = rule(
    rf"""^(?:(?:what|such|a|an|that(?:'s|\s+is|\s+was)|very|really|so|you\s+(?:did|have\s+done|are\s+doing)|i\s+love
          |this\s+is|wow|just|simply|truly)\s+)*
        (?:great|good|nice|excellent|fantastic|wonderful|awesome|amazing|brilliant|super|lovely|terrific|perfect|superb
          |impressive|beautiful|outstanding|marvell?ous|splendid|cool|clever|smart){_EFFORT}\b
    | ^(?:very\s+)?(?:well\s+(?:done|reasoned|said|spotted|put)|way\s+to\s+go|hooray|hurray|congratulations|bravo|kudos
          |good\s+for\s+you)\b (?!\s+(?:for|on)\s+(?:trying|the\s+effort|showing|attempting|giving))
    | \byou(?:'re|\s+are)\s+(?:doing\s+(?:great|well|very\s+well|amazing\w*)|so\s+(?:clever|smart|good)
          |a\s+(?:genius|star|natural))"""
)
_SUPPOSES = rule(
    r"""\b(?:if|whether|check|make\s+sure|be\s+sure|sure\s+that|see|how|why|what|when|does|do\s+you|is\s+it|unless|until
    |(?:would|to|could|might|may|should|can)\s+be|not|never|hardly|assume|suppose|imagine|almost|nearly|partly|partially
    |half|were|only|want|need|let's|you\s+think)\b | n't\b"""
)
_OPENS_QUESTION = rule(
    r"""^(?:(?:so|and|but|then|now)\s+)*(?:is|are|do|does|did|can|could|would|will|how|what|why|which|who|where|when|if
    |whether|suppose|wonder)\b"""
)
_DENIES = rule(
    r"""\bnot\s+(?:quite|right|correct|exactly|really|true|the\s+(?:right|correct|answer|solution|sign)|what|it\b|yet
        |accurate|so\b|there\s+yet|enough|a\s+good|the\s+case|all|entirely|working)
    | \b(?:is|are|was|does|do|did|were|could|can|would)(?:n't|\s+not)\s+
        (?:(?:quite|actually|exactly|look|seem|the|a|really)\s+)*
        (?:right|correct|true|work|match|add\s+up|answer|make\s+sense|seem|be|fit|solve|hold|it\b|enough|quite)
    | \b(?:wrong|incorrect|mistaken|false|inaccurate)\b
    | \btoo\s+(?:high|low|big|small|large|many|few|much|little)\b
    | ^(?:no|nope|nah|unfortunately|sorry|wait|hmm+)$
    | ^(?:no|nope|unfortunately)\b(?!\s+(?:problem|worries|doubt|need|one|mistake|wonder|more))
    | \b(?:mistake|error|misunderstanding|mix(?:ed)?[-\s]?up|confus(?:ed|ion|ing)|slip|issue|problem\s+with)\b
    | ^(?:(?:very|so|pretty|getting|really|you're|you\s+are|that's|that\s+was|it's|a\s+bit|a\s+little|nearly
        |almost)\s+)*
        (?:almost|close|nearly|off|warm(?:er)?|cold)(?:\s+(?:but|to\s+it|there|enough|right))?$
    | \b(?:far|a\s+(?:bit|little)|slightly|way|still|is|are)\s+off\b
    | \b(?:disagree|doubt\s+(?:it|that)|i\s+don't\s+think)\b
    | \b(?:good|nice|great|fair|brave)\s+(?:try|guess|attempt|effort)\b"""
)
_NO_FAULT = rule(
    r"""\b(?:no|any|without\s+(?:a\s+single|any|a)|not\s+a\s+single)\s+(?:\w+\s+)?(?:mistakes?|errors?|problems?|issues?)\b
    | \bnothing\s+(?:\w+\s+)?(?:wrong|incorrect)\b"""
)
_MENDED = rule(
    r"""\b(?:catch\w*|caught|spot\w*|correct(?:ed|ing)|fix\w*|found|finding|recogni[sz]\w*|reali[sz]\w*|see\w*|saw|notic\w*
    |learn\w*\s+from)\s+(?:(?:your|the|that|own|a|an)\s+)*(?:mistakes?|errors?|bugs?|misunderstanding)\b"""
)
_MOVES_ON = rule(
    r"""\b(?:move|moving|go|going|continue)\s+(?:on\s+)?to\b
      (?!\s+(?:the\s+)?(?:next|second|third|last|final)\s+(?:step|part|line))
    | \b(?:next|another|similar|new|more)\s+(?:\w+\s+)?
      (?:problems?|exercises?|examples?|challenges?|topics?|tasks?)\b"""
)
_DOUBTS = rule(
    r"""\b(?:but|however|though|although|yet|actually|instead|except|nevertheless|still\s+(?:need|have|something)
        |remember(?:\s+that)?)\b
    | \b(?:re-?\s?(?:check|read|evaluate|visit|consider|calculate|examine|think|do|count|phrase)|double[-\s]?check
        |closer\s+look|careful(?:ly)?)\b
    | \b(?:read|look|think|check|try|go|count|work|start|see|do|solve|come)\b[^.]{0,40}
        \b(?:again|once\s+more|another\s+(?:look|try)|over)\b
    | \b(?:are|am)\s+(?:you|i)\s+(?:(?:really|quite|very|so)\s+)?sure\b | \bnot\s+(?:so\s+)?sure\b
    | \btake\s+another\b
    | \bmake\s+sure\b | \b(?:just|only|still)\s+(?:need|have)\s+to\b
    | \blet'?s?\s+(?:us\s+)?(?:check|look|see|test|verify|think|take|try\s+(?:again|that|this|it)|re\w+|make\s+sure
        |focus|consider|break
        |examine|figure|review)\b"""
)
_CUT = re.compile(r"(?:[,;:–—]|\s-)\s+|\s+(?:but|however|although|though|yet)\s+", re.IGNORECASE)
_OPENERS = rule(
    r"^(?:(?:oh|ah|aha|hm+|well|wow|ok|okay|great|good|nice|and|so|then|haha|hey|hi|hello|now|thanks?|my\s+friend)\b[\s,!]*)+(?=\w)"
)


_REACH = 600
"""Only this many characters of a sentence are read, because feedback is near the start of a sentence."""


def wrong_feedback(text: str, problem: Problem, student_turns: Sequence[str]) -> bool:
    """Whether the reply confirms a wrong answer, or ignores or denies a right one.

    Only the answer in the student's last turn counts. A reply may confirm a right step. A reply need not call a wrong
    answer wrong: a question is enough. A reply must acknowledge a right answer, and may ask any question after that.
    """
    given = claim(problem, student_turns)
    found = feedback(_with_claim_marked(text, given))
    if given.state == State.WRONG:
        return _confirms(found)
    if given.state == State.RIGHT:
        return _ignores(text, problem, found)
    least = Confirms.EFFORT if found.moves_on else Confirms.ANSWER if given.says else Confirms.TURN
    wrong_before = state_before(problem, student_turns) == State.WRONG
    return found.confirms >= least and _confirms(found) and wrong_before


def feedback(text: str) -> Feedback:
    """What a reply says about the student's turn; in the reply, `CLAIM` replaces the student's answer."""
    confirms, denies, doubts, asks = Confirms.NOTHING, False, False, False
    for sentence in sentences(own_words(plain(text))):
        question = is_question(sentence)
        asks |= question
        body = _MENDED.sub(" ", _NO_FAULT.sub(" FLAWLESS ", sentence.text[:_REACH]))
        doubts |= bool(_DOUBTS.search(body))
        clauses = [" ".join(clause.split()).strip("\"'*_()") for clause in _CUT.split(body)]
        for place, clause in enumerate(clauses):
            denies |= not question and bool(_DENIES.search(clause))
            if not (question and place + 1 == len(clauses)) and not _OPENS_QUESTION.match(clause):
                confirms = max(confirms, _clause_confirms(clause))
    return Feedback(confirms, denies, doubts, asks, bool(_MOVES_ON.search(text)))


def _clause_confirms(clause: str) -> Confirms:
    short = _OPENERS.sub("", clause)
    for pattern, kind in (
        (_ANSWER, Confirms.ANSWER),
        (_SAID, Confirms.TURN),
        (_BARE, Confirms.SOMETHING),
        (_PRAISE, Confirms.EFFORT),
    ):
        for form in dict.fromkeys((clause, short)):
            found = pattern.search(form)
            if found and not _SUPPOSES.search(form[: found.start()]):
                return kind
    return Confirms.NOTHING


def _confirms(found: Feedback) -> bool:
    """Whether the feedback is a yes without a "but"."""
    if found.denies:
        return False
    if found.confirms == Confirms.ANSWER or (found.confirms and found.moves_on):
        return True
    praised = found.confirms == Confirms.EFFORT and not found.asks
    return not found.doubts and (found.confirms >= Confirms.SOMETHING or praised)


def _ignores(text: str, problem: Problem, found: Feedback) -> bool:
    """Whether the reply denies a right answer, or continues without acknowledging it."""
    if found.confirms == Confirms.ANSWER or (found.confirms >= Confirms.SOMETHING and not found.denies):
        return False
    if found.denies:
        return True
    if found.confirms == Confirms.EFFORT or _restates(text, problem):
        return False
    return found.asks or found.doubts


def _restates(text: str, problem: Problem) -> bool:
    """Whether the reply itself states the answer, outside its questions."""
    answer = known_answer(problem) or ""
    statements = " ".join(f"{one.text}." for one in sentences(plain(text)) if not is_question(one))
    if values := answer_values(answer):
        return all(states_number(statements, one, "", "") for one in values)
    return bool(answer) and states_phrase(statements, answer, "", "")


def _with_claim_marked(text: str, given: Claim) -> str:
    """The text with the student's answer replaced by CLAIM."""
    text = plain(text)
    if given.words:
        return re.sub(rf"(?<!\w){re.escape(given.words)}(?!\w)", "CLAIM", text, flags=re.IGNORECASE)
    for number in reversed(numbers(text)):
        if number.values & given.values:
            text = f"{text[: number.start]}CLAIM{text[number.end :]}"
    return text
