"""Labels are the numbers of the classes without gaps, and chance is what the best constant answer gets."""

import dataclasses
import json
import pickle

import numpy as np
import pytest
import torch
import torchvision.datasets
from click.testing import CliRunner
from images import encoded, idx_bytes, write_parquet
from PIL import Image
from synthetic import Synthetic, accuracy

from ablate.commands import main
from ablate.errors import DamagedError, DataError
from ablate.report.build import build_report
from ablate.report.combine import combine
from ablate.report.inference import estimate
from ablate.store.declaration import SweepFolder, collect
from ablate.store.ledger import Ledger
from ablate.tasks import registry
from ablate.tasks.image_classification.config import measured, resolve
from ablate.tasks.image_classification.data import fashion_mnist
from ablate.tasks.image_classification.data.dataset import RawImages, Split
from ablate.tasks.image_classification.data.prepare import load, prepare

COUNTS = [12, 300, 24, 14]
CHANCE = 300 / 350


def split(labels: list[int]) -> Split:
    generator = torch.Generator().manual_seed(len(labels))
    images = torch.randint(0, 256, (len(labels), 1, 8, 8), generator=generator).to(torch.uint8)
    return Split(images, torch.tensor(labels, dtype=torch.int64))


def raw(train: list[int], test: list[int] | None, **options) -> RawImages:
    return RawImages(split(train), None if test is None else split(test), **{"num_val": 12, **options})


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """Prepare a data set of the user's own."""

    def make(content: RawImages, **settings):
        row = registry.Row(kind="dataset", name="toy", target=lambda folders: content, summary="random images")
        monkeypatch.setitem(registry._rows["dataset"], "toy", row)
        return prepare(resolve({"dataset": "toy", **settings}), tmp_path)

    return make


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (raw([1, 2, 3] * 20, [1, 2, 3]), "of every class, labels 0 to 3, but there is none of class 0$"),
        (raw([0, 1, 4] * 20, [0]), "labels 0 to 4, but there is none of class 2, class 3$"),
        (raw([0, 10**12] * 20, [0]), "none of class 1, class 2, class 3, class 4, class 5 and 999999999994 more"),
        (raw([0, 1] * 20, [0], num_classes=3), "labels 0 to 2, but there is none of class 2"),
        (raw([0, 1] * 20, [0], num_classes=3, class_names=("a", "b", "c")), "there is none of c$"),
        (raw([0, 1, 2] * 20, [0], num_classes=2), "between 0 and 1, as it has 2 classes, but they reach from 0 to 2"),
        (raw([0, 1] * 20, [0, 2], num_classes=2), "between 0 and 1, as it has 2 classes, but they reach from 0 to 2"),
        (raw([0, 1] * 20, [0, 2]), "between 0 and 1, the largest training label, but they reach from 0 to 2"),
        (raw([-1, 1] * 20, [0]), "between 0 and 1, the largest training label, but they reach from -1 to 1"),
        (raw([0, 1] * 20, [-1, 0]), "but they reach from -1 to 0"),
        (raw([-3, -2] * 20, [0]), "must be >= 0, but they reach from -3 to -2"),
        (raw([0] * 40, [0]), "must have two classes or more"),
    ],
)
def test_labels_that_are_no_numbers_of_classes_are_refused(toy, content, message):
    with pytest.raises(DataError, match=rf"data set 'toy'.*{message}"):
        toy(content)


def test_a_class_that_a_small_share_leaves_without_training_images_is_refused(toy):
    rare = raw([0] * 200 + [1] * 200 + [2] * 3, [0, 1, 2])
    assert toy(rare).num_classes == 3
    message = "the 20 training images that are left of the data set 'toy' have none of class 2, which is rare"
    with pytest.raises(DataError, match=message) as caught:
        toy(rare, num_train=20)
    assert caught.value.parameter == "num_train"


@pytest.mark.parametrize("names", [(), ("cat", "dog", "owl")])
def test_a_class_of_one_image_is_named(toy, names):
    message = f"cannot split the data set 'toy' by class: {names[2] if names else 'class 2'} has only 1 member"
    with pytest.raises(DataError, match=message):
        toy(raw([0, 1] * 20 + [2], [0, 1, 2], class_names=names))
    # The test images are taken first, and may leave one.
    with pytest.raises(DataError, match=message):
        toy(raw([0, 1] * 20 + [2] * 2, None, num_val=3, class_names=names))


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (range(1, 11), range(1, 11), r"train.parquet, row 9: label must be an integer <= 9, but is 10"),
        (range(10), [10], r"test.parquet, row 0: label must be an integer <= 9, but is 10"),
        (range(9), range(9), "training images of every class, labels 0 to 9, but there is none of class 9"),
        (range(1, 10), range(1, 10), "labels 0 to 9, but there is none of class 0"),
        ([2**62], [0], "row 0: label must be an integer <= 9, but is 4611686018427387904"),
    ],
)
def test_cifar10_has_ten_classes_in_parquet_files(tmp_path, monkeypatch, train, test, message):
    monkeypatch.setenv("ABLATE_DATA", str(tmp_path))
    for part, labels in (("train", list(train) * 2), ("test", list(test))):
        write_parquet(tmp_path / f"{part}.parquet", [encoded(label % 256) for label in labels], labels)
    with pytest.raises(DataError, match=message):
        prepare(resolve({"dataset": "cifar10", "num_val": 10}), tmp_path / "cache")


