"""What version 0.1.0 wrote is read and reused: a whole output folder with a claim, pruned trials and two axes."""

import csv
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from earlier import AS_THEN, WRITTEN, schedule

from ablate.commands import main
from ablate.store.declaration import SweepFolder


@pytest.fixture
def out(tmp_path) -> Path:
    with tarfile.open(WRITTEN / "runs.tar.gz") as archive:
        archive.extractall(tmp_path / "runs", filter="data")
    return tmp_path / "runs"


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def test_its_trials_are_reused_and_make_the_same_table_claims_and_verdicts(out, tmp_path):
    before = SweepFolder(out, "small").read_declaration()
    then = schedule(out, AS_THEN)
    assert then.is_finished()
    assert then.next_pack() is None
    assert then.num_finished() == 60
    assert [cell.key for cell in then.declaration.cells] == [cell.key for cell in before.cells]
    assert then.declaration.claims == before.claims
    assert not any(claim.is_exploratory for claim in then.declaration.claims)
    done = CliRunner().invoke(main, ["report", "--out", str(out), "--to", str(tmp_path / "report")])
    assert done.exit_code == 0, done.output
    expected, found = rows(WRITTEN / "table.csv"), rows(tmp_path / "report" / "table.csv")
    assert len(expected) == 6
    for row, as_before in zip(found, expected, strict=True):
        assert {name: row[name] for name in as_before} == as_before
    text = (tmp_path / "report" / "table.md").read_text(encoding="utf-8")
    assert "| ortho beats plain at depth 14                      | supported |" in text
    assert "| ortho beats plain by at least 40 points at depth 8 |   refuted |" in text


def test_more_of_it_asks_only_for_what_is_missing_and_evaluates_as_it_did(out):
    then = schedule(out, AS_THEN, "confirm.seeds=4")
    assert not then.is_finished()
    packs = []
    while (pack := then.next_pack()) is not None:
        packs.append(pack)
    assert len(packs) == 6
    for pack in packs:
        assert pack.proposals[0].phase == "confirm"
        assert pack.proposals[0].number == 3
        assert pack.requests[0].settings["statistics"] == "running"


def test_with_statistics_estimated_anew_none_of_its_trials_is_reused(out):
    assert schedule(out).num_finished() == 0
