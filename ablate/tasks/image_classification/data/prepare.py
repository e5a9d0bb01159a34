"""From raw files to the one prepared file that every worker reads."""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import io
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from ablate.errors import DataError
from ablate.storage import open_file, write_atomically
from ablate.tasks.image_classification.config import TrialConfig
from ablate.tasks.image_classification.data.dataset import Dataset, Images, RawImages, Split
from ablate.tasks.image_classification.data.folders import DataFolders
from ablate.tasks.image_classification.data.image_folder import DEFAULT_SIZE, MEAN, STD, ImageFiles
from ablate.tasks.image_classification.data.labels import absent_classes, check_labels
from ablate.tasks.image_classification.data.soundness import check_files, check_tensors
from ablate.tasks.image_classification.data.splits import split_images
from ablate.tasks.image_classification.data.tensors import read_tensors

FORMAT = 2
"""Version of the prepared file and of how it is made; raise it when either changes."""

STD_FLOOR = 1 / 255
"""Smallest standard deviation, one grey level: a constant channel must not be divided by zero."""

_PARTS = ("train", "val", "test")
_CHUNK = 4096  # images; bounds the memory of the float copy that downscaling makes

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparedData:
    """Where the prepared file of a data set lies and what is in it.

    `image_shape` is (channels, height, width), or the shape of one item. `test_counts` are the test images of each
    class, in the order of the labels. `absent` names the classes that have no validation or no test image.
    """

    path: Path
    digest: str
    dataset: str
    num_train: int
    num_val: int
    num_test: int
    num_classes: int
    image_shape: tuple[int, ...]
    test_counts: tuple[int, ...] = ()
    absent: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def prepare(config: TrialConfig, cache: Path) -> PreparedData:
    """Return the prepared data of a configuration; make the file if it is not there.

    Of the configuration, dataset, image_size, num_train and num_val matter. The file is
    cache/<dataset>-<hash of these>-<hash of the raw files>.pt, so other raw files make another one and leave this to
    those who read it; the second hash is missing where the data set's row does not say which files it reads. The cache
    also takes downloads. A damaged file is made again. Where the raw files are gone, the newest copy of them is used.

    Raises:
        DataError: The raw data is not found or damaged, or the configuration asks for more than there is.
    """
    folders = DataFolders.from_environment(cache)
    sources = _sources_hash(config, folders)
    path = _path(config, cache, sources)
    if sources == "" and (kept := _newest_copy(config, cache)):
        path = kept
        if folders.given is not None:
            _logger.warning(
                "ABLATE_DATA is %s, where the data set '%s' is not found: its copy %s is used",
                folders.given, config.dataset, path,
            )  # fmt: skip
    if path.exists():
        try:
            data = load(path)
            if _digest(data.train, data.val, data.test) != data.digest:
                raise DataError("its digest is wrong")
            return _describe(path, data)
        except DataError as error:
            _logger.warning("making %s again: %s", path, error)
    data = _make(config, folders)
    if sources == "":  # Now they are downloaded.
        path = _path(config, cache, _sources_hash(config, folders))
    _save(path, data)
    return _describe(path, data)


def load(path: Path) -> Dataset:
    """Return the data set of a prepared file, on the CPU.

    Raises:
        DataError: The file is missing or damaged, or another version of the project wrote it.
    """
    try:
        with open_file(path) as file:
            content: dict[str, Any] = read_tensors(file, torch.device("cpu"))
        if content["format"] != FORMAT:
            raise DataError(f"{path} has format {content['format']}, but this version reads format {FORMAT}")
        train, val, test = (_read_part(content, part) for part in _PARTS)
        fields = {name: content[name] for name in ("name", "num_classes", "mean", "std", "digest")}
        # Files of before have none, and resized images do not tell what they were: these count as others then.
        fields["test_digest"] = content.get("test_digest") or _test_digest(test)
        return Dataset(train=train, val=val, test=test, class_names=tuple(content["class_names"]), **fields)
    except DataError:
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise DataError(f"cannot read the prepared data {path}: {type(error).__name__}: {reason}") from error


def _read_part(content: dict[str, Any], part: str) -> Images:
    if f"{part}_paths" not in content:
        return Split(content[f"{part}_images"], content[f"{part}_labels"])
    root, paths, labels, size = (content[f"{part}_{field}"] for field in ("root", "paths", "labels", "size"))
    return ImageFiles(root, tuple(paths), labels, size)


def _path(config: TrialConfig, cache: Path, sources: str | None) -> Path:
    suffix = f"-{sources}" if sources else ""
    return cache / f"{config.dataset}-{_parameters_hash(config)}{suffix}.pt"


def _newest_copy(config: TrialConfig, cache: Path) -> Path | None:
    """Return the newest prepared file of a configuration, whatever raw files it was made from."""
    pattern = glob.escape(f"{config.dataset}-{_parameters_hash(config)}") + "*.pt"
    return max(cache.glob(pattern), key=lambda path: path.stat().st_mtime_ns, default=None)


def _sources_hash(config: TrialConfig, folders: DataFolders) -> str | None:
    """Return a hash of the paths, sizes and times of the raw files, "" without any, None where they are not known.

    It says whether raw data has to be looked at again; what the data is, the digest says.
    """
    sources = config.row("dataset").load_sources()
    if sources is None:
        return None
    digest, is_empty = hashlib.sha256(), True
    for path in sources(folders):
        is_empty = False
        try:
            found = os.stat(path)
            state = f"{found.st_size}\0{found.st_mtime_ns}"
        except OSError as error:
            state = str(error.strerror)
        digest.update(os.fsencode(os.path.abspath(path)) + f"\0{state}\n".encode())
    return "" if is_empty else digest.hexdigest()[:16]