def test_cifar10_has_ten_classes_in_torchvisions_files(tmp_path, monkeypatch):
    monkeypatch.setenv("ABLATE_DATA", str(tmp_path))
    source = torchvision.datasets.CIFAR10
    folder = tmp_path / source.base_folder
    folder.mkdir()
    labels = list(range(1, 11)) * 3
    batch = {"data": np.zeros((len(labels), 3072), np.uint8), "labels": labels}
    (folder / "batch").write_bytes(pickle.dumps(batch))
    (folder / "meta").write_bytes(pickle.dumps({"label_names": ["a"] * 10}))
    for name in ("train_list", "test_list"):
        monkeypatch.setattr(source, name, [["batch", None]])
    monkeypatch.setattr(source, "meta", {"filename": "meta", "key": "label_names", "md5": None})
    with pytest.raises(DataError, match="between 0 and 9, as it has 10 classes, but they reach from 1 to 10"):
        prepare(resolve({"dataset": "cifar10", "num_val": 10}), tmp_path / "cache")


def test_fashion_mnist_has_ten_classes(tmp_path, monkeypatch):
    monkeypatch.setenv("ABLATE_DATA", str(tmp_path))
    for name in fashion_mnist.FILES:
        array = np.zeros((60, 28, 28)) if "images" in name else np.arange(60) % 10 + 1
        (tmp_path / name).write_bytes(idx_bytes(array))
    with pytest.raises(DataError, match="between 0 and 9, as it has 10 classes, but they reach from 1 to 10"):
        prepare(resolve({"dataset": "fashion_mnist", "num_val": 10}), tmp_path / "cache")


# Chance.


def test_chance_is_the_share_of_the_most_frequent_class_among_the_test_images(toy):
    prepared = toy(raw([0, 1] * 100, [0] * 120 + [1] * 10))
    assert prepared.test_counts == (120, 10)
    assert prepared.absent == {}


def test_classes_without_validation_or_test_images_are_known(toy):
    train = [0] * 400 + [1] * 400 + [2] * 3
    prepared = toy(raw(train, [0, 1], class_names=("cat", "dog", "owl")))
    assert prepared.absent == {"validation": ("owl",), "test": ("owl",)}
    assert prepared.test_counts == (1, 1, 0)


NEW = ("metrics", "objective", "num_studies", "tune_key", "is_late_margin")
"""Fields that declarations of before do not have."""


def counted(declaration, counts):
    data = {**declaration.data, "num_classes": len(counts), "num_test": sum(counts), "test_counts": counts}
    return dataclasses.replace(declaration, data=data, metrics=measured(data))


def written(tmp_path, counts, **options):
    declaration = counted(Synthetic(tmp_path, **options).write(), counts)
    folder = SweepFolder(tmp_path, declaration.sweep)
    folder.write_declaration(declaration, "")
    return folder.read_declaration()


@pytest.mark.parametrize("metric", ["test_accuracy", "val_accuracy"])
def test_chance_of_a_declaration_follows_its_counts(tmp_path, metric):
    declaration = counted(Synthetic(tmp_path, report={"metric": metric}).declaration(), COUNTS)
    assert declaration.metric.floor == pytest.approx(CHANCE)


def before(file):
    """A declaration's content as schema version 2 had it."""
    content = json.loads(file.read_text())
    content["trials_per_cell"] = content.pop("num_tune")
    return {**{name: value for name, value in content.items() if name not in NEW}, "schema_version": 2}


@pytest.mark.parametrize("data", [{"num_classes": 0}, {"num_classes": 2, "test_counts": [0, 0]}])
def test_a_declaration_of_before_without_classes_or_images_is_damaged(tmp_path, data):
    declaration = Synthetic(tmp_path).write()
    file = tmp_path / "depth_ablation@smoke" / "declaration.json"
    file.write_text(json.dumps({**before(file), "data": {**declaration.data, **data}}))
    with pytest.raises(DamagedError, match=r"cannot read .*declaration\.json: "):
        SweepFolder(tmp_path, "depth_ablation@smoke").read_declaration()


def test_a_declaration_of_before_is_read_and_has_one_in_so_many_classes(tmp_path):
    Synthetic(tmp_path).write()
    file = tmp_path / "depth_ablation@smoke" / "declaration.json"
    file.write_text(json.dumps(before(file)))
    declaration = SweepFolder(tmp_path, "depth_ablation@smoke").read_declaration()
    assert declaration.metric == dataclasses.replace(accuracy(0.1), floor_meaning="one in 10 classes")
    assert declaration.tuned_metric.name == "val_accuracy"


