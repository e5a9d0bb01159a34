"""Every error that a user can cause, as one tree. All of them survive pickling, because Ray ships them."""

from __future__ import annotations

import difflib
import errno
import re
import reprlib
from collections.abc import Iterable
from dataclasses import dataclass


def printable(text: str) -> str:
    """Return a line without control characters, which what others wrote may bring to a terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


class AblateError(Exception):
    """Base of all errors of this project; `exit_code` is what the command line ends with."""

    exit_code = 1

    def __str__(self) -> str:
        """The message without control characters, which a damaged file may have brought into it."""
        return "\n".join(map(printable, super().__str__().split("\n")))


class UsageError(AblateError):
    """Something that the user asked for cannot be done as asked."""

    exit_code = 2


class DamagedError(UsageError):
    """A file of ours cannot be read, although this version should."""


class LedgerError(AblateError):
    """A file of the ledger may be as it should be, but cannot be read here and now."""


class DataError(UsageError):
    """A data set is missing or is not what it should be; `parameter` names the one that asks too much of it, if any."""

    parameter = ""

    def about(self, parameter: str) -> DataError:
        """Return this error with its parameter."""
        self.parameter = parameter
        return self


class SweepStoppedError(AblateError):
    """A sweep ended early or with failed trials; running it again goes on."""


@dataclass(frozen=True)
class Problem:
    """One mistake in a sweep file: where it is and which rule it breaks.

    `file` is the path as the user wrote it, or `--set KEY=VALUE`; lines and columns count from 1.
    """

    message: str
    file: str = ""
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line, self.column) if part not in (None, ""))
        return f"{place}: {self.message}" if place else self.message


class SpecError(UsageError):
    """A sweep file with one or more mistakes, one line each."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__(*problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


_OUT_OF_MEMORY = re.compile(
    r"out of memory|not enough memory|(can't|cannot|unable to) allocate|bad_?alloc|ALLOC_FAILED|ENOMEM", re.IGNORECASE
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is no memory left, on the machine or on a device.

    Only CUDA's has a class of its own: torch raises a plain RuntimeError on the CPU, and so do its libraries.
    """
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None


SYNONYMS = (
    {"lr", "learning_rate", "lrate", "step_size", "eta"},
    {"trials_per_cell", "trials", "num_trials", "n_trials", "max_trials"},
    {"seeds", "num_seeds", "n_seeds", "replicates", "repeats"},
    {"weight_decay", "wd", "l2", "l2_weight", "decay"},
    {"batch_size", "bs", "batch", "batchsize"},
    {"epochs", "num_epochs", "n_epochs", "max_epochs"},
    {"optimizer", "optim", "solver", "optimiser"},
    {"model", "arch", "architecture", "net", "network", "backbone"},
    {"dataset", "data"},
    {"regularizer", "regularisation", "regularization", "penalty"},
    {"axes", "grid", "factors", "arms"},
    {"tune", "search", "space", "search_space", "hyperparameters"},
    {"fixed", "config", "parameters", "defaults"},
    {"max", "maximize", "maximise"},
    {"min", "minimize", "minimise"},
)
"""Words that people use for one thing."""


def same_word(value: object, choices: Iterable[str]) -> str:
    """Return the choice that is a value or means the same; "" where there is none."""
    names = sorted(choices)
    alike = [name for words in SYNONYMS if str(value) in words for name in names if name in words]
    return next(iter([*(name for name in names if name == value), *alike]), "")


def choices_text(value: object, choices: Iterable[str]) -> str:
    """Return "Did you mean 'x'? Available: …" for a value that is none of the choices."""
    names = sorted(choices)
    close = same_word(value, names) or next(iter(difflib.get_close_matches(str(value), names, n=1)), "")
    hint = f"Did you mean '{close}'? " if close else ""
    return f"{hint}Available: {', '.join(names) or 'none'}"


class _Short(reprlib.Repr):
    """Writes what has another name in YAML than in Python as it is written in a sweep file."""

    def repr_NoneType(self, value: None, level: int) -> str:  # noqa: N802 - reprlib looks for this name
        return "null"

    def repr_bool(self, value: bool, level: int) -> str:
        return "true" if value else "false"


_short = _Short()
_short.maxstring = _short.maxother = 80
_short.maxlevel = 3


def shown(value: object) -> str:
    """Return a value of a sweep file as text for a message, shortened where it is long."""
    return _short.repr(value)
