import gzip
import hashlib
import logging
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision.datasets
from images import encoded, idx_bytes, write_parquet

import ablate
from ablate.errors import DataError
from ablate.seeds import derive_seed
from ablate.tasks import registry
from ablate.tasks.image_classification.config import resolve
from ablate.tasks.image_classification.data import cifar, fashion_mnist, prepare
from ablate.tasks.image_classification.data.augment import crop_flip
from ablate.tasks.image_classification.data.dataset import RawImages, Split
from ablate.tasks.image_classification.data.folders import DataFolders
from ablate.tasks.image_classification.training.trainer import Trainer

# It enters the fingerprint of every trial on digits: a change makes all of them run again.
DIGITS_DIGEST = "b696a759885b328a"


@pytest.fixture(autouse=True)
def no_outside_data(monkeypatch, tmp_path):
    """Neither the machine's data nor the network: what a test reads, it has written."""

    def refuse(self):
        raise URLError("no network in tests")

    monkeypatch.delenv("ABLATE_DATA", raising=False)
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "no-debian")
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", refuse)
    monkeypatch.setattr(torchvision.datasets.MNIST, "download", refuse)


def random_split(num: int, *, shape: tuple[int, ...] = (3, 8, 8), num_classes: int = 4, seed: int = 0) -> Split:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (num, *shape), generator=generator).to(torch.uint8)
    return Split(images, torch.arange(num) % num_classes)


@pytest.fixture
def register(monkeypatch):
    """Register a data set row `toy` with a loader; return the list of calls to it."""

    def add(raw: RawImages) -> list[DataFolders]:
        calls: list[DataFolders] = []

        def load(folders: DataFolders) -> RawImages:
            calls.append(folders)
            return raw

        row = registry.Row(kind="dataset", name="toy", target=load, summary="random images")
        monkeypatch.setitem(registry._rows["dataset"], "toy", row)
        return calls

    return add


def toy(**settings):
    return resolve({"dataset": "toy", **settings})


def rows_of(images: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


# The split.


def test_digits_split_is_fixed_stratified_and_disjoint(tmp_path):
    prepared = prepare.prepare(resolve({}), tmp_path)
    assert (prepared.num_train, prepared.num_val, prepared.num_test) == (1077, 360, 360)
    assert (prepared.num_classes, prepared.image_shape, prepared.dataset) == (10, (1, 8, 8), "digits")
    assert prepared.digest == DIGITS_DIGEST
    data = prepare.load(prepared.path)
    for split in (data.train, data.val, data.test):
        counts = torch.bincount(split.labels, minlength=10) / len(split)
        assert counts.tolist() == pytest.approx([0.1] * 10, abs=0.01)
    assert int(data.train.images.max()) == 240
    parts = [rows_of(split.images) for split in (data.train, data.val, data.test)]
    assert len(set.union(*parts)) == sum(map(len, parts))


def test_another_process_makes_the_same_digits(tmp_path):
    script = (
        "import sys; from pathlib import Path;"
        "from ablate.tasks.image_classification.config import resolve;"
        "from ablate.tasks.image_classification.data.prepare import prepare;"
        "print(prepare(resolve({'num_train': 500}), Path(sys.argv[1])).digest)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(ablate.__file__).parents[1]), "PYTHONHASHSEED": "7"}
    output = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "other")],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert output.stdout.strip() == prepare.prepare(resolve({"num_train": 500}), tmp_path / "own").digest


def test_validation_and_test_images_do_not_depend_on_num_train(tmp_path):
    whole = prepare.load(prepare.prepare(resolve({}), tmp_path).path)
    small = prepare.load(prepare.prepare(resolve({"num_train": 100}), tmp_path).path)
    assert torch.equal(whole.val.images, small.val.images)
    assert torch.equal(whole.test.images, small.test.images)
    assert torch.bincount(small.train.labels).tolist() == pytest.approx([10] * 10, abs=1)
    assert rows_of(small.train.images) < rows_of(whole.train.images)
    assert whole.digest != small.digest


def test_official_test_set_is_kept_and_num_val_overrides_the_loader(tmp_path, register):
    raw = RawImages(random_split(200), random_split(40, seed=1), num_val=20)
    register(raw)
    own = prepare.prepare(toy(), tmp_path)
    assert (own.num_train, own.num_val, own.num_test) == (180, 20, 40)
    data = prepare.load(own.path)
    assert torch.equal(data.test.images, raw.test.images)
    assert torch.equal(data.test.labels, raw.test.labels)
    asked = prepare.prepare(toy(num_val=50, num_train=100), tmp_path)
    assert (asked.num_train, asked.num_val, asked.num_test) == (100, 50, 40)


