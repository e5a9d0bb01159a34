"""Where files lie: a folder of a file system, or a prefix in an S3-compatible object store, through pyarrow.

`ObjectPath` has those methods of `pathlib.Path` that Ablate uses, so that code works on a `Place` and seldom asks
which of the two it is. What must differ (how a file is written whole, how a folder is locked) is in `storage.py`.
"""

from __future__ import annotations

import fnmatch
import functools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ablate.errors import UsageError

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

SCHEME = "s3://"


class PlaceError(UsageError, OSError):
    """An object store does not answer or refuses."""


_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


@dataclass(frozen=True, order=True)
class ObjectPath:
    """The name of an object, or of a prefix of objects: `path` is bucket/key.

    Endpoint, region and credentials come from the environment as usual (AWS_ENDPOINT_URL, AWS_DEFAULT_REGION,
    AWS_ACCESS_KEY_ID, …) and are never part of it. Whatever the store refuses raises PlaceError.
    """

    path: str

    def __str__(self) -> str:
        return SCHEME + self.path

    def __truediv__(self, name: str) -> ObjectPath:
        return ObjectPath(f"{self.path}/{name}")

    @property
    def name(self) -> str:
        """The last part."""
        return PurePosixPath(self.path).name

    @property
    def stem(self) -> str:
        """The last part without its ending."""
        return PurePosixPath(self.path).stem

    @property
    def parent(self) -> ObjectPath:
        """The prefix it lies under."""
        return ObjectPath(str(PurePosixPath(self.path).parent))

    def with_name(self, name: str) -> ObjectPath:
        """Return its neighbour of another name."""
        return self.parent / name

    def resolve(self) -> ObjectPath:
        """Return itself: it is absolute."""
        return self

    def exists(self) -> bool:
        """Whether there is an object of this name."""
        return bool(self._info().is_file)

    def read_bytes(self) -> bytes:
        """Return the object.

        Raises:
            FileNotFoundError: There is none.
        """
        try:
            with self._store().open_input_stream(self.path) as stream:
                return bytes(stream.read())
        except OSError as error:
            raise self._told(error) from None

    def read_text(self, encoding: str = "utf-8") -> str:
        """Return the object, decoded."""
        return self.read_bytes().decode(encoding)

    def put(self, content: bytes) -> None:
        """Write the object: whole or not at all, and for every reader after it."""
        try:
            with self._store().open_output_stream(self.path) as stream:
                stream.write(content)
        except OSError as error:
            raise self._told(error) from None

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete the object."""
        try:
            self._store().delete_file(self.path)
        except FileNotFoundError:
            if not missing_ok:
                raise
        except OSError as error:
            raise self._told(error) from None

    def glob(self, pattern: str) -> Iterator[ObjectPath]:
        """Yield the objects below whose names match, one part of the pattern for each part of the name."""
        from pyarrow.fs import FileSelector

        wanted = pattern.split("/")
        # One level and a question for each folder, where all names below would be many more: the ledger's.
        has_fixed_name = len(wanted) == 2 and "*" not in wanted[1]
        selector = FileSelector(self.path, recursive=not has_fixed_name, allow_not_found=True)
        try:
            found = self._store().get_file_info(selector)
            if has_fixed_name:
                found = self._store().get_file_info([f"{folder.path}/{wanted[1]}" for folder in found])
        except OSError as error:
            raise self._told(error) from None
        for info in found:
            parts = info.path[len(self.path) + 1 :].split("/")
            if (
                info.is_file
                and len(parts) == len(wanted)
                and all(fnmatch.fnmatchcase(*pair) for pair in zip(parts, wanted, strict=True))
            ):
                yield ObjectPath(info.path)

    def _store(self) -> FileSystem:
        return _store(self.path.partition("/")[0])

    def _info(self) -> Any:
        try:
            return self._store().get_file_info(self.path)
        except OSError as error:
            raise self._told(error) from None

    def _told(self, error: OSError) -> OSError:
        """Return the error to raise: pyarrow's own text is long and names the endpoint."""
        if isinstance(error, PlaceError):
            return error
        if isinstance(error, FileNotFoundError):
            return FileNotFoundError(f"there is no {self}")
        text, bucket = str(error), self.path.partition("/")[0]
        if "NO_SUCH_BUCKET" in text:
            return _no_bucket(bucket)
        if re.search("ACCESS_DENIED|INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH|HTTP status 40[13]", text):
            return PlaceError(
                f"the S3 store refuses access to {self}: check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the rights"
            )
        if "NETWORK_CONNECTION" in text:
            return PlaceError(f"cannot reach the S3 store for {self}: check AWS_ENDPOINT_URL and the network")
        code = re.search(r"AWS Error (\w+)", text)
        reason = code[1].lower().replace("_", " ") if code else text.partition("\n")[0]
        return PlaceError(f"the S3 store failed at {self}: {reason}")


Place = Path | ObjectPath
"""A file or folder, wherever it lies."""


def to_place(text: str) -> Place:
    """Return what a text names: s3://BUCKET/PREFIX, or else a path.

    Raises:
        UsageError: It is another URL, or one with more in it than bucket and prefix.
    """
    if "://" not in text:
        return Path(text)
    bucket, _, prefix = text.removeprefix(SCHEME).rstrip("/").partition("/")
    is_plain = text.startswith(SCHEME) and _BUCKET.fullmatch(bucket) is not None
    if not is_plain or re.search(r"[?#\\]", prefix) or any(part in ("", ".", "..") for part in prefix.split("/")):
        # Not shown whole: it may hold a password.
        raise UsageError(
            "a folder must be a path or s3://BUCKET/PREFIX; endpoint and credentials come from the environment "
            f"(AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY); got {text.partition('://')[0]}://…"
        )
    return ObjectPath(f"{bucket}/{prefix}")


def local_view(place: Place) -> Path:
    """Return the folder on this machine for what need not outlive it: prepared data, MLflow's default store, views.

    For a path it is the path itself; for s3://BUCKET/PREFIX it is BUCKET/PREFIX below ~/.cache/ablate.
    """
    if isinstance(place, Path):
        return place
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "ablate" / place.path


@functools.cache
def _store(bucket: str) -> FileSystem:
    from pyarrow.fs import AwsStandardS3RetryStrategy, FileType, S3FileSystem

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    store = S3FileSystem(
        endpoint_override=endpoint,
        # Small objects in one request, which is whole or not at all.
        allow_delayed_open=True,
        connect_timeout=10,
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=5),
    )
    # Asked once, because an object of a bucket that is missing is only "not found".
    if store.get_file_info(bucket).type == FileType.NotFound:
        raise _no_bucket(bucket)
    return store


def _no_bucket(bucket: str) -> PlaceError:
    return PlaceError(f"there is no bucket '{bucket}' at the S3 endpoint (AWS_ENDPOINT_URL)")
