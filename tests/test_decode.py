"""Images of more than 8 bits are scaled; those without a defined black and white are refused by name."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from images import png16, tiff
from PIL import Image

from ablate.commands import main
from ablate.errors import DataError
from ablate.tasks import registry
from ablate.tasks.image_classification.config import resolve
from ablate.tasks.image_classification.data import cifar, soundness
from ablate.tasks.image_classification.data.decode import to_rgb
from ablate.tasks.image_classification.data.folders import DataFolders
from ablate.tasks.image_classification.data.prepare import load, prepare

GREY = np.arange(256, dtype=np.uint16).reshape(16, 16)
COLOUR = np.stack([GREY, GREY.T, 255 - GREY], 2)


def written(pixels: np.ndarray, format_: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format_, **options)
    return buffer.getvalue()


def pgm(maximum: int) -> bytes:
    levels = np.round(GREY / 255 * maximum).astype(">u2")
    return f"P5 16 16 {maximum}\n".encode() + levels.tobytes()


SCALED = {
    "png": png16(GREY * 257),
    "png, low byte zero": png16(GREY * 256),
    "png, low byte full": png16(GREY * 256 + 255),
    "png with alpha": png16(np.stack([GREY * 257, np.full_like(GREY, 65535)], 2)),
    "tiff": tiff(GREY * 257),
    "tiff, big-endian": tiff(GREY * 257, order=">"),
    "tiff, 0 is white": tiff(65535 - GREY * 257, photometric=0),
    "tiff of 12 bits": tiff(GREY * 16, bits=12),
    "tiff, compressed": written(GREY * 257, "TIFF", compression="tiff_lzw"),
    "tiff of 8 bits": tiff(GREY.astype(np.uint8)),
    "pgm": pgm(65535),
    "pgm of other levels": pgm(1020),
    "png of 8 bits": written(GREY.astype(np.uint8), "PNG"),
    "jpeg 2000": written(GREY * 257, "JPEG2000"),
}
REFUSED = {
    "signed 8": tiff(GREY.astype(np.int8), kind=2),
    "signed 16": tiff(GREY.astype(np.int16), kind=2),
    "unsigned 32": tiff(GREY.astype(np.uint32)),
    "signed 32": tiff(GREY.astype(np.int32), kind=2),
    "signed 32, big-endian": tiff(GREY.astype(np.int32), kind=2, order=">"),
    "float": tiff(GREY.astype(np.float32) / 255, kind=3),
    "float, big-endian": tiff(GREY.astype(np.float32) / 255, kind=3, order=">"),
}


def decoded(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(to_rgb(image))


@pytest.mark.parametrize("content", SCALED.values(), ids=SCALED)
def test_grey_levels_of_any_width_become_those_of_8_bits(content):
    pixels = decoded(content)
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, np.stack([GREY] * 3, 2))


@pytest.mark.parametrize(
    "content",
    [png16(COLOUR * 257), png16(np.dstack([COLOUR * 257, 65535 - GREY])), tiff(COLOUR * 257),
     tiff(COLOUR * 257, order=">")],
    ids=["png", "png with alpha", "tiff", "tiff, big-endian"],
)  # fmt: skip
def test_colours_of_16_bits_become_those_of_8(content):
    assert np.array_equal(decoded(content), COLOUR)


@pytest.mark.parametrize("content", REFUSED.values(), ids=REFUSED)
def test_pixels_without_a_defined_range_are_refused(content):
    with pytest.raises(ValueError, match=r"its pixels \(mode [LIF], TIFF\) have no defined black and white"):
        decoded(content)


def write_folder(root, content, *, suffix: str, odd: bytes | None = None) -> None:
    """Write two classes of 14 images each and one `odd` training image."""
    for part, num in (("train", 14), ("val", 6)):
        for name, shade in (("dark", 40), ("light", 200)):
            (root / part / name).mkdir(parents=True)
            for index in range(num):
                pixels = np.full((16, 16), shade + index, np.uint16)
                (root / part / name / f"{index:02}{suffix}").write_bytes(content(pixels))
    if odd is not None:
        (root / "train" / "dark" / f"odd{suffix}").write_bytes(odd)


SETTINGS = {"dataset": "image_folder", "image_size": 16, "batch_size": 4, "depth": 8}
SWEEP = """
name: photos
fixed: {dataset: image_folder, image_size: 16, batch_size: 4, epochs: 1}
axes: {depth: [8]}
tune: {lr: {low: 1.0e-3, high: 0.1, log: true}}
budget: {trials_per_cell: 2}
confirm: {seeds: 2}
"""


@pytest.mark.parametrize(
    ("content", "suffix"),
    [(lambda pixels: png16(pixels * 257), ".png"), (lambda pixels: tiff(pixels * 257), ".tiff")],
    ids=["png", "tiff"],
)
def test_a_folder_of_16_bits_holds_what_one_of_8_bits_holds(tmp_path, monkeypatch, content, suffix):
    monkeypatch.setenv("ABLATE_DATA", str(tmp_path))
    monkeypatch.setenv("ABLATE_LOADER_WORKERS", "0")
    write_folder(tmp_path / "image_folder", content, suffix=suffix)
    data = load(prepare(resolve(SETTINGS), tmp_path).path)
    ((images, labels),) = data.test.in_order(12)
    shades = (40 + 160 * labels + torch.arange(6).repeat(2)).to(torch.uint8)
    assert torch.equal(images, shades.view(-1, 1, 1, 1).expand(-1, 3, 16, 16))


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("content", REFUSED.values(), ids=REFUSED)
def test_plan_names_the_file_of_a_folder_that_has_no_defined_range(tmp_path, monkeypatch, content, whole):
    monkeypatch.setenv("ABLATE_DATA", str(tmp_path))
    if not whole:
        monkeypatch.setattr(soundness, "DECODED_BYTES", 0)
    write_folder(tmp_path / "image_folder", lambda p: tiff(p.astype(np.uint8)), suffix=".tif", odd=content)
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    result = CliRunner().invoke(main, ["plan", str(tmp_path / "sweep.yaml"), "--out", str(tmp_path / "runs")])
    assert result.exit_code == 2
    assert "1 of 41 image files below" in result.output
    assert "train/dark/odd.tif (its pixels (mode " in result.output
    assert "have no defined black and white" in result.output
    assert result.output.count("\n") == 1


def write_parquet(path, images, labels, names=None) -> None:
    structs = [{"bytes": b, "path": names[i] if names else None} for i, b in enumerate(images)]
    content = pa.array(structs, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    pq.write_table(pa.table({"img": content, "label": pa.array(labels, pa.int64())}), path)


def test_parquet_files_of_16_bits_hold_what_those_of_8_bits_hold(tmp_path):
    pixels = np.tile(GREY, (2, 2))
    for part in ("train", "test"):
        contents = [png16(pixels * 257), tiff(pixels * 257), written(pixels.astype(np.uint8), "PNG")]
        write_parquet(tmp_path / f"{part}.parquet", contents, [0, 1, 2])
    raw = cifar.load_cifar10(DataFolders(tmp_path, tmp_path / "cache"))
    expected = torch.from_numpy(pixels.astype(np.uint8)).expand(3, 3, 32, 32)
    assert torch.equal(raw.train.images, expected)
    assert torch.equal(raw.test.images, expected)


@pytest.mark.parametrize("content", [np.int32, np.uint32, np.float32])
def test_a_parquet_row_without_a_defined_range_is_named(tmp_path, content):
    pixels = np.tile(GREY, (2, 2))
    odd = tiff(pixels.astype(content), kind={"i": 2, "u": 1, "f": 3}[np.dtype(content).kind])
    for part in ("train", "test"):
        write_parquet(tmp_path / f"{part}.parquet", [png16(pixels), odd], [0, 1], ["a.png", "bird_07.tif"])
    with pytest.raises(DataError, match=r"train.parquet, row 1 \(bird_07.tif\): .* have no defined black and white"):
        cifar.load_cifar10(DataFolders(tmp_path, tmp_path / "cache"))


def test_trials_on_folders_of_before_are_not_taken_for_those_of_now():
    assert registry.get("dataset", "image_folder").stamp == "image_folder@2"
    # Of these the digest is over the pixels.
    for name in ("digits", "fashion_mnist", "cifar10", "cifar100"):
        assert registry.get("dataset", name).version == 1
