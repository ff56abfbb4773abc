"""The errors of the program. Each says what happened, where, and what to do about it.

An error prints as two lines. Each class also inherits from the matching built-in exception, so callers can catch that.

    MaieuticError
    ├── InputError(ValueError)            a file, a row or an argument is wrong
    │   ├── MissingInput(FileNotFoundError)
    │   └── EmptyCorpus
    ├── RenderError(ValueError)           a conversation cannot become ids and labels
    │   ├── NoTemplate
    │   ├── UnstablePrefix                the prompt ids are not a prefix of the training ids
    │   ├── BadMask                       nothing, or everything, would be in the loss
    │   └── ContextTooShort
    ├── StoreError(OSError)               a run folder cannot be written
    │   ├── RunConflict                   the folder holds another run
    │   ├── RunLocked                     another process is writing it
    │   └── DiskFull
    ├── ModelError(RuntimeError)          a model could not be loaded or did not answer
    │   ├── WrongKey(PermissionError)
    │   ├── UnknownModel(LookupError)
    │   ├── ContextFull
    │   ├── Unreachable(ConnectionError)
    │   └── MalformedReply
    ├── ProcessLost(ChildProcessError)    one of several training processes ended too early
    ├── BudgetSpent(RuntimeError)
    ├── TooManyFailures(RuntimeError)     more rows failed than are accepted
    ├── RecipeError(ValueError)
    └── MissingExtra(ImportError)
"""

from __future__ import annotations


class MaieuticError(Exception):
    """The base class: `what` says what happened and where, `hint` says what to do about it."""

    def __init__(self, what: str, hint: str = "") -> None:
        self.what = what
        self.hint = hint
        super().__init__(what)

    def __str__(self) -> str:
        return f"{self.what}\n  {self.hint}" if self.hint else self.what


class InputError(MaieuticError, ValueError):
    """A file, a row or an argument is wrong."""


class MissingInput(InputError, FileNotFoundError):
    """A named file or folder does not exist."""


class EmptyCorpus(InputError):
    """A corpus or another input has no rows."""


class RenderError(MaieuticError, ValueError):
    """A conversation cannot become token ids and labels."""


class NoTemplate(RenderError):
    """The tokenizer has no chat template, and none was given."""


class UnstablePrefix(RenderError):
    """The ids of the prompt in generation are not a prefix of the ids in training."""


class BadMask(RenderError):
    """No token, or every token, would be in the loss."""


class ContextTooShort(RenderError):
    """Not even one whole turn fits the context."""


class StoreError(MaieuticError, OSError):
    """A run folder cannot be read or written."""


class RunConflict(StoreError):
    """The folder holds another run."""


class RunLocked(StoreError):
    """Another process is writing the folder."""


class DiskFull(StoreError):
    """No disk space is left; the rows already written are complete."""


class ModelError(MaieuticError, RuntimeError):
    """A model could not be loaded or did not answer."""


class WrongKey(ModelError, PermissionError):
    """The server refused the key."""


class UnknownModel(ModelError, LookupError):
    """There is no such model."""


class ContextFull(ModelError):
    """The conversation no longer fits the model's context."""


class Unreachable(ModelError, ConnectionError):
    """The server did not answer within the allowed attempts and time."""


class MalformedReply(ModelError):
    """The server repeatedly answered with something that is not a reply."""


class ProcessLost(MaieuticError, ChildProcessError):
    """One of several training processes ended too early; all of them have been stopped."""


class BudgetSpent(MaieuticError, RuntimeError):
    """The token or money budget is used up."""


class TooManyFailures(MaieuticError, RuntimeError):
    """More rows failed than `max_failure_rate` accepts."""


class RecipeError(MaieuticError, ValueError):
    """A recipe is wrong."""


class MissingExtra(MaieuticError, ImportError):
    """A library of an optional extra is not installed."""