def test_all_available_training_images_may_be_named(tmp_path, register):
    register(RawImages(random_split(200), random_split(40, seed=1), num_val=20))
    assert prepare.prepare(toy(num_train=180), tmp_path).digest == prepare.prepare(toy(), tmp_path).digest


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"num_train": 181},
            "num_train must be between 4 and 176 for the data set 'toy', which has 180 images .* got 181",
        ),
        ({"num_train": 178}, "or 180, which is all of them; but got 178"),
        ({"num_val": 197}, "num_val must be between 4 and 196 for the data set 'toy', which has 200 images .* got 197"),
        ({"image_size": 9}, "image_size must be at most 8, the size of the images of the data set 'toy'.*but got 9"),
    ],
)
def test_more_than_there_is_is_refused(tmp_path, register, settings, message):
    register(RawImages(random_split(200), random_split(40), num_val=20))
    with pytest.raises(DataError, match=message):
        prepare.prepare(toy(**settings), tmp_path)
    assert not list(tmp_path.glob("*.pt"))


def test_a_class_with_one_image_cannot_be_split(tmp_path, register):
    labels = torch.tensor([0] * 30 + [1] * 30 + [2])
    register(RawImages(Split(torch.zeros(61, 1, 8, 8, dtype=torch.uint8), labels), None, num_val=10))
    with pytest.raises(DataError, match=r"cannot split the data set 'toy' by class: .*only 1 member"):
        prepare.prepare(toy(), tmp_path)


# Size, statistics, digest.


def test_images_are_averaged_down_and_rounded(tmp_path, register):
    raw = RawImages(random_split(100, shape=(2, 8, 8)), random_split(20, shape=(2, 8, 8), seed=1), num_val=20)
    register(raw)
    prepared = prepare.prepare(toy(image_size=4), tmp_path)
    assert prepared.image_shape == (2, 4, 4)
    data = prepare.load(prepared.path)
    blocks = raw.test.images.double().view(20, 2, 4, 2, 4, 2).mean(dim=(3, 5))
    assert data.test.images.dtype == torch.uint8
    assert torch.equal(data.test.images, blocks.round().to(torch.uint8))


def test_sizes_that_do_not_divide_average_over_areas(tmp_path, register):
    images = torch.full((40, 1, 28, 28), 77, dtype=torch.uint8)
    register(RawImages(Split(images, torch.arange(40) % 2), None, num_val=10))
    data = prepare.load(prepare.prepare(toy(image_size=16), tmp_path).path)
    assert data.image_shape == (1, 16, 16)
    assert data.train.images.unique().tolist() == [77]


def test_the_original_size_changes_nothing(tmp_path, register):
    register(RawImages(random_split(100), None, num_val=20))
    assert prepare.prepare(toy(image_size=8), tmp_path).digest == prepare.prepare(toy(), tmp_path).digest


def test_mean_and_std_are_those_of_the_training_images(tmp_path, register):
    register(RawImages(random_split(100), random_split(20, seed=1), num_val=20))
    data = prepare.load(prepare.prepare(toy(), tmp_path).path)
    scaled = data.train.images.double() / 255
    torch.testing.assert_close(data.mean, scaled.mean(dim=(0, 2, 3)).float())
    torch.testing.assert_close(data.std, scaled.std(dim=(0, 2, 3), correction=0).float())


def test_a_constant_channel_has_a_std_above_zero(tmp_path, register):
    images = torch.zeros(40, 1, 8, 8, dtype=torch.uint8)
    register(RawImages(Split(images, torch.arange(40) % 2), None, num_val=10))
    data = prepare.load(prepare.prepare(toy(), tmp_path).path)
    assert data.std.tolist() == pytest.approx([1 / 255])


