"""Folders of image files: real JPEG files in torchvision's layout, decoded by worker processes."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from packs import packed
from PIL import Image
from torchvision import transforms
from torchvision.transforms import v2

from ablate.errors import DataError
from ablate.run.pack import Request
from ablate.tasks.image_classification.config import resolve
from ablate.tasks.image_classification.data import image_folder
from ablate.tasks.image_classification.data.augment import (
    RATIO,
    SCALE,
    _part,
    identity,
    random_resized_crop,
    resized_crop_flip,
)
from ablate.tasks.image_classification.data.folders import DataFolders
from ablate.tasks.image_classification.data.prepare import load, prepare
from ablate.tasks.image_classification.training.trainer import Trainer
from ablate.tasks.parameters import ConfigError

CPU = torch.device("cpu")
CLASSES = ("n01440764", "n02102040", "n03000684")
SETTINGS = {"dataset": "image_folder", "image_size": 64, "num_val": 12}
IMAGENET = {**SETTINGS, "model": "imagenet", "depth": 18, "width": 4, "batch_size": 12, "epochs": 2, "lr": 0.05}


def write_images(folder, num: int, seed: int) -> None:
    """Write JPEG files of several sizes; the classes differ in their colour."""
    noise = np.random.default_rng(seed)
    for number, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for index in range(num):
            height, width = 70 + 9 * (index % 4), 100 - 11 * (index % 3)
            pixels = noise.integers(0, 60, (height, width, 3), dtype=np.uint8)
            pixels[:, :, number] += 150
            Image.fromarray(pixels).save(folder / name / f"{name}_{index}.JPEG", quality=90)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "image_folder"
    write_images(root / "train", 16, 0)
    write_images(root / "val", 5, 1)
    return root


@pytest.fixture
def data(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("ABLATE_DATA", str(folder.parent))
    monkeypatch.setenv("ABLATE_LOADER_WORKERS", "0")
    return load(prepare(resolve(SETTINGS), tmp_path).path)


def collect(batches):
    return [(images.clone(), labels.clone()) for images, labels in batches]


def same(one, other) -> bool:
    return all(torch.equal(a, b) for pair in zip(one, other, strict=True) for a, b in zip(*pair, strict=True))


def test_train_and_val_become_training_validation_and_test_images(data):
    assert (len(data.train), len(data.val), len(data.test)) == (36, 12, 15)
    assert data.num_classes == 3
    assert data.image_shape == (3, 64, 64)
    assert not set(data.train.paths) & set(data.val.paths)
    assert {path.split("/")[0] for path in data.test.paths} == {"val"}
    for split in (data.train, data.val, data.test):
        assert all(CLASSES[label] in path for path, label in zip(split.paths, split.labels.tolist(), strict=True))
        assert len(torch.bincount(split.labels).unique()) == 1
    assert data.mean.tolist() == pytest.approx([0.485, 0.456, 0.406])


def test_batches_do_not_depend_on_the_number_of_workers(data, monkeypatch):
    def batches(workers: int):
        monkeypatch.setenv("ABLATE_LOADER_WORKERS", str(workers))
        generator = torch.Generator().manual_seed(3)
        order = torch.arange(35, -1, -1)
        return collect(data.train.batches(order, 10, resized_crop_flip, generator)), collect(data.val.in_order(5))

    (alone_train, alone_val), (train, val) = batches(0), batches(2)
    assert [len(labels) for _, labels in train] == [10, 10, 10, 6]
    assert [len(labels) for _, labels in val] == [5, 5, 2]
    assert same(alone_train, train)
    assert same(alone_val, val)
    assert torch.equal(torch.cat([labels for _, labels in train]), data.train.labels.flip(0))
    assert train[0][0].dtype == torch.uint8
    assert train[0][0].shape == (10, 3, 64, 64)


def test_evaluation_sees_torchvisions_centre_crop(data):
    images, _ = next(data.test.in_order(15))
    reference = v2.Compose([v2.PILToTensor(), v2.Resize(73, antialias=True), v2.CenterCrop(64)])
    for index in range(15):
        with Image.open(f"{data.test.root}/{data.test.paths[index]}") as file:
            assert torch.equal(images[index], reference(file.convert("RGB")))


def test_an_epoch_without_augmentation_is_the_centre_crops(data):
    order = torch.tensor([4, 0, 7])
    ((images, labels),) = collect(data.train.batches(order, 3, identity, torch.Generator()))
    everything = torch.cat([batch for batch, _ in data.train.in_order(36)])
    assert torch.equal(images, everything[order])
    assert torch.equal(labels, data.train.labels[order])


def test_augmentation_differs_by_epoch_and_repeats_with_its_seed(data):
    def epoch(seed: int):
        generator = torch.Generator().manual_seed(seed)
        return collect(data.train.batches(torch.arange(6), 6, resized_crop_flip, generator))

    assert same(epoch(1), epoch(1))
    assert not same(epoch(1), epoch(2))


def test_random_parts_have_the_published_area_and_ratio():
    generator = torch.Generator().manual_seed(0)
    parts = [_part(300, 400, generator) for _ in range(2000)]
    assert all(0 <= top <= 300 - h and 0 <= left <= 400 - w for top, left, h, w in parts)
    areas = [h * w / (300 * 400) for _, _, h, w in parts]
    ratios = [w / h for _, _, h, w in parts]
    assert min(areas) > SCALE[0] - 0.01
    assert max(areas) <= 1
    torch.manual_seed(0)
    theirs = [transforms.RandomResizedCrop.get_params(torch.empty(3, 300, 400), SCALE, RATIO) for _ in range(2000)]
    for ours, other in zip(np.mean(parts, 0), np.mean(theirs, 0), strict=True):
        assert ours == pytest.approx(other, abs=6)  # pixels; the standard error of either mean is about 2
    assert np.mean(areas) == pytest.approx(np.mean([h * w / 120_000 for _, _, h, w in theirs]), abs=0.02)
    assert min(ratios) > RATIO[0] - 0.02
    assert max(ratios) < RATIO[1] + 0.02
    # No part fits an image this flat: the largest centre part is taken.
    assert _part(10, 1000, generator) == (0, 493, 10, 13)


def test_half_of_the_parts_are_mirrored():
    image = torch.arange(64.0).repeat(3, 64, 1).to(torch.uint8)
    generator = torch.Generator().manual_seed(0)
    rises = [
        bool(crop[0, 0, -1] > crop[0, 0, 0])
        for crop in (random_resized_crop(image, (32, 32), generator) for _ in range(400))
    ]
    assert 0.42 < np.mean(rises) < 0.58


def test_images_in_memory_can_be_cropped_at_random_too(tiny_dataset):
    images = tiny_dataset.train.images[:4]
    out = resized_crop_flip(images, torch.Generator().manual_seed(0))
    assert out.shape == images.shape
    assert out.dtype == torch.uint8


@pytest.mark.parametrize("augment", ["none", "crop_flip", "resized_crop_flip"])
def test_an_imagenet_net_learns_from_files_and_repeats(data, monkeypatch, augment):
    config = resolve({**IMAGENET, "augment": augment, "epochs": 6 if augment == "none" else 1})
    task = Request(
        key="k", fingerprint="f", seed=1, phase="confirm", settings=config.settings(), data_digest=data.digest
    )  # fmt: skip
    (first,) = packed([task], data, CPU).run()
    assert first.state == "complete", first.message
    assert all(math.isfinite(number) for curve in first.curves.values() for number in curve)
    if augment == "none":
        assert first.metrics["test_accuracy"] > 0.6
        return
    monkeypatch.setenv("ABLATE_LOADER_WORKERS", "2")
    (second,) = packed([task], data, CPU).run()
    assert (second.weights_digest, second.metrics) == (first.weights_digest, first.metrics)


@pytest.mark.parametrize("settings", [{"shortcut": "none"}, {"shortcut": "projection", "depth": 50}], ids=str)
def test_both_ingredients_train_two_steps_of_an_imagenet_net(data, settings):
    both = {"init": "orthonormal", "regularizer": "orthonormal", "modulation": "anchor"}
    trainer = Trainer(resolve({**IMAGENET, **settings, **both, "width": 2}), data, 1, CPU)
    for index, (images, labels) in enumerate(trainer.batches()):
        loss, _ = trainer.step(images, labels, index)
        if index == 1:
            break
    assert math.isfinite(loss.item())


def test_the_digest_follows_names_sizes_and_crop(folder, tmp_path, monkeypatch):
    copy = tmp_path / "copy" / "image_folder"
    write_images(copy / "train", 16, 0)
    write_images(copy / "val", 5, 1)
    monkeypatch.setenv("ABLATE_DATA", str(folder.parent))
    first = prepare(resolve(SETTINGS), tmp_path / "a").digest
    assert prepare(resolve(SETTINGS), tmp_path / "a").digest == first
    assert prepare(resolve({**SETTINGS, "image_size": 72}), tmp_path / "a").digest != first
    monkeypatch.setenv("ABLATE_DATA", str(copy.parent))
    assert prepare(resolve(SETTINGS), tmp_path / "b").digest == first
    path = copy / "val" / CLASSES[0] / f"{CLASSES[0]}_0.JPEG"
    path.write_bytes(path.read_bytes() + b"\0")
    assert prepare(resolve(SETTINGS), tmp_path / "b").digest != first


def test_a_damaged_file_fails_the_trial_and_is_named(data, tmp_path, monkeypatch):
    root = tmp_path / "image_folder"
    write_images(root / "train", 16, 0)
    write_images(root / "val", 5, 1)
    (root / "train" / CLASSES[1] / f"{CLASSES[1]}_3.JPEG").write_bytes(b"no image")
    monkeypatch.setenv("ABLATE_DATA", str(tmp_path))
    monkeypatch.setenv("ABLATE_LOADER_WORKERS", "1")
    files = image_folder.load(DataFolders.from_environment(tmp_path)).train
    with pytest.raises(DataError, match=rf"cannot decode .*{CLASSES[1]}_3\.JPEG"):
        collect(files.in_order(8))


def test_missing_folders_and_different_classes_are_clear_errors(tmp_path, monkeypatch):
    folders = DataFolders.from_environment(tmp_path)
    with pytest.raises(
        DataError, match=r"no image folder found: put train/<class>/<image> .* \(ABLATE_DATA is not set"
    ):
        image_folder.load(folders)
    monkeypatch.setenv("ABLATE_DATA", str(tmp_path))
    folders = DataFolders.from_environment(tmp_path)
    write_images(tmp_path / "train", 1, 0)
    (tmp_path / "val").mkdir()
    with pytest.raises(DataError, match="must have train/<class>/<image> and val/<class>/<image>"):
        image_folder.load(folders)
    (tmp_path / "val").rmdir()
    write_images(tmp_path / "val", 1, 0)
    (tmp_path / "val" / CLASSES[0]).rename(tmp_path / "val" / "other")
    with pytest.raises(DataError, match="must have the same classes, but only one has n01440764"):
        image_folder.load(folders)


def test_a_wrong_number_of_workers_is_a_clear_error(monkeypatch):
    monkeypatch.setenv("ABLATE_LOADER_WORKERS", "-1")
    with pytest.raises(DataError, match="ABLATE_LOADER_WORKERS must be an integer >= 0, but is '-1'"):
        image_folder.num_workers()


def test_an_imagenet_net_refuses_small_crops():
    with pytest.raises(ConfigError, match="must be at least 64×64, but those of image_folder are 32×32"):
        resolve({**IMAGENET, "image_size": 32})
    assert resolve({"dataset": "image_folder", "model": "imagenet", "depth": 34}).depth == 34


@pytest.mark.slow
def test_batches_need_no_shared_memory(folder):
    """Docker's /dev/shm has 64 MB. Here it has as good as nothing, in a mount namespace of its own."""
    code = (
        "import torch\n"
        "from ablate.tasks.image_classification.data.augment import resized_crop_flip\n"
        "from ablate.tasks.image_classification.data.folders import DataFolders\n"
        "from ablate.tasks.image_classification.data.image_folder import load\n"
        "files = load(DataFolders.from_environment('.')).train\n"
        "assert files.size == 224\n"
        "batches = files.batches(torch.arange(48), 16, resized_crop_flip, torch.Generator())\n"
        "print(*[tuple(images.shape) for images, _ in batches], *[len(labels) for _, labels in files.in_order(32)])"
    )
    small = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$@"', "sh"]
    if subprocess.run([*small, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount a small file system")
    environment = {**os.environ, "ABLATE_DATA": str(folder.parent), "ABLATE_LOADER_WORKERS": "2"}
    done = subprocess.run([*small, sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout == f"{' '.join(['(16, 3, 224, 224)'] * 3)} 32 16\n", done.stderr


@pytest.mark.parametrize("workers", ["0", "1"])
def test_an_image_for_which_there_is_no_memory_is_not_called_damaged(data, monkeypatch, workers):
    def decode(*_):
        np.empty(2**50)

    monkeypatch.setattr(image_folder.Image, "open", decode)
    monkeypatch.setenv("ABLATE_LOADER_WORKERS", workers)
    task = Request(
        key="k", fingerprint="f", seed=1, phase="tune", settings=resolve(IMAGENET).settings(), data_digest=data.digest
    )  # fmt: skip
    (record,) = packed([task], data, CPU).run()
    assert (record.state, record.reason) == ("failed", "out_of_memory"), record.message
