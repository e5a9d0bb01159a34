"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import secrets
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ablate.places import ObjectPath, Place, local_view

HEARTBEAT_S = 5.0
"""How often the holder of a lock in an object store shows that it lives."""
MAX_MISSED = 6
"""So many missed heartbeats free the lock."""
log = logging.getLogger(__name__)


def cause(error: OSError) -> str:
    """Return an error of a file in one line: the file and what is wrong with it."""
    if not error.filename or error.errno is None:
        return str(error)
    hint = " (make room on that disk)" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return f"{error.filename}: {error.strerror}{hint}"


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Let an OSError say which file it is about: one of a write or a flush does not."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None


def write_atomically(path: Place, content: bytes) -> None:
    """Write a file under a temporary name beside it, flush it to the disk and rename it; an object is put at once.

    Raises:
        OSError: It cannot be written; the file that was there before is as it was.
    """
    if isinstance(path, ObjectPath):
        path.put(content)
        return
    with _naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:80]}.", suffix=".tmp")
        try:
            os.fchmod(handle, 0o644)
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_view(path: Place, content: bytes) -> None:
    """Write a file whole, as `write_atomically` does, but without waiting for the disk: a crash may lose it."""
    if isinstance(path, ObjectPath):
        path.put(content)
        return
    with _naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        temporary.write_bytes(content)
        os.replace(temporary, path)


def move(path: Place, target: Place) -> None:
    """Rename a file; an object is copied, then deleted."""
    if isinstance(path, Path):
        Path(str(target)).parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, str(target))
    else:
        write_atomically(target, path.read_bytes())
        path.unlink()


def fetched(place: Place) -> Path:
    """Return the file on this machine that holds the same; an object is fetched once to the local view."""
    local = local_view(place)
    if isinstance(place, ObjectPath) and not local.exists():
        write_atomically(local, place.read_bytes())
    return local


def append_line(path: Place, content: dict[str, Any]) -> None:
    """Append one JSON line and flush it to the disk; a line that a crash cut off is closed first.

    Objects cannot grow, so an object is read and put again with the line.
    """
    line = json.dumps(content, sort_keys=True).encode() + b"\n"
    if isinstance(path, ObjectPath):
        path.put((_content(path) or b"") + line)
        return
    with _naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _append(path, line)


def _append(path: Path, line: bytes) -> None:
    with path.open("ab+") as file:
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Place) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of a file of lines; lines that a crash cut off are passed over."""
    if not path.exists():
        return
    for line in path.read_bytes().splitlines():
        try:
            content = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(content, dict):
            yield content


@contextlib.contextmanager
def locked(path: Place) -> Iterator[bool]:
    """Hold a lock for as long as this process lives; yield False where another process holds it.

    A lock in an object store is an object that its holder writes anew every few seconds. Where one lies already, this
    watches whether it changes; clocks are not compared. A holder that finds its lock taken over gets SIGINT.
    """
    if isinstance(path, ObjectPath):
        with _locked_object(path) as is_ours:
            yield is_ours
        return
    with _naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        opened = path.open("ab")
    with opened as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def is_locked(path: Place) -> bool:
    """Whether a process holds the lock; in an object store this waits until its holder has shown that it lives."""
    if isinstance(path, ObjectPath):
        found = _content(path)
        return found is not None and _changes(path, found, 1.5 * HEARTBEAT_S)
    if not path.exists():
        return False
    # Open for reading: also in a folder that this user cannot write to.
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@contextlib.contextmanager
def _locked_object(path: ObjectPath) -> Iterator[bool]:
    found = _content(path)
    if found is not None:
        timeout_s = MAX_MISSED * HEARTBEAT_S
        log.warning("%s is there: waiting %.0f s to see whether its holder lives", path, timeout_s)
        if _changes(path, found, timeout_s):
            yield False
            return
    owner = secrets.token_hex(8)
    path.put(f"{owner} 0".encode())
    # Of two that come at the same moment, the one that wrote last has it.
    time.sleep(1)
    if not _is_owner(path, owner):
        yield False
        return
    is_over = threading.Event()
    thread = threading.Thread(target=_beat, args=(path, owner, is_over), name="ablate-lock", daemon=True)
    thread.start()
    try:
        yield True
    finally:
        is_over.set()
        thread.join()
        # Nobody waits for a lock that is left behind longer than for one whose holder was killed.
        with contextlib.suppress(OSError):
            if _is_owner(path, owner):
                path.unlink(missing_ok=True)


def _beat(path: ObjectPath, owner: str, is_over: threading.Event) -> None:
    number = 0
    while not is_over.wait(HEARTBEAT_S):
        number += 1
        # An outage must not end the holder: its trials will tell.
        with contextlib.suppress(OSError):
            if not _is_owner(path, owner):
                log.error("another process took %s over; this one stops", path)
                os.kill(os.getpid(), signal.SIGINT)
                return
            path.put(f"{owner} {number}".encode())


def _changes(path: ObjectPath, found: bytes, timeout_s: float) -> bool:
    """Whether a lock gets another content, other than none, within this time."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        time.sleep(min(1.0, HEARTBEAT_S / 4))
        content = _content(path)
        if content != found:
            return content is not None
    return False


def _is_owner(path: ObjectPath, owner: str) -> bool:
    return (_content(path) or b"").split(b" ")[0] == owner.encode()


def _content(path: ObjectPath) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
