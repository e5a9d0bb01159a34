"""The file of a bundle: a zip archive of what lies under an output folder, with a manifest of its members.

    manifest.json                               format, version, sweep, declaration; size and SHA-256 of every member
    <sweep>/declaration.json, resolved.yaml     as in the sweep's folder
    <sweep>/proposals.jsonl                     as in the sweep's folder
    ledger/trials/ab/*, ledger/layers/ab/*      as in the ledger

The same members give the same bytes. A bundle can come from anybody: nothing of it is written before its names, sizes
and hashes are checked, and what it unpacks to is bounded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ablate.checked import STRICT, from_json
from ablate.errors import UsageError
from ablate.storage import OddFileError, read_file
from ablate.store.declaration import SWEEP_ID

FORMAT = "ablate bundle"
VERSION = 1
MANIFEST = "manifest.json"
SWEEP_FILES = ("declaration.json", "resolved.yaml", "proposals.jsonl")
LEDGER_FILE = re.compile(
    r"ledger/(?:trials|layers)/[\w-]{1,2}/[\w-]{1,100}(?:~[\w.+@-]{1,201})?(?:~[\w-]{1,100})?\.parquet", re.ASCII
)
MAX_NAME = 255
"""Characters of a file's name: what file systems take."""
MAX_RATIO = 100
"""A bundle unpacks to at most so many times its size. One of 60 trials unpacks to 2.4 times, its proposals to 17."""
FREE_BYTES = 16 * 2**20
"""More that any bundle may unpack to: small files of equal lines shrink the most."""
CHUNK = 2**20
MIN_DATE = (1980, 1, 1, 0, 0, 0)
MALFORMED = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, ValueError, LookupError,
    OverflowError, OSError,
)  # fmt: skip
"""What reading a damaged archive may raise. Its bytes are in memory by then: an OSError is zipfile's own."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """What a member of a bundle must be."""

    size: int
    sha256: str

    __pydantic_config__ = STRICT


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a bundle holds. `declaration` is the hash of the sweep's present declaration, empty where it has none."""

    format: str = FORMAT
    version: int = VERSION
    sweep: str
    declaration: str
    members: dict[str, Member]

    __pydantic_config__ = STRICT


def pack(sweep: str, declaration: str, members: Mapping[str, bytes]) -> bytes:
    """Return the bundle with these members, by their names: the same bytes for the same members."""
    listed = {
        name: Member(size=len(content), sha256=hashlib.sha256(content).hexdigest())
        for name, content in sorted(members.items())
    }
    manifest = Manifest(sweep=sweep, declaration=declaration, members=listed)
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        _add(archive, MANIFEST, json.dumps(dataclasses.asdict(manifest), indent=1).encode())
        for name in listed:
            _add(archive, name, members[name])
    return sink.getvalue()


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    info = zipfile.ZipInfo(name, MIN_DATE)
    info.create_system = 3
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    archive.writestr(info, content, zipfile.ZIP_DEFLATED)


def is_bundle(file: Path) -> bool:
    """Whether a file can be replaced by a bundle: it is one already.

    Raises:
        OSError: It cannot be read.
    """
    try:
        content = read_file(file)
    except OddFileError:
        return False
    with contextlib.suppress(*MALFORMED), zipfile.ZipFile(io.BytesIO(content)) as archive:
        return MANIFEST in archive.namelist()
    return False


def unpack(file: Path, folder: Path) -> Manifest:
    """Write the members of a bundle below a folder, each after it was checked, and return its manifest.

    Raises:
        UsageError: There is no such file, it is damaged or no bundle, or a newer program wrote it.
        OSError: It cannot be read, or a member cannot be written.
    """
    try:
        content = read_file(file)
    except FileNotFoundError:
        raise UsageError(f"there is no file {file}") from None
    except OddFileError as error:
        raise UsageError(str(error)) from None
    with _reading(file):
        archive = zipfile.ZipFile(io.BytesIO(content))
    with archive:
        with _reading(file):
            members = _members(archive, len(content))
            manifest = _manifest(file, archive, members)
        for name, member in manifest.members.items():
            with _reading(file):
                unpacked = _read(archive, members[name], member)
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(unpacked)
    return manifest


