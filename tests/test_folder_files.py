"""What other programs leave in a folder is no data, and what cannot be read is told by name before training."""

import os
import shutil

import pytest
import torch
from click.testing import CliRunner
from images import encoded, write_parquet
from PIL import Image
from torchvision.datasets import ImageFolder

from ablate.commands import main
from ablate.errors import DataError
from ablate.tasks.image_classification.config import resolve
from ablate.tasks.image_classification.data import cifar, image_folder, soundness
from ablate.tasks.image_classification.data.folders import DataFolders
from ablate.tasks.image_classification.data.prepare import load, prepare

CLASSES = ("cat", "dog")
SETTINGS = {"dataset": "image_folder", "image_size": 16}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder of 12 training and 4 test images a class."""
    monkeypatch.setenv("ABLATE_DATA", str(tmp_path / "given"))
    folder = tmp_path / "given" / "image_folder"
    for part, num in (("train", 12), ("val", 4)):
        for name in CLASSES:
            (folder / part / name).mkdir(parents=True)
            for index in range(num):
                Image.new("RGB", (20, 20), (index, 90, 0)).save(folder / part / name / f"{index:02}.png")
    return folder


def digest(tmp_path) -> str:
    """Prepare the folder anew."""
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    return prepare(resolve(SETTINGS), tmp_path / "cache").digest


def add(path, content: bytes | None = None) -> None:
    """Write a file that looks like an image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(9) if content is None else content)


def test_names_that_begin_with_a_dot_are_no_data(root, tmp_path):
    before = digest(tmp_path)
    for name in (
        "train/.ipynb_checkpoints/0-checkpoint.png", "val/.ipynb_checkpoints/0-checkpoint.png", "train/.Trash/x.png",
        "train/cat/._00.png", "train/dog/.hidden.jpg", "val/dog/._00.png", "train/cat/.ipynb_checkpoints/00.png",
        "train/cat/more/.thumbnails/00.png", "train/.DS_Store", "train/cat/.DS_Store", ".git/x.png",
    ):  # fmt: skip
        add(root / name)
    (root / "train" / ".cache").mkdir()
    raw = image_folder.load(DataFolders.from_environment(tmp_path))
    assert raw.class_names == CLASSES
    assert len(raw.train) == 24
    assert len(raw.test) == 8
    assert digest(tmp_path) == before


def test_a_folder_below_one_whose_name_begins_with_a_dot_is_data(root, tmp_path, monkeypatch):
    before = digest(tmp_path)
    shutil.copytree(root.parent, tmp_path / ".cache" / "given")
    monkeypatch.setenv("ABLATE_DATA", str(tmp_path / ".cache" / "given"))
    assert digest(tmp_path) == before


def test_files_come_in_torchvisions_order(root, tmp_path):
    for name in ("cat/b/1.PNG", "cat/a/2.Jpeg", "cat/a-b/0.tif", "cat/A.webp", "dog/notes.txt", "dog/x.gif"):
        add(root / "train" / name)
    theirs = [(os.path.relpath(path, root), label) for path, label in ImageFolder(root / "train").samples]
    train = image_folder.load(DataFolders.from_environment(tmp_path)).train
    assert list(zip(train.paths, train.labels.tolist(), strict=True)) == theirs
    assert len(theirs) == 28


SWEEP = """
name: photos
fixed: {dataset: image_folder, image_size: 16, batch_size: 4, epochs: 1}
axes: {depth: [8]}
tune: {lr: {low: 1.0e-3, high: 0.1, log: true}}
budget: {trials_per_cell: 2}
confirm: {seeds: 2}
"""


