"""What of a text may stand in a file that others read: no absolute paths, no names of users and hosts."""

from __future__ import annotations

import contextlib
import functools
import getpass
import os
import re
import socket
from pathlib import Path

from ablate.errors import printable

MIN_SHARED = 3
"""Parts that a path must share with the current folder, the root among them, to be shown as a way from there."""
# Two or more components, so that "and/or" and "10/12" stay; a home folder by itself names its owner.
_HOME = re.compile(r"(?:/(?:home|Users)|[A-Za-z]:\\Users)[/\\][^/\\\s'\":,;)\]]+(?=$|[\s'\":,;)\]])")
_PATH = re.compile(r"(?:(?<![\w.:/])|(?<=file://))(?:~|[A-Za-z]:)?(?:[/\\][^/\\\s'\":,;)\]]+){2,}[/\\]?")
_REMOTE = re.compile(
    r"\b[\w.+-]+@[\w.-]+\b(?::[\w./-]+)?"
    r"|\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b"
    r"|\b\w+://(?!(?:\w+\.)?(?:arxiv|doi)\.org/)[^\s'\"]+"
    # IPv6: hexadecimal groups with a double colon, or five and more of them.
    r"|(?<![\w:])\[?(?=[0-9A-Fa-f:]*::|(?:[0-9A-Fa-f]+:){4})[0-9A-Fa-f:]{4,}(?:\]:\d+)?(?![\w:])"
    # Names of hosts, by what they end in or by their port. A name without either cannot be told from a word.
    r"|(?<![\w./-])(?:[\w-]+\.)+(?:com|org|net|edu|gov|io|local|lan|internal|localdomain)\b(?::\d+)?"
    r"|(?<![\w./-])(?=[\w.-]*[A-Za-z])[\w-]+(?:\.(?!py:)[\w-]+)*:\d{4,5}\b(?![.:])"
)


@functools.lru_cache(maxsize=10_000)
def redact(text: str) -> str:
    """Return a text without absolute paths (their last part stays), addresses of hosts and remotes, control characters.

    Links to arXiv and DOIs stay: they name sources, not authors of the report.
    """
    text = _REMOTE.sub("…", "\n".join(map(printable, text.split("\n"))))
    text = _HOME.sub("…", text)
    return _PATH.sub(lambda match: "…/" + re.split(r"[/\\]", match[0].rstrip("/\\"))[-1], text)


def public_path(path: Path) -> str | None:
    """Return a path as others may read it, from the current folder; None where it would tell too much.

    A relative path stays as it was given. An absolute one becomes relative where it leads out of the current folder by
    few steps: the first two levels of a machine's folders are not shown, nor names of this user and host.
    """
    shown = str(path)
    if path.is_absolute():
        here = os.getcwd()
        shared = Path(os.path.commonpath([here, path]))
        if not path.is_relative_to(here) and len(shared.parts) < MIN_SHARED:
            return None
        shown = os.path.relpath(path, here)
    return None if _names_someone(shown) else shown


def _names_someone(text: str) -> bool:
    names = {socket.gethostname(), socket.gethostname().partition(".")[0]}
    with contextlib.suppress(KeyError, OSError):  # Of a container's user there may be no name.
        names.add(getpass.getuser())
    return any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) for name in names if name)
