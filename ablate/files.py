"""Reads files that a user names: a pipe may never end and a device has no end, so neither is opened."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a directory",
}


def read_regular(path: Path, most: int, what: str) -> bytes:
    """Return the content of a regular file of at most so many bytes; `what` is how errors name such a file.

    Raises:
        OSError: It cannot be read, is not a regular file or is longer; `strerror` says which.
    """
    _check(os.stat(path), path, what)
    # Without waiting: a pipe can have taken the file's place by now.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        _check(os.fstat(file.fileno()), path, what)
        content = file.read(most + 1) or b""
    if len(content) > most:
        raise OSError(errno.EFBIG, f"{what} has at most {most} bytes", str(path))
    return content


def _check(found: os.stat_result, path: Path, what: str) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        raise OSError(errno.EINVAL, f"{what} must be a regular file, but this is {kind}", str(path))