@contextlib.contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Turn whatever a damaged archive raises into one line."""
    try:
        yield
    except MALFORMED as error:
        text = " ".join(str(error).split())[:300] or type(error).__name__
        raise UsageError(f"{file} is no bundle, or is damaged: {text}") from None


def _members(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """Return the members by name; raise a ValueError where they are too large, or no plain files of a bundle."""
    entries = archive.infolist()
    total = sum(entry.file_size for entry in entries)
    if total > MAX_RATIO * size + FREE_BYTES:
        raise ValueError(f"it would unpack to {total} bytes, more than {MAX_RATIO} times its size")
    found: dict[str, zipfile.ZipInfo] = {}
    for entry in entries:
        name = entry.filename
        sweep, _, own = name.partition("/")
        is_sweeps = SWEEP_ID.fullmatch(sweep) is not None and own in SWEEP_FILES
        if not (name == MANIFEST or is_sweeps or LEDGER_FILE.fullmatch(name)):
            raise ValueError(f"a bundle has no member {name[:100]!r}")
        if len(name.rpartition("/")[2]) > MAX_NAME:
            raise ValueError(f"the name of the member {name[:100]!r} is too long")
        if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
            raise ValueError(f"the member {name[:100]!r} is no regular file")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or entry.flag_bits & 1:
            raise ValueError(f"the member {name[:100]!r} is encrypted, or compressed in another way than by deflate")
        if name in found:
            raise ValueError(f"the member {name[:100]!r} is there twice")
        found[name] = entry
    return found


def _manifest(file: Path, archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo]) -> Manifest:
    """Return the manifest; raise a ValueError where it is none or does not list the members that are there."""
    if MANIFEST not in members:
        raise ValueError(f"it has no {MANIFEST}")
    content = _read(archive, members[MANIFEST])
    try:
        head = json.loads(content)
    except RecursionError:
        raise ValueError(f"{MANIFEST} is nested too deep") from None
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise ValueError(f"{MANIFEST} does not say that it is an {FORMAT}")
    version = head.get("version")
    if type(version) is int and version > VERSION:
        raise UsageError(
            f"cannot read {file}: the version {version} of its format is newer than {VERSION}, which this "
            "program reads; update the program"
        )
    manifest = from_json(Manifest, content)
    if manifest.version != VERSION:
        raise ValueError(f"there is no version {manifest.version} of the format")
    if not SWEEP_ID.fullmatch(manifest.sweep):
        raise ValueError(f"no name of a sweep: {manifest.sweep[:100]!r}")
    wanted = {MANIFEST, *manifest.members}
    odd = sorted(wanted ^ members.keys())
    missing = [name for name in SWEEP_FILES if f"{manifest.sweep}/{name}" not in manifest.members]
    if missing or odd:
        raise ValueError(
            f"it has no {missing[0]} of its sweep" if missing else f"{odd[0][:100]!r} is in the manifest or the "
            "archive only"
        )  # fmt: skip
    return manifest


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, member: Member | None = None) -> bytes:
    """Return a member; raise a ValueError where it is not what the manifest says."""
    if member is not None and member.size != entry.file_size:
        raise ValueError(f"the member {entry.filename[:100]!r} has {entry.file_size} bytes instead of {member.size}")
    with archive.open(entry) as stream:
        # Asked for all of it at once, zipfile would unpack what lies behind the size that the archive tells as well.
        content = b"".join(iter(functools.partial(stream.read, CHUNK), b""))
    if len(content) != entry.file_size:
        raise ValueError(f"the member {entry.filename[:100]!r} is cut off")
    if member is not None and hashlib.sha256(content).hexdigest() != member.sha256:
        raise ValueError(f"the SHA-256 of the member {entry.filename[:100]!r} is another one")
    return content