def plan(tmp_path):
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    return CliRunner().invoke(main, ["plan", str(tmp_path / "sweep.yaml"), "--out", str(tmp_path / "r"), "--no-probe"])


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("part", ["train", "val"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "is empty"), (b"no image", "no image that can be identified"), (b"\x89PNG\r\n\x1a\n", "no image that can"),
     (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no image that can be identified")],
)  # fmt: skip
def test_plan_names_files_that_are_no_images(root, tmp_path, monkeypatch, whole, part, content, reason):
    if not whole:
        monkeypatch.setattr(soundness, "DECODED_BYTES", 0)
    add(root / part / "dog" / "odd one.jpg", content)
    result = plan(tmp_path)
    assert result.exit_code == 2
    assert f"1 of 33 image files below {root} cannot be used: {part}/dog/odd one.jpg ({reason}" in result.output
    assert result.output.count("\n") == 1


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp", "webp", "ppm"])
def test_plan_names_files_of_a_small_folder_that_are_cut_off(root, tmp_path, suffix):
    path = root / "train" / "cat" / f"cut.{suffix}"
    noise = torch.randint(0, 256, (40, 40, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    Image.fromarray(noise.numpy()).save(path)
    path.write_bytes(path.read_bytes()[:-900])
    result = plan(tmp_path)
    assert result.exit_code == 2
    assert f"cannot be used: train/cat/cut.{suffix} (" in result.output


def test_what_is_no_file_is_named_and_not_waited_for(root, tmp_path):
    os.mkfifo(root / "train" / "cat" / "pipe.png")
    (root / "train" / "dog" / "gone.png").symlink_to(root / "nowhere.png")
    result = plan(tmp_path)
    assert result.exit_code == 2
    assert "2 of 34 image files" in result.output
    assert "train/cat/pipe.png (is no regular file), train/dog/gone.png (No such file or directory)" in result.output


@pytest.mark.parametrize(
    ("link", "target", "named", "kind"),
    [
        ("train/cat/up", "..", ("train/cat/up", "train"), "folder"),
        ("train/cat/self", ".", ("train/cat/self", "train/cat"), "folder"),
        ("train/cat/top", "../..", ("train/cat/top", ""), "folder"),
        ("train/cat/above", "../../..", ("train/cat/above", ".."), "folder"),
        ("train/cat/more", "../dog", ("train/dog", "train/cat/more"), "folder"),
        ("train/dog/more", "../cat", ("train/dog/more", "train/cat"), "folder"),
        ("train/dog/tests", "../../val/dog", ("val/dog", "train/dog/tests"), "folder"),
        ("train/dog/x.png", "../cat/00.png", ("train/dog/x.png", "train/cat/00.png"), "file"),
        ("train/cat/x.png", "00.png", ("train/cat/x.png", "train/cat/00.png"), "file"),
        ("val/cat/x.png", "../../train/cat/00.png", ("val/cat/x.png", "train/cat/00.png"), "file"),
    ],
)
def test_a_link_to_images_that_are_there_already_is_named_with_them(root, tmp_path, link, target, named, kind):
    (root / link).symlink_to(target)
    one, other = (os.path.normpath(f"{root}/{name}") for name in named)
    result = plan(tmp_path)
    assert result.exit_code == 2, result.output
    assert f"{one} and {other} are the same {kind}, so its images would be used twice: remove" in result.output
    assert result.output.count("\n") == 1


def test_equal_images_that_a_store_keeps_once_are_two(root, tmp_path):
    os.link(root / "train" / "cat" / "00.png", root / "train" / "dog" / "hard.png")
    shutil.move(root / "train" / "cat" / "01.png", tmp_path / "object")
    for name in ("01.png", "again.png"):
        (root / "train" / "cat" / name).symlink_to(tmp_path / "object")
    assert prepared(tmp_path).num_train + prepared(tmp_path).num_val == 26


def test_a_split_that_is_the_other_one_is_refused(root, tmp_path):
    shutil.rmtree(root / "val")
    (root / "val").symlink_to("train")
    with pytest.raises(DataError, match=r"/val and .*/train are the same folder"):
        digest(tmp_path)


def prepared(tmp_path):
    """Prepare the folder beside what was prepared before."""
    return prepare(resolve(SETTINGS), tmp_path / "cache")


def test_prepared_data_follows_the_folder(root, tmp_path, monkeypatch):
    first = prepared(tmp_path)
    assert prepared(tmp_path) == first
    add(root / "train" / "cat" / "new.png")
    more = prepared(tmp_path)
    assert more.digest != first.digest
    assert more.num_train + more.num_val == 25
    for part in ("train", "val"):
        shutil.copytree(root / part / "dog", root / part / "owl")
    assert prepared(tmp_path).num_classes == 3
    # A sweep that is under way still has what it was prepared for.
    assert load(first.path).digest == first.digest
    for part in ("train", "val"):
        shutil.rmtree(root / part / "owl")
    (root / "train" / "cat" / "new.png").unlink()
    assert prepared(tmp_path) == first
    shutil.rmtree(root)
    with pytest.raises(DataError, match=r"no image folder found: .* \(ABLATE_DATA is .*given\)$"):
        prepared(tmp_path)
    monkeypatch.delenv("ABLATE_DATA")
    with pytest.raises(DataError, match=r"no image folder found: .* \(ABLATE_DATA is not set\)$"):
        prepared(tmp_path)


def test_prepared_data_follows_ablate_data(root, tmp_path, monkeypatch):
    first = prepared(tmp_path)
    shutil.copytree(root.parent, tmp_path / "other")
    monkeypatch.setenv("ABLATE_DATA", str(tmp_path / "other"))
    same = prepared(tmp_path)
    assert same.digest == first.digest
    assert load(same.path).train.root == str(tmp_path / "other" / "image_folder")
    (tmp_path / "other" / "image_folder" / "train" / "cat" / "00.png").unlink()
    assert prepared(tmp_path).digest != first.digest
    monkeypatch.setenv("ABLATE_DATA", str(root.parent))
    assert prepared(tmp_path) == first
    assert load(first.path).train.root == str(root)


def test_links_to_what_lies_elsewhere_are_followed(root, tmp_path):
    before = digest(tmp_path)
    for name in ("train/cat", "val/dog"):
        shutil.move(root / name, tmp_path / "elsewhere" / name)
        (root / name).symlink_to(tmp_path / "elsewhere" / name)
    shutil.move(root / "train" / "dog" / "00.png", tmp_path / "elsewhere" / "00.png")
    (root / "train" / "dog" / "00.png").symlink_to(tmp_path / "elsewhere" / "00.png")
    assert digest(tmp_path) == before


def test_many_bad_files_are_one_line(root, tmp_path):
    for index in range(40):
        add(root / "train" / "cat" / f"line\nbreak {index}.png", b"")
    result = plan(tmp_path)
    assert result.exit_code == 2
    assert "40 of 72 image files" in result.output
    assert "train/cat/line?break 0.png (is empty)" in result.output
    assert " and 30 more. Remove or replace them" in result.output
    assert result.output.count("\n") == 1


def test_a_file_that_becomes_empty_after_a_plan_is_named_by_the_next(root, tmp_path):
    assert plan(tmp_path).exit_code == 0
    (root / "val" / "cat" / "00.png").write_bytes(b"")
    result = plan(tmp_path)
    assert result.exit_code == 2
    assert "val/cat/00.png (is empty)" in result.output


def test_of_large_folders_headers_are_read_evenly(root, tmp_path, monkeypatch):
    monkeypatch.setattr(soundness, "DECODED_BYTES", 0)
    monkeypatch.setattr(soundness, "NUM_HEADERS", 8)
    seen = []
    fault = soundness._fault
    monkeypatch.setattr(soundness, "_fault", lambda file, whole: seen.append((file, whole)) or fault(file, whole))
    digest(tmp_path)
    assert [os.path.relpath(file, root) for file, _ in seen] == [
        f"{part}/{name}/{index:02}.png" for part, name, index in (
            ("train", "cat", 0), ("train", "cat", 4), ("train", "cat", 8), ("train", "dog", 0), ("train", "dog", 4),
            ("train", "dog", 8), ("val", "cat", 0), ("val", "dog", 0),
        )
    ]  # fmt: skip
    assert not any(whole for _, whole in seen)
    (root / "val" / "dog" / "03.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"val/dog/03.png \(is empty\)"):
        digest(tmp_path)


def test_a_name_that_is_no_text_is_a_file_like_any_other(root, tmp_path):
    before = digest(tmp_path)
    path = os.fsencode(root / "train" / "cat") + b"/\xff\xfe.png"
    shutil.copy(root / "train" / "cat" / "00.png", path)
    assert digest(tmp_path) != before
    with open(path, "wb"):
        pass
    with pytest.raises(DataError, match=r"train/cat/\?\?.png \(is empty\)"):
        digest(tmp_path)


def test_a_class_without_images_is_named(root, tmp_path):
    for part in ("train", "val"):
        (root / part / "owl").mkdir()
    add(root / "train" / "owl" / "._00.png")
    with pytest.raises(DataError, match=r"train/owl has no image file; images end in \.jpg, .*\.webp"):
        digest(tmp_path)


def test_parquet_files_that_begin_with_a_dot_are_no_data(tmp_path):
    folder = tmp_path / "cifar10"
    for part in ("train", "test"):
        write_parquet(folder / "data" / f"{part}-0.parquet", [encoded(1), encoded(2)], [0, 1])
        for name in ("._{}-0.parquet", ".cache/{}-0.parquet", "data/.ipynb_checkpoints/{}-0-checkpoint.parquet"):
            add(folder / name.format(part), b"nothing")
        add(folder / "data" / f"._{part}-0.parquet", b"")
    raw = cifar.load_cifar10(DataFolders(tmp_path, tmp_path / "cache"))
    assert (len(raw.train), len(raw.test)) == (2, 2)