def _parameters_hash(config: TrialConfig) -> str:
    content = [FORMAT, config.row("dataset").stamp, config.image_size, config.num_train, config.num_val]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _describe(path: Path, data: Dataset) -> PreparedData:
    return PreparedData(
        path=path,
        digest=data.digest,
        dataset=data.name,
        num_train=len(data.train),
        num_val=len(data.val),
        num_test=len(data.test),
        num_classes=data.num_classes,
        image_shape=data.image_shape,
        test_counts=tuple(_counts(data.test, data.num_classes)),
        absent={part: names for part, split in (("validation", data.val), ("test", data.test))
                if (names := tuple(absent_classes(split, data.num_classes, data.class_names)))},
    )  # fmt: skip


def _counts(split: Images, num_classes: int) -> list[int]:
    return torch.bincount(split.labels, minlength=num_classes).tolist()


def _make(config: TrialConfig, folders: DataFolders) -> Dataset:
    raw: RawImages = config.row("dataset").load()(folders)
    check_tensors(config.dataset, raw)
    num_classes = check_labels(config.dataset, raw)
    check_files(split for split in (raw.train, raw.test) if isinstance(split, ImageFiles))
    splits = split_images(config.dataset, raw, num_train=config.num_train, num_val=config.num_val)
    train, val, test = (_resized(split, config) for split in splits)
    mean, std = _statistics(train.images) if isinstance(train, Split) else (torch.tensor(MEAN), torch.tensor(STD))
    return Dataset(
        name=config.dataset, train=train, val=val, test=test, num_classes=num_classes,
        mean=mean, std=std, digest=_digest(train, val, test), class_names=raw.class_names,
        test_digest=_test_digest(splits[-1]),
    )  # fmt: skip


def _resized(split: Images, config: TrialConfig) -> Images:
    """Return the images at image_size; files are cropped to it when they are decoded. Floats come in float32."""
    if isinstance(split, ImageFiles):
        return dataclasses.replace(split, size=config.image_size or DEFAULT_SIZE)
    return Split(_downscale(split.images, config), split.labels) if isinstance(split, Split) else split


def _downscale(images: torch.Tensor, config: TrialConfig) -> torch.Tensor:
    """Return the images averaged down to image_size, rounded to uint8; each output pixel is the mean of its area."""
    if images.is_floating_point():
        if config.image_size is not None:
            raise DataError(
                f"image_size averages uint8 images down, but the data set '{config.dataset}' has floats of shape "
                f"{tuple(images.shape[1:])}: leave it out"
            ).about("image_size")
        return images.float()
    size, (height, width) = config.image_size, images.shape[2:]
    if size is None or size == height == width:
        return images
    if size > min(height, width):
        raise DataError(
            f"image_size must be at most {min(height, width)}, the size of the images of the data set "
            f"'{config.dataset}', because images are only averaged down; but got {size}"
        ).about("image_size")
    chunks = [F.interpolate(chunk.float(), size=(size, size), mode="area") for chunk in torch.split(images, _CHUNK)]
    return torch.cat([chunk.round().to(torch.uint8) for chunk in chunks])


def _statistics(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation of each channel of images/255, or of floats, both (channels,), float32.

    They are computed from exact counts of the grey levels, so they do not depend on the number of threads.
    """
    if images.is_floating_point():
        return _float_statistics(images)
    levels = torch.arange(256, dtype=torch.float64) / 255
    counts = torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in images.unbind(1)])
    shares = counts / counts.sum(dim=1, keepdim=True, dtype=torch.float64)
    mean = shares @ levels
    variance = (shares * (levels - mean.unsqueeze(1)) ** 2).sum(dim=1)
    return mean.float(), variance.sqrt().clamp(min=STD_FLOOR).float()


def _float_statistics(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation along the first dimension of the items; 1 where all values are equal.

    In float64 and by numpy, whose sums do not depend on the number of threads.
    """
    columns = [column.numpy().astype("float64").ravel() for column in values.unbind(1)]
    mean = torch.tensor([float(column.mean()) for column in columns])
    std = [float(column.std()) if column.min() < column.max() else 1.0 for column in columns]
    return mean, torch.tensor(std).clamp(min=torch.finfo(torch.float32).tiny)


def _digest(*splits: Images) -> str:
    """Return 16 hex digits of the SHA-256 over what identifies each split."""
    digest = hashlib.sha256()
    for split in splits:
        for content in split.identity():
            digest.update(content)
    return digest.hexdigest()[:16]


def _test_digest(split: Images) -> str:
    """Return 16 hex digits over test images and labels that do not depend on image_size; floats count in float32."""
    if isinstance(split, ImageFiles):
        split = dataclasses.replace(split, size=DEFAULT_SIZE)
    elif isinstance(split, Split) and split.images.is_floating_point():
        split = Split(split.images.float(), split.labels)
    return _digest(split)


def _save(path: Path, data: Dataset) -> None:
    content: dict[str, Any] = {
        "format": FORMAT,
        "name": data.name,
        "num_classes": data.num_classes,
        "mean": data.mean,
        "std": data.std,
        "digest": data.digest,
        "test_digest": data.test_digest,
        "class_names": list(data.class_names),
    }
    for part in _PARTS:
        split: Images = getattr(data, part)
        content.update({f"{part}_{name}": value for name, value in split.fields().items()})
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, buffer.getvalue())
