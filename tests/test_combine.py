"""Several sweeps in one report, other layouts, and the check of claims, through the command line."""

from __future__ import annotations

import dataclasses

import pytest
from click.testing import CliRunner
from synthetic import ARMS, BASE, GAIN, Synthetic, declared_claim

from ablate.command_lines import Commands
from ablate.commands import main
from ablate.report.combine import combine
from ablate.report.sufficiency import Doubt, command
from ablate.store.declaration import SweepFolder

AXES = {"depth": ["20", "56"], "arm": list(ARMS)}


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    Synthetic(folder, sweep="first", axes=AXES, confirm=GAIN | BASE).write()
    Synthetic(folder, sweep="second", axes={"depth": ["56", "110"], "arm": list(ARMS)}, num_tune=7).write()
    Synthetic(folder, sweep="other", axes={"arm": list(ARMS)}, report={"rows": None}).write()
    return folder


def run(out, tmp_path, *arguments):
    return CliRunner().invoke(main, ["report", *arguments, "--out", str(out), "--to", str(tmp_path / "report")])


def claim(out, *claims):
    folder = SweepFolder(out, "first")
    folder.write_declaration(dataclasses.replace(folder.read_declaration(), claims=list(claims)), "")


def test_several_sweeps_share_a_table_with_the_sweep_in_the_row(out, tmp_path):
    done = run(out, tmp_path, "first", "second")
    assert done.exit_code == 0, done.output
    for row in ("first · 20", "first · 56", "second · 56", "second · 110"):
        assert f"| {row}" in done.stdout
    assert "note: The sweeps differ in tune trials a cell: first 6, second 7." in done.stdout
    page = (tmp_path / "report" / "report.html").read_text()
    assert "python cli.py report first second" in page


def test_what_settles_a_doubt_about_several_sweeps_changes_each_of_them(out):
    declarations = [SweepFolder(out, sweep).read_declaration() for sweep in ("first", "second")]
    declaration, _ = combine([(each, []) for each in declarations])
    doubt = Doubt(kind="epochs", text="it still rose", key="fixed.epochs", value=24)
    line = command(declaration, doubt, Commands(out))
    assert [part.count("--set fixed.epochs=24") for part in line.split(" && ")] == [1, 1]


def test_sweeps_with_different_numbers_of_seeds_keep_their_own(tmp_path):
    folder = tmp_path / "runs"
    Synthetic(folder, sweep="three", axes=AXES, num_seeds=3).write()
    Synthetic(folder, sweep="five", axes=AXES, num_seeds=5).write()
    done = run(folder, tmp_path, "three", "five")
    assert done.exit_code == 0, done.output
    assert "seeds)" not in done.stdout
    assert "unfinished" not in done.stdout
    assert "note: The sweeps differ in confirm seeds a cell: three 3, five 5." in done.stdout


def test_a_sweep_of_studies_beside_one_of_seeds_is_told_apart(tmp_path):
    folder = tmp_path / "runs"
    Synthetic(folder, sweep="one", axes=AXES).write()
    Synthetic(folder, sweep="five", axes=AXES, num_studies=5, num_seeds=1).write()
    done = run(folder, tmp_path, "one", "five")
    assert done.exit_code == 0, done.output
    assert "note: The sweeps differ in studies a cell: one 1, five 5." in done.stdout
    assert "note: The sweeps differ in confirm seeds a study: one 3, five 1." in done.stdout
    assert "one: A replicate is one training seed of the configuration that one search found." in done.stdout
    assert "five: A replicate is one study: 6 tune trials, then one training of the best; 5 studies" in done.stdout
    assert "intervals over replicates, which are studies in some sweeps and training seeds in the others" in done.stdout
    assert "they cover training, and those over studies tuning; they do not cover" in done.stdout
    rows = {line.split("|")[1].strip(): line for line in reversed(done.stdout.splitlines()) if line[:1] == "|"}
    assert "(n=3) △" in rows["one · 56"]
    assert "(n=5) ▲" in rows["five · 56"]


def test_more_trials_are_asked_for_by_the_key_of_each_sweep(tmp_path):
    parts = [Synthetic(tmp_path, sweep="one"), Synthetic(tmp_path, sweep="five", num_studies=5)]
    declaration, _ = combine([(part.declaration(), []) for part in parts])
    doubt = Doubt(kind="trials", text="few", key="budget.trials_per_cell", value=9)
    first, second = command(declaration, doubt, Commands(tmp_path)).split(" && ")
    assert "--set budget.trials_per_cell=9" in first
    assert "--set budget.trials=9" in second


def test_sweeps_with_other_axes_cannot_share_a_table(out, tmp_path):
    done = run(out, tmp_path, "first", "other")
    assert done.exit_code == 2
    assert done.stderr == (
        "the sweeps 'first' and 'other' have different axes and cannot share a table: ['arm', 'depth'] and ['arm']\n"
    )
    assert not (tmp_path / "report").exists()


def test_rows_and_columns_can_be_swapped_without_running_anything(out, tmp_path):
    done = run(out, tmp_path, "first", "--rows", "arm")
    assert done.exit_code == 0, done.output
    assert "| arm         |" in done.stdout
    assert "Difference to" not in done.stdout
    assert "python cli.py report first --rows arm" in (tmp_path / "report" / "report.html").read_text()


def test_another_metric_is_labelled(out, tmp_path):
    done = run(out, tmp_path, "first", "--metric", "val_accuracy")
    assert "Validation accuracy in percent" in done.stdout


def test_check_succeeds_only_where_all_claims_are_supported(out, tmp_path):
    claim(out, declared_claim())
    done = run(out, tmp_path, "first", "--check")
    assert done.exit_code == 0
    line = done.stdout.splitlines()[-1]
    assert line.startswith("supported: plain+ortho beats plain by at least 5 points at depth 56 (frozen before the ")
    # A claim is about the declared metric: in another layout the verdict stays.
    other = run(out, tmp_path, "first", "--check", "--metric", "val_accuracy")
    assert other.stdout.splitlines()[-1] == line
    claim(
        out, declared_claim(), declared_claim("plain+ortho beats plain by at least 30 points at depth 56", margin=0.3)
    )
    done = run(out, tmp_path, "first", "--check")
    assert done.exit_code == 1
    assert done.stdout.splitlines()[-1].startswith("refuted: ")
    page = (tmp_path / "report" / "report.html").read_text()
    assert '<span class="verdict refuted">refuted</span>' in page
    assert "2 claims, 0 of them exploratory, 0 withdrawn; the sweep was declared 2 times" in page


def test_the_trials_of_a_half_written_ledger_are_missing(tmp_path):
    Synthetic(tmp_path / "runs", sweep="first", axes=AXES).write()
    files = sorted((tmp_path / "runs" / "ledger").rglob("*.parquet"))
    victim = next(file for file in files if "00000000-" in file.name)
    victim.write_bytes(victim.read_bytes()[:100])
    done = run(tmp_path / "runs", tmp_path, "first")
    assert done.exit_code == 0, done.output
    assert victim.exists()
    assert "unfinished" in done.stdout
