"""What can go wrong, said to a person: what happened, where, and how to mend it.

Every error prints as two lines. Each also inherits the standard type that fits, so callers need not know ours.

    MaieuticError
    ├── InputError(ValueError)            a file, a row or an argument is not what it should be
    │   ├── MissingInput(FileNotFoundError)
    │   └── EmptyCorpus
    ├── RenderError(ValueError)           a conversation cannot become ids and labels
    │   ├── NoTemplate
    │   ├── UnstablePrefix                what would be generated from is not what would be trained on
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
    ├── ProcessLost(ChildProcessError)    one of several processes that train together ended too early
    ├── BudgetSpent(RuntimeError)
    ├── TooManyFailures(RuntimeError)     a run ended, past its stated failure rate
    ├── RecipeError(ValueError)
    └── MissingExtra(ImportError)
"""

from __future__ import annotations


class MaieuticError(Exception):
    """The root. `what` says what happened and where, `hint` how to mend it."""

    def __init__(self, what: str, hint: str = "") -> None:
        self.what = what
        self.hint = hint
        super().__init__(what)

    def __str__(self) -> str:
        return f"{self.what}\n  {self.hint}" if self.hint else self.what


class InputError(MaieuticError, ValueError):
    """A file, a row or an argument is not what it should be."""


class MissingInput(InputError, FileNotFoundError):
    """A named file or folder does not exist."""


class EmptyCorpus(InputError):
    """Nothing is left to work on."""


class RenderError(MaieuticError, ValueError):
    """A conversation cannot become token ids and labels."""


class NoTemplate(RenderError):
    """The tokenizer carries no chat template, and none was given."""


class UnstablePrefix(RenderError):
    """The ids a model would generate from are not a prefix of the ids it would be trained on."""


class BadMask(RenderError):
    """Nothing, or everything, would be in the loss."""


class ContextTooShort(RenderError):
    """Not even one whole turn fits the context."""


class StoreError(MaieuticError, OSError):
    """A run folder cannot be read or written."""


class RunConflict(StoreError):
    """The folder holds another run."""


class RunLocked(StoreError):
    """Another process is writing the folder."""


class DiskFull(StoreError):
    """No space is left; everything already written is whole."""


class ModelError(MaieuticError, RuntimeError):
    """A model could not be loaded or did not answer."""


class WrongKey(ModelError, PermissionError):
    """The server refused the key."""


class UnknownModel(ModelError, LookupError):
    """There is no such model."""


class ContextFull(ModelError):
    """The conversation no longer fits the model's context."""


class Unreachable(ModelError, ConnectionError):
    """The server did not answer within the attempts and the time allowed."""


class MalformedReply(ModelError):
    """The server kept answering with something that is no reply."""


class ProcessLost(MaieuticError, ChildProcessError):
    """One of several processes that train together ended before the work was done; none of them is left."""


class BudgetSpent(MaieuticError, RuntimeError):
    """The token or money budget is used up."""


class TooManyFailures(MaieuticError, RuntimeError):
    """A run ended with more failed rows than it was told to accept."""


class RecipeError(MaieuticError, ValueError):
    """A recipe does not resolve."""


class MissingExtra(MaieuticError, ImportError):
    """A library of an optional extra is not installed."""
