"""Few images: a larger share is held out, and what one image or a tie decides is said."""

import dataclasses
import json

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from synthetic import Synthetic

from ablate.commands import main
from ablate.report.build import build_report
from ablate.store.declaration import SweepFolder, collect, tie_notices
from ablate.store.ledger import Ledger
from ablate.tasks import registry
from ablate.tasks.image_classification.config import resolve
from ablate.tasks.image_classification.data import image_folder
from ablate.tasks.image_classification.data.dataset import RawImages, Split
from ablate.tasks.image_classification.data.folders import DataFolders
from ablate.tasks.image_classification.data.prepare import prepare
from ablate.tasks.image_classification.task import TASK


@pytest.mark.parametrize(
    ("num_train", "num_val"),
    [(12, 2), (50, 10), (120, 24), (500, 100), (2_000, 100), (2_500, 100), (2_524, 100), (2_550, 102), (50_000, 2_000)],
)
def test_a_fifth_is_held_out_of_small_folders_and_a_25th_of_large_ones(tmp_path, monkeypatch, num_train, num_val):
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            (tmp_path / part / name / "0.png").touch()
    files = image_folder.ImageFiles

    def listed(root, part, classes, ways):
        num = num_train if part == "train" else 2
        return files(str(root), tuple(map(str, range(num))), torch.arange(num) % 2)

    monkeypatch.setattr(image_folder, "_files", listed)
    assert image_folder.load(DataFolders(tmp_path, tmp_path)).num_val == num_val


