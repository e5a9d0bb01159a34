"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import fnmatch
import json
import logging
import os
import random
import secrets
import signal
import stat
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

from ablate.places import ObjectPath, Place, local_view

HEARTBEAT_S = 5.0
"""How often the holder of a lock in an object store shows that it lives."""
MAX_MISSED = 6
"""So many missed heartbeats free the lock."""
READERS = 16
"""Objects that are asked for at a time: each is waited for."""
log = logging.getLogger(__name__)


class OddFileError(OSError):
    """What has a file's name is something else: a folder, a named pipe, a device."""


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
    except OddFileError:
        raise
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None


def read_file(path: Place) -> bytes:
    """Return the content of a regular file or of an object; a named pipe is not waited for.

    Raises:
        FileNotFoundError: There is none.
        OddFileError: It is no regular file.
        OSError: It cannot be read; the error names the file.
    """
    if isinstance(path, ObjectPath):
        return path.read_bytes()
    with _naming(path), open_file(path) as file:
        return file.read()


def open_file(path: Path) -> BinaryIO:
    """Return a regular file, open for reading.

    Raises:
        OSError: As `read_file` says.
    """
    with _naming(path):
        is_regular = stat.S_ISREG(path.stat().st_mode)
    if not is_regular:
        raise OddFileError(f"{path} is no regular file")
    with _naming(path):
        return open(open_at_once(path, os.O_RDONLY), "rb")


def open_at_once(path: Path, flags: int) -> int:
    """Return a file's descriptor; where a named pipe lies, nobody at its other end is waited for."""
    return os.open(path, flags | os.O_NONBLOCK, 0o666)


def read_json(path: Place) -> Any:
    """Return what a JSON file holds.

    Raises:
        OSError: It cannot be read, as `read_file` says.
        ValueError: It is no JSON; the text is one line.
    """
    content = read_file(path)
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def listed(folder: Place, pattern: str) -> list[Place]:
    """Return the files below a folder whose names match, one part of the pattern for each part of the name.

    Raises:
        OSError: A folder cannot be read; `Path.glob` takes some such for empty.
    """
    if isinstance(folder, ObjectPath):
        return list(folder.glob(pattern))
    first, _, rest = pattern.partition("/")
    names = [first]
    if "*" in first:
        try:
            with _naming(folder), os.scandir(folder) as entries:
                names = [entry.name for entry in entries if fnmatch.fnmatchcase(entry.name, first)]
        except (FileNotFoundError, NotADirectoryError):
            return []
    found: list[Place] = [folder / name for name in names]
    if rest:
        return [path for below in found for path in listed(below, rest)]
    return found if "*" in first else [path for path in found if os.path.exists(str(path))]


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