def test_one_pixel_or_label_changes_the_digest():
    split, other = random_split(20), random_split(20, seed=1)
    digest = prepare._digest(split, other, other)
    assert digest == prepare._digest(random_split(20), other, other)
    assert re.fullmatch("[0-9a-f]{16}", digest)
    pixel = Split(split.images.clone(), split.labels)
    pixel.images[3, 0, 0, 0] ^= 1
    label = Split(split.images, split.labels.roll(1))
    digests = [prepare._digest(part, other, other) for part in (split, pixel, label)]
    assert len({*digests, prepare._digest(other, split, other)}) == 4


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (RawImages(Split(torch.zeros(9, 1, 8, 8).int(), torch.zeros(9).long()), None), "must be uint8 images"),
        (
            RawImages(Split(torch.zeros(9, 1, 8, 8, dtype=torch.uint8), torch.zeros(8, dtype=torch.int64)), None),
            "needs one label an image",
        ),
        (RawImages(random_split(40), random_split(40, shape=(1, 8, 8))), "must have the same shape"),
        (RawImages(random_split(40), random_split(40, num_classes=9)), "between 0 and 3, .* from 0 to 8"),
    ],
)
def test_a_loader_that_returns_something_else_is_refused(tmp_path, register, raw, message):
    register(raw)
    with pytest.raises(DataError, match=message):
        prepare.prepare(toy(), tmp_path)


# The prepared file.


def test_a_second_call_does_not_touch_the_raw_data(tmp_path, register):
    calls = register(RawImages(random_split(100), None, num_val=20))
    first = prepare.prepare(toy(), tmp_path)
    assert prepare.prepare(toy(lr=0.5, augment="crop_flip"), tmp_path) == first
    assert len(calls) == 1
    assert prepare.prepare(toy(num_val=24), tmp_path).path != first.path
    assert len(calls) == 2
    assert first.path.name.startswith("toy-")


def write_fashion_mnist(folder: Path, shift: int) -> None:
    for name in fashion_mnist.FILES:
        array = np.full((60, 28, 28), shift) if "images" in name else np.arange(60) % 10
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(idx_bytes(array))


def write_cifar10(folder: Path, shift: int) -> None:
    for part in ("train", "test"):
        write_parquet(folder / f"{part}.parquet", [encoded(label + shift) for label in range(10)] * 3, [*range(10)] * 3)


@pytest.mark.parametrize(
    ("dataset", "write"), [("fashion_mnist", write_fashion_mnist), ("cifar10", write_cifar10)]
)  # fmt: skip
def test_a_copy_follows_ablate_data_and_stays_when_the_files_are_gone(tmp_path, monkeypatch, caplog, dataset, write):
    def prepared() -> prepare.PreparedData:
        return prepare.prepare(resolve({"dataset": dataset, "num_val": 10}), tmp_path / "cache")

    write(tmp_path / "a", 1)
    write(tmp_path / "b", 2)
    monkeypatch.setenv("ABLATE_DATA", str(tmp_path / "a"))
    first = prepared()
    assert prepared() == first
    monkeypatch.setenv("ABLATE_DATA", str(tmp_path / "b"))
    other = prepared()
    assert other.digest != first.digest
    monkeypatch.setenv("ABLATE_DATA", str(tmp_path / "a"))
    assert prepared() == first
    write(tmp_path / "a", 3)
    changed = prepared()
    assert changed.digest not in (first.digest, other.digest)
    assert not caplog.records
    monkeypatch.delenv("ABLATE_DATA")
    assert prepared() == changed
    assert not caplog.records
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("ABLATE_DATA", str(tmp_path / "empty"))
    assert prepared() == changed
    assert f"empty, where the data set '{dataset}' is not found: its copy {changed.path} is used" in caplog.text
    monkeypatch.setenv("ABLATE_DATA", str(tmp_path / "none"))
    with pytest.raises(DataError, match=r"ABLATE_DATA must name a folder, but .*none is none"):
        prepared()


def test_a_data_set_of_ones_own_may_name_its_files(tmp_path, monkeypatch):
    file = tmp_path / "raw"
    file.write_bytes(b"1")
    row = registry.Row(
        kind="dataset", name="toy", summary="random images", sources=lambda folders: [file],
        target=lambda folders: RawImages(random_split(100, seed=len(file.read_bytes())), None, num_val=20),
    )  # fmt: skip
    monkeypatch.setitem(registry._rows["dataset"], "toy", row)
    first = prepare.prepare(toy(), tmp_path / "cache")
    file.write_bytes(b"22")
    assert prepare.prepare(toy(), tmp_path / "cache").digest != first.digest