@pytest.mark.parametrize("counts", [[350], [100, 250.0], [-1, 351], [1, 2], "350", [True, 349], [[350], 0], {}, 350])
def test_counts_that_do_not_belong_to_a_declaration_are_refused(tmp_path, counts):
    declaration = Synthetic(tmp_path).write()
    data = {**declaration.data, "num_classes": 2, "test_counts": counts}
    folder = SweepFolder(tmp_path, declaration.sweep)
    folder.write_declaration(dataclasses.replace(declaration, data=data), "")
    with pytest.raises(DamagedError, match=r"data\.test_counts must be the number of test images of each class"):
        folder.read_declaration()


def test_a_constant_answer_is_near_chance_and_chance_is_explained_everywhere(tmp_path):
    confirm = {("plain", "20", seed): CHANCE for seed in range(3)} | {("plain", "56", 0): "diverged"}
    declaration = written(tmp_path / "runs", COUNTS, confirm=confirm)
    found = build_report(tmp_path / "runs", declaration.sweep, tmp_path / "report")
    what = "85.7%, the most frequent class's share of the test images"
    assert "plain at depth 20 (85.7%)" in found.notices[0]
    assert f"near chance (chance is {what})" in found.notices[0]
    assert f"A diverged seed counts as chance ({what}) in its entry." in "\n".join(found.notices)
    assert f"Chance is {what}." in found.table
    page = (tmp_path / "report" / "report.html").read_text()
    assert f"<dt>chance</dt><dd>{what.replace(chr(39), '&#39;')}</dd>" in page


def test_the_note_says_what_chance_is_for_a_declaration_of_before(tmp_path):
    Synthetic(tmp_path / "runs", confirm={("plain", "20", 0): "diverged"}).write()
    found = build_report(tmp_path / "runs", "depth_ablation@smoke", tmp_path / "report")
    assert "Chance is 10.0%, one in 10 classes." in found.table


@pytest.mark.parametrize(
    ("chance", "near"), [(0.1, 0.15), (0.01, 0.06), (0.5, 0.55), (0.9, 0.91), (0.95, 0.955), (1.0, 1.0)]
)
def test_what_counts_as_collapsed_fits_between_chance_and_all(chance, near):
    metric = accuracy(chance)
    assert metric.has_collapsed(near - 1e-9)
    assert not metric.has_collapsed(near + 1e-9)


def test_seeds_that_train_and_collapse_make_a_cell_mixed_where_chance_is_high():
    found = estimate([0.923, 0.99, 0.985], 0, accuracy(12 / 13))
    assert (found.is_mixed, found.num_collapsed) == (True, 1)
    assert not estimate([0.97, 0.99, 0.985], 0, accuracy(12 / 13)).is_mixed


def test_sweeps_on_different_data_keep_their_own_chance(tmp_path):
    confirm = {("plain", "20", 0): "diverged"}
    parts = [
        written(tmp_path, counts, sweep=name, confirm=confirm)
        for name, counts in (("even", [100, 100]), ("uneven", [150, 50]))
    ]
    found = [(p, collect(p, SweepFolder(tmp_path, p.sweep).read_proposals(), Ledger(tmp_path))) for p in parts]
    declaration, _ = combine(found)
    assert declaration.floors == [0.5, 0.75]
    report = build_report(tmp_path, ["even", "uneven"], tmp_path / "report")
    assert "Chance is 50.0% and 75.0%" in report.table


def test_plan_says_what_chance_is(tmp_path, monkeypatch):
    """Twelve of thirteen test images of one class: a net that always says it would be right in 92.3%."""
    monkeypatch.setenv("ABLATE_DATA", str(tmp_path))
    for part, (many, few) in (("train", (120, 10)), ("val", (12, 1))):
        for name, num in (("healthy", many), ("sick", few)):
            folder = tmp_path / "image_folder" / part / name
            folder.mkdir(parents=True)
            for index in range(num):
                Image.new("RGB", (16, 16), (index, 0, 0)).save(folder / f"{index}.png")
    (tmp_path / "sweep.yaml").write_text(
        "name: rare\nfixed: {dataset: image_folder, image_size: 16, batch_size: 4, epochs: 1}\naxes: {depth: [8]}\n"
        "tune: {lr: {low: 1.0e-3, high: 0.1, log: true}}\nbudget: {trials_per_cell: 2}\nconfirm: {seeds: 2}\n"
    )
    arguments = ["plan", str(tmp_path / "sweep.yaml"), "--out", str(tmp_path / "runs"), "--no-probe"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "chance is 92.3%, the most frequent class's share of the test images" in result.output
    content = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).output)
    assert content["chance"] == pytest.approx(12 / 13)
    assert content["data"]["test_counts"] == [12, 1]


def test_the_prepared_file_keeps_the_names_of_classes(toy):
    prepared = toy(raw([0, 1] * 20, [0, 1], class_names=("cat", "dog")))
    assert load(prepared.path).class_names == ("cat", "dog")