def write_folder(root, num_train: int, num_test: int) -> None:
    for part, num in (("train", num_train), ("val", num_test)):
        for number, name in enumerate(("cat", "dog")):
            (root / part / name).mkdir(parents=True)
            for index in range(num // 2):
                Image.new("RGB", (16, 16), (index, 200 * number, 0)).save(root / part / name / f"{index}.png")


SWEEP = """
name: photos
fixed: {dataset: image_folder, image_size: 16, batch_size: 8, epochs: 1}
axes: {depth: [8]}
tune: {lr: {low: 1.0e-3, high: 0.1, log: true}}
budget: {trials_per_cell: 2}
confirm: {seeds: 2}
"""


def plan(tmp_path, *arguments):
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    return CliRunner().invoke(
        main, ["plan", str(tmp_path / "sweep.yaml"), "--out", str(tmp_path / "runs"), "--no-probe", *arguments]
    )


def test_plan_says_what_one_image_is_worth(tmp_path, monkeypatch):
    monkeypatch.setenv("ABLATE_DATA", str(tmp_path))
    write_folder(tmp_path / "image_folder", 100, 40)
    result = plan(tmp_path)
    assert "80 training, 20 validation and 40 test images" in result.output
    assert "warning: one of the 20 validation images is worth 5.0 points: tune trials can tie" in result.output
    assert "warning: one of the 40 test images is worth 2.5 points" in result.output
    warnings = json.loads(plan(tmp_path, "--json").output)["warnings"]
    assert [text.partition(" images")[0] for text in warnings] == ["one of the 20 validation", "one of the 40 test"]


def declared(tmp_path, **data):
    declaration = Synthetic(tmp_path).declaration()
    data = {**declaration.data, **data}
    notices = TASK.notices(data, [cell.settings for cell in declaration.cells])
    return dataclasses.replace(declaration, data=data, notices=notices)


@pytest.mark.parametrize(
    ("data", "settings", "notices"),
    [
        ({"num_val": 100, "num_test": 100}, [{}], []),
        ({"num_val": 99}, [{}], ["one of the 99 validation images is worth 1.0 points"]),
        ({"num_test": 7}, [{}], ["one of the 7 test images is worth 14.3 points"]),
        ({"num_val": 400}, [{"num_val": 400}, {"num_val": 25}], ["one of the 25 validation images is worth 4.0"]),
        ({"absent": {"test": ["owl", "cat"]}}, [{}], ["no test image shows owl, cat"]),
        ({"absent": {"validation": list("abcdefg")}}, [{}], ["no validation image shows a, b, c, d, e and 2 more"]),
    ],
)
def test_a_notice_comes_where_one_image_is_worth_more_than_a_point(tmp_path, data, settings, notices):
    declaration = declared(tmp_path, **data)
    found = TASK.notices(declaration.data, settings)
    assert len(found) == len(notices)
    assert all(text.startswith(start) for text, start in zip(found, notices, strict=True))


def test_a_report_says_what_one_image_is_worth(tmp_path):
    declaration = Synthetic(tmp_path / "runs").write()
    folder = SweepFolder(tmp_path / "runs", declaration.sweep)
    folder.write_declaration(declared(tmp_path / "runs", num_val=40, absent={"test": ["owl"]}), "")
    found = build_report(tmp_path / "runs", declaration.sweep, tmp_path / "report")
    text = "One of the 40 validation images is worth 2.5 points: "
    assert any(notice.startswith(text) for notice in found.notices)
    assert "No test image shows owl: accuracy says nothing about what has no image." in found.notices
    assert text in (tmp_path / "report" / "report.html").read_text()


class Tying(Synthetic):
    """Tune trials of the plain arm reach these validation accuracies; those of the others fall."""

    accuracies: tuple[float, ...] = (0.9, 0.9, 0.5, 0.5, 0.9, 0.5)

    def _record(self, key, fingerprint, seed, phase, state, settings, accuracy, noise):
        number = seed % 100
        if phase == "tune" and seed // 100 % 100 == 1:
            accuracy = self.accuracies[number]
        return super()._record(key, fingerprint, seed, phase, state, settings, accuracy, noise)


def trials(tmp_path, accuracies, *, num_seeds=2, same=False):
    written = Tying(tmp_path, tune_states=("complete",), num_seeds=num_seeds, axes={"arm": ["residual", "plain"]},
                    report={"rows": None})  # fmt: skip
    written.accuracies = accuracies
    declaration = written.write()
    proposals = SweepFolder(tmp_path, declaration.sweep).read_proposals()
    if same:
        first = {p.cell: p for p in reversed(proposals)}
        proposals = [dataclasses.replace(p, settings=first[p.cell].settings) for p in proposals]
    return declaration, collect(declaration, proposals, Ledger(tmp_path))


def test_a_tie_that_decided_the_winner_is_told(tmp_path):
    _, cells = trials(tmp_path, (0.9, 0.9, 0.5, 0.5, 0.9, 0.5))
    (text,) = tie_notices(cells)
    assert text.endswith("and the first of them was confirmed: arm=plain (3 of 6 at 90.0%)")
    assert [proposal.number for proposal in cells[1].studies[0].tied()] == [0, 1, 4]
    found = build_report(tmp_path, "depth_ablation@smoke", tmp_path / "report")
    assert f"The{text[3:]}." in found.notices


@pytest.mark.parametrize(
    "accuracies", [(0.9, 0.8, 0.8, 0.5, 0.5, 0.5), (0.9, 0.8999, 0.5, 0.5, 0.5, 0.5)], ids=["below", "close"]
)
def test_ties_below_the_winner_decide_nothing(tmp_path, accuracies):
    _, cells = trials(tmp_path, accuracies)
    assert tie_notices(cells) == []


def test_one_configuration_that_is_tried_twice_is_no_tie(tmp_path):
    _, cells = trials(tmp_path, (0.9,) * 6, same=True)
    assert len(cells[1].tune) == 6
    assert tie_notices(cells) == []


def test_plan_tells_the_ties_of_what_has_run(tmp_path, monkeypatch):
    from ablate.run import estimate as estimates
    from ablate.run.plan import make_plan

    split = Split(torch.randint(0, 256, (300, 1, 8, 8)).to(torch.uint8), torch.arange(300) % 2)
    row = registry.Row(kind="dataset", name="toy", target=lambda folders: RawImages(split, None, 60), summary="noise")
    monkeypatch.setitem(registry._rows["dataset"], "toy", row)
    assert prepare(resolve({"dataset": "toy"}), tmp_path).num_test == 60
    (tmp_path / "sweep.yaml").write_text(SWEEP.replace("image_folder, image_size: 16", "toy"))
    made = make_plan(tmp_path / "sweep.yaml", None, [], tmp_path / "runs")
    _, cells = trials(tmp_path / "other", (0.9, 0.9, 0.5, 0.5, 0.5, 0.5))
    made.folder.append_proposal(cells[1].tune[0][0])
    monkeypatch.setattr(estimates, "collect", lambda declaration, proposals, ledger: cells)
    monkeypatch.setattr(estimates, "_num_finished", lambda trials: 0)
    cost = estimates.estimate(made, jobs=1, device="cpu", with_probe=False)
    assert any("warning: the best tune trials tie" in line for line in estimates.lines(cost, made))