@pytest.mark.parametrize("damage", ["cut", "text", "bit", "format"])
def test_a_damaged_file_is_made_again_with_a_warning(tmp_path, register, caplog, damage):
    register(RawImages(random_split(100), None, num_val=20))
    first = prepare.prepare(toy(), tmp_path)
    content = first.path.read_bytes()
    if damage == "cut":
        first.path.write_bytes(content[: len(content) // 2])
    elif damage == "text":
        first.path.write_bytes(b"nothing\n")
    else:
        fields = torch.load(first.path, weights_only=True)
        if damage == "bit":
            fields["val_images"][0, 0, 0, 0] ^= 1
        else:
            fields["format"] = 0
        torch.save(fields, first.path)
    with caplog.at_level(logging.WARNING):
        assert prepare.prepare(toy(), tmp_path) == first
    assert "making" in caplog.text
    caplog.clear()
    assert prepare.prepare(toy(), tmp_path) == first
    assert not caplog.records


def test_loading_says_which_file_is_bad(tmp_path):
    with pytest.raises(DataError, match=r"cannot read the prepared data .*gone.pt"):
        prepare.load(tmp_path / "gone.pt")


def test_the_digest_of_the_test_images_depends_on_these_alone(tmp_path, register):
    def found(cache="cache", raw=None, **settings):
        register(raw or RawImages(random_split(200), None, num_val=20))
        return prepare.load(prepare.prepare(toy(**settings), tmp_path / cache).path).test_digest

    whole = found()
    assert re.fullmatch("[0-9a-f]{16}", whole)
    assert {found(image_size=4), found(num_train=100), found(num_val=40, image_size=5)} == {whole}
    train, test = random_split(200), random_split(40, seed=1)
    official = found("official", RawImages(train, test, num_val=20))
    assert official != whole
    assert found("other", RawImages(random_split(160, seed=2), test, num_val=20)) == official
    turned = test.take(torch.arange(39, -1, -1))
    assert found("turned", RawImages(train, turned, num_val=20)) != official
    assert found("labels", RawImages(train, Split(test.images, test.labels.roll(1)), num_val=20)) != official


def test_a_file_of_before_tells_its_test_images_where_they_were_not_resized(tmp_path, register):
    register(RawImages(random_split(200), None, num_val=20))
    digests = {}
    for size in (None, 4):
        path = prepare.prepare(toy(image_size=size), tmp_path).path
        content = torch.load(path, weights_only=True)
        whole = content.pop("test_digest")
        torch.save(content, path)
        digests[size] = prepare.load(path).test_digest == whole
        assert prepare.prepare(toy(image_size=size), tmp_path).path == path
    assert digests == {None: True, 4: False}


def test_floats_of_double_precision_have_the_digest_of_what_is_kept(tmp_path, register):
    values = torch.rand(100, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    register(RawImages(Split(values, torch.arange(100) % 2), None, num_val=20))
    data = prepare.load(prepare.prepare(toy(), tmp_path).path)
    assert data.test_digest == prepare._test_digest(data.test)


def test_a_data_set_moves_to_a_device_whole(tmp_path):
    data = prepare.load(prepare.prepare(resolve({}), tmp_path).path).to("meta")
    tensors = [data.mean, data.std, *(t for s in (data.train, data.val, data.test) for t in (s.images, s.labels))]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


# Where raw files are looked for.


def write_idx(folder: Path, *, packed: bool, value: int = 0) -> None:
    """Write four tiny IDX files, 30 training and 10 test images; every pixel is `value` or more."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, num in (("train", 30), ("t10k", 10)):
        images = np.arange(num * 28 * 28).reshape(num, 28, 28) % 100 + value
        for kind, array in (("images-idx3", images), ("labels-idx1", np.arange(num) % 10)):
            content = idx_bytes(array)
            path = folder / f"{part}-{kind}-ubyte{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(content) if packed else content)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("place", ["", "fashion_mnist", "FashionMNIST/raw", "fashion_mnist/FashionMNIST/raw"])
def test_fashion_mnist_is_found_in_each_layout(tmp_path, monkeypatch, place, packed):
    write_idx(tmp_path / "given" / place, packed=packed)
    monkeypatch.setenv("ABLATE_DATA", str(tmp_path / "given"))
    raw = fashion_mnist.load(DataFolders.from_environment(tmp_path / "cache"))
    assert raw.train.images.shape == (30, 1, 28, 28)
    assert raw.train.images.dtype == torch.uint8
    assert raw.train.images[0, 0, 1, :3].tolist() == [28, 29, 30]
    assert raw.test.labels.tolist() == list(range(10))
    assert raw.num_val == 5000


def test_fashion_mnist_is_taken_from_the_users_folder_then_debians_then_the_cache(tmp_path, monkeypatch):
    write_idx(tmp_path / "given", packed=True, value=1)
    write_idx(tmp_path / "debian", packed=True, value=2)
    write_idx(tmp_path / "cache" / "FashionMNIST" / "raw", packed=False, value=3)
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "debian")
    cache = tmp_path / "cache"
    assert int(fashion_mnist.load(DataFolders(tmp_path / "given", cache)).train.images.min()) == 1
    assert int(fashion_mnist.load(DataFolders(None, cache)).train.images.min()) == 2
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "none")
    assert int(fashion_mnist.load(DataFolders(None, cache)).train.images.min()) == 3


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train-images-idx3-ubyte.gz", b"no gzip"),
        ("train-images-idx3-ubyte.gz", gzip.compress(idx_bytes(np.zeros((30, 28, 28))))[:-9]),
        ("train-images-idx3-ubyte.gz", gzip.compress(idx_bytes(np.zeros((30, 28, 28)))[:-9])),
        ("train-images-idx3-ubyte.gz", gzip.compress(b"")),
        ("train-labels-idx1-ubyte.gz", gzip.compress(idx_bytes(np.zeros((30, 2))))),
    ],
    ids=["no gzip", "cut off", "cut off within", "empty", "of two dimensions"],
)
def test_a_damaged_idx_file_is_named(tmp_path, name, content):
    write_idx(tmp_path, packed=True)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name} is not a whole IDX file"):
        fashion_mnist.load(DataFolders(tmp_path, tmp_path / "cache"))


def test_as_many_labels_as_images(tmp_path):
    write_idx(tmp_path, packed=True)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(np.zeros(9))))
    with pytest.raises(DataError, match=r"holds 10 images, but .* holds 9 labels"):
        fashion_mnist.load(DataFolders(tmp_path, tmp_path / "cache"))


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (
            cifar.load_cifar10,
            r"no CIFAR-10 found and the download failed \(<urlopen error no network in tests>\): "
            r"put cifar-10-batches-py, or the Parquet files train-\*.parquet and test-\*.parquet, "
            r"into \$ABLATE_DATA/cifar10 ",
        ),
        (cifar.load_cifar100, r"no CIFAR-100 found .*put cifar-100-python, .* into \$ABLATE_DATA/cifar100 "),
        (fashion_mnist.load, r"no Fashion-MNIST found .*train-images-idx3-ubyte.* into \$ABLATE_DATA/fashion_mnist "),
    ],
)
def test_without_network_the_error_says_which_files_to_put_where(tmp_path, load, message):
    with pytest.raises(DataError, match=message + r"\(ABLATE_DATA is not set\)$") as caught:
        load(DataFolders(None, tmp_path))
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=message + rf"\(ABLATE_DATA is {tmp_path}\)$"):
        load(DataFolders(tmp_path, tmp_path))


def test_ablate_data_must_be_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ABLATE_DATA", str(tmp_path / "none"))
    with pytest.raises(DataError, match=r"ABLATE_DATA must name a folder, but .*none is none"):
        cifar.load_cifar10(DataFolders.from_environment(tmp_path))


# CIFAR.


@pytest.mark.parametrize("place", ["", "plain_text/", "cifar10/", "cifar10/plain_text/", "cifar10/data/deep/"])
def test_parquet_files_are_found_in_each_layout(tmp_path, place):
    folder = tmp_path / place
    write_parquet(folder / "train-00000-of-00002.parquet", [encoded(10), encoded(20)], [3, 1])
    write_parquet(folder / "train-00001-of-00002.parquet", [encoded(30)], [0])
    write_parquet(folder / "test-00000-of-00001.parquet", [encoded(40, format_="JPEG")], [2])
    raw = cifar.load_cifar10(DataFolders(tmp_path, tmp_path / "cache"))
    assert raw.train.images.shape == (3, 3, 32, 32)
    assert raw.train.images[:, :, 5, 7].tolist() == [[10, 0, 245], [20, 0, 235], [30, 0, 225]]
    assert raw.train.labels.tolist() == [3, 1, 0]
    assert raw.test.images[0, :, 5, 7].tolist() == pytest.approx([40, 0, 215], abs=4)
    assert raw.num_val == 5000


def test_cifar100_takes_fine_labels_and_grey_images_become_rgb(tmp_path):
    for part in ("train", "test"):
        path = tmp_path / "cifar100" / f"{part}.parquet"
        write_parquet(path, [encoded(90, mode="L")], [99], image="image", label="fine_label")
    raw = cifar.load_cifar100(DataFolders(tmp_path, tmp_path / "cache"))
    assert raw.train.images[0, :, 0, 0].tolist() == [90, 90, 90]
    assert raw.test.labels.tolist() == [99]


@pytest.mark.parametrize(
    ("images", "labels", "columns", "message"),
    [
        ([], [], {}, "train.parquet has no rows"),
        ([encoded(1)], [0], {"image": "picture"}, "train.parquet must have a column img: .*, but has picture, label"),
        ([encoded(1)], [0], {"label": "fine_label"}, "train.parquet must have an integer column label"),
        ([encoded(1), b"no image"], [0, 0], {}, "train.parquet, row 1: no 32×32 image: cannot identify"),
        ([encoded(1), encoded(1)[:-30]], [0, 0], {}, "train.parquet, row 1: no 32×32 image"),
        ([encoded(1), None], [0, 0], {}, "train.parquet, row 1: no 32×32 image: its bytes are missing"),
        ([encoded(1, size=28)], [0], {}, "train.parquet, row 0: no 32×32 image: its size is 28×28"),
        ([encoded(1), encoded(1)], [0, None], {}, "train.parquet, row 1: label must be an integer >= 0, but is None"),
        ([encoded(1), encoded(1)], [-1, 0], {}, "train.parquet, row 0: label must be an integer >= 0, but is -1"),
    ],
)
def test_a_bad_parquet_file_is_named_with_the_row(tmp_path, images, labels, columns, message):
    write_parquet(tmp_path / "train.parquet", images, labels, **columns)
    write_parquet(tmp_path / "test.parquet", [encoded(1)], [0])
    with pytest.raises(DataError, match=message):
        cifar.load_cifar10(DataFolders(tmp_path, tmp_path / "cache"))


def test_a_file_that_is_not_parquet_and_a_missing_part_are_named(tmp_path):
    (tmp_path / "train.parquet").write_bytes(b"nothing")
    folders = DataFolders(tmp_path, tmp_path / "cache")
    with pytest.raises(DataError, match=r"has Parquet files \*train\*.parquet, but no \*test\*.parquet"):
        cifar.load_cifar10(folders)
    write_parquet(tmp_path / "test.parquet", [encoded(1)], [0])
    with pytest.raises(DataError, match=r"cannot read .*train.parquet"):
        cifar.load_cifar10(folders)


def test_torchvisions_batches_are_read_and_checked(tmp_path, monkeypatch):
    source = torchvision.datasets.CIFAR10
    folder = tmp_path / "cifar10" / source.base_folder
    folder.mkdir(parents=True)
    pixels = np.zeros((2, 3072), np.uint8)
    pixels[:, 1024:2048] = 50
    contents = {"batch": {"data": pixels, "labels": [1, 0]}, "meta": {"label_names": ["a", "b"]}}
    for name, content in contents.items():
        (folder / name).write_bytes(pickle.dumps(content))
    sums = {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in contents}
    monkeypatch.setattr(source, "train_list", [["batch", sums["batch"]]])
    monkeypatch.setattr(source, "test_list", [["batch", sums["batch"]]])
    monkeypatch.setattr(source, "meta", {"filename": "meta", "key": "label_names", "md5": sums["meta"]})
    folders = DataFolders(tmp_path, tmp_path / "cache")
    raw = cifar.load_cifar10(folders)
    assert raw.train.images.shape == (2, 3, 32, 32)
    assert raw.train.images[0, :, 9, 9].tolist() == [0, 50, 0]
    assert raw.test.labels.tolist() == [1, 0]
    (folder / "batch").write_bytes(b"changed")
    with pytest.raises(DataError, match="cifar-10-batches-py is not a whole copy of CIFAR-10"):
        cifar.load_cifar10(folders)


def test_batches_of_the_device_are_the_images_in_the_epochs_order(tiny_dataset):
    """The stream of batches equals plain indexing, so numbers do not depend on how batches are made."""
    trainer = Trainer(
        resolve({"batch_size": 40, "augment": "crop_flip", "depth": 8}), tiny_dataset, 3, torch.device("cpu")
    )
    train = tiny_dataset.train
    order = torch.randperm(96, generator=torch.Generator().manual_seed(derive_seed(3, "order", 0)))
    augment_generator = torch.Generator().manual_seed(derive_seed(3, "augment", 0))
    batches = list(trainer.batches())
    assert len(batches) == 2
    for index, (images, labels) in enumerate(batches):
        chosen = order[index * 40 : (index + 1) * 40]
        assert torch.equal(images, trainer.normalise(crop_flip(train.images[chosen], augment_generator)))
        assert torch.equal(labels, train.labels[chosen])
