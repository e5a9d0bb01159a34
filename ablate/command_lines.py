"""The commands that Ablate prints. All are made here, so that each runs as it was pasted into a shell."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ablate.places import Place
from ablate.redaction import public_path, redact

DEFAULT_OUT = Path("runs")


@dataclass(frozen=True)
class Commands:
    """Makes commands about what lies in one output folder.

    `in_public`: for files that others may read, with nothing in them that `redaction` takes out. An output folder that
    cannot be shown is a variable there, which the shell asks for; without it the command would work in another folder.
    """

    out: Place = DEFAULT_OUT
    in_public: bool = False

    def line(self, name: str, *arguments: str, options: Mapping[str, str | Sequence[str] | None] | None = None) -> str:
        """Return a command with its arguments and options, those without a value left out; paste it as it is."""
        words = [*_program(), name, *(f"./{word}" if word.startswith("-") else word for word in arguments)]
        for option, value in (options or {}).items():
            for each in ([value] if isinstance(value, str) else value) if value else []:
                words += [f"--{option}", redact(each) if self.in_public else each]
        line = quoted(words)
        return line if self.out == DEFAULT_OUT else f"{line} --out {self._out_word()}"

    def file(self, given: str, name: str) -> str:
        """Return a file as it was given, or its name alone where others read it and the path would tell too much."""
        if not given or not self.in_public:
            return given or name
        return public_path(Path(given)) or name

    def _out_word(self) -> str:
        if not self.in_public:
            return quoted([str(self.out)])
        shown = public_path(self.out) if isinstance(self.out, Path) else None
        return '"${OUT:?the output folder}"' if shown is None else quoted([shown])


def quoted(words: Iterable[str]) -> str:
    """Return words as one line for a shell."""
    return shlex.join(words)


def _program() -> list[str]:
    """Return how this program is started: from a checkout, or as it was installed."""
    return ["ablate"] if re.fullmatch(r"ablate(\.exe)?", Path(sys.argv[0]).name) else ["python", "cli.py"]