class Lines:
    """JSON lines that are only added to: the lines of a file, or, as objects cannot grow, an object a line.

    The objects lie below `<path>.parts/`; their names are numbered. Version 0.1 kept one object of all lines, which
    comes before them.
    """

    def __init__(self, path: Place) -> None:
        self.path = path
        self.num_damaged = 0
        """How many lines were passed over when they were read last."""
        self._num_parts: int | None = None

    def append(self, *contents: dict[str, Any]) -> None:
        """Add lines and flush them to the disk; one that a crash cut off is closed first."""
        line = json_lines(contents)
        if isinstance(self.path, ObjectPath):
            if self._num_parts is None:
                last = max((part.name for part in self._parts()), default="-1")
                self._num_parts = int(last.partition(".")[0]) + 1
            # A name that nobody else can have had: no line ever replaces another.
            write_atomically(self._folder() / f"{self._num_parts:08d}.{secrets.token_hex(4)}", line)
            self._num_parts += 1
            return
        with _naming(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _append(self.path, line)

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield the lines in order; those that a crash cut off are passed over, and counted."""
        self.num_damaged = 0
        for content in self._contents():
            for line in filter(bytes.strip, content.splitlines()):
                try:
                    found = json.loads(line)
                except (ValueError, RecursionError):
                    found = None
                if isinstance(found, dict):
                    yield found
                else:
                    self.num_damaged += 1

    def _contents(self) -> Iterator[bytes]:
        with contextlib.suppress(FileNotFoundError):
            yield read_file(self.path)
        if isinstance(self.path, ObjectPath):
            with ThreadPoolExecutor(READERS) as pool:
                yield from pool.map(read_file, sorted(self._parts()))

    def _parts(self) -> list[Place]:
        return [part for part in listed(self._folder(), "*") if part.name.partition(".")[0].isdecimal()]

    def _folder(self) -> Place:
        return self.path.with_name(f"{self.path.name}.parts")


def json_lines(contents: Iterable[dict[str, Any]]) -> bytes:
    """Return contents as lines of JSON."""
    return b"".join(json.dumps(content, sort_keys=True).encode() + b"\n" for content in contents)


def append_line(path: Place, content: dict[str, Any]) -> None:
    """Add one JSON line to those of this name."""
    Lines(path).append(content)


def read_lines(path: Place) -> Iterator[dict[str, Any]]:
    """Yield the JSON lines of this name."""
    return Lines(path).read()


def _append(path: Path, line: bytes) -> None:
    with open(open_at_once(path, os.O_RDWR | os.O_CREAT | os.O_APPEND), "ab+") as file:
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def locked(path: Place) -> Iterator[bool]:
    """Hold a lock for as long as this process lives; yield False where another process holds it.

    A lock in an object store is an object that its holder writes anew every few seconds. Where one lies already, this
    watches whether it changes; clocks are not compared. Of several that come together one has it at most: each takes
    the lock only while its own claim is the only one. A holder that finds its lock taken over gets SIGINT.
    """
    if isinstance(path, ObjectPath):
        with _locked_object(path) as is_ours:
            yield is_ours
        return
    with _naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        opened = open_at_once(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with open(opened, "ab") as file:
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
    with _naming(path):
        handle = open_at_once(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


@contextlib.contextmanager
def _locked_object(path: ObjectPath) -> Iterator[bool]:
    owner = secrets.token_hex(8)
    while (is_taken := _take(path, owner)) is None:
        time.sleep(random.uniform(0, HEARTBEAT_S / 4))
    if not is_taken:
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


def _take(path: ObjectPath, owner: str) -> bool | None:
    """Return whether the lock is this owner's now; None where others are about to take it as well: try again.

    The store has no put that fails where an object lies already, not through pyarrow. But what is written is seen by
    every later look. So each of several puts its claim first and looks for others after that: at least the one that
    put last sees another's, and goes back. And the lock is written before the claim is removed, so that one who sees no
    claim any more sees the lock.
    """
    timeout_s = MAX_MISSED * HEARTBEAT_S
    found = _content(path)
    if found is not None:
        log.warning("%s is there: waiting %.0f s to see whether its holder lives", path, timeout_s)
        if _changes(path, found, timeout_s):
            return False
    claims = path.with_name(f"{path.name}.claims")
    for other in claims.glob("*"):
        if _stays(other, timeout_s):  # Who put it was killed then.
            other.unlink(missing_ok=True)
    claim = claims / owner
    claim.put(owner.encode())
    try:
        if any(other != claim for other in claims.glob("*")) or _content(path) != found or not claim.exists():
            return None
        path.put(f"{owner} 0".encode())
        # It is not, where this process stood still for so long that it was held for dead.
        return claim.exists()
    finally:
        claim.unlink(missing_ok=True)


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


def _stays(path: ObjectPath, timeout_s: float) -> bool:
    """Whether an object is still there after so long."""
    deadline = time.monotonic() + timeout_s
    while path.exists():
        if time.monotonic() >= deadline:
            return True
        time.sleep(min(0.2, timeout_s / 4))
    return False


def _is_owner(path: ObjectPath, owner: str) -> bool:
    return (_content(path) or b"").split(b" ")[0] == owner.encode()


def _content(path: ObjectPath) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
