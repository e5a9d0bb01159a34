"""A sweep in one file, and such files put together: what is added, what stays, what is refused."""

import dataclasses
import json
import os
import shutil
import stat
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from command_line import command
from earlier import AS_THEN, WRITTEN, schedule
from fuzzing import fuzz, mutated_bytes, one_input
from hypothesis import given
from hypothesis import strategies as st
from services import s3_objects, s3_server
from synthetic import Synthetic

import ablate.bundle.merge
import ablate.places
import ablate.storage
from ablate.bundle.archive import MANIFEST, VERSION
from ablate.bundle.export import export_sweep
from ablate.bundle.merge import merge
from ablate.commands import main
from ablate.errors import UsageError
from ablate.places import to_place
from ablate.storage import locked
from ablate.store.declaration import Proposal, SweepFolder, collect
from ablate.store.ledger import Ledger
from ablate.store.record import SCHEMA_VERSION, TrialRecord

SWEEP = "depth_ablation@smoke"
AXES = {"depth": ["20", "56"], "arm": ["plain", "residual"]}
ELSEWHERE = {"device": "cuda: NVIDIA A100", "torch": "2.15.0", "numpy": "2.3.1"}
Change = Callable[[TrialRecord], TrialRecord]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The output folder of a sweep of four cells: complete, pruned, diverged and failed trials, one table of layers."""
    out = tmp_path_factory.mktemp("whole") / "runs"
    states = ("complete", "pruned", "diverged", "failed")
    Synthetic(out, num_tune=4, num_seeds=2, axes=AXES, tune_states=states).write()
    record = next(record for record in records(out) if record.phase == "confirm")
    layers = {"epoch": [1, 2], "position": [0, 0], "layer": ["fc", "fc"], "gain": [0.5, float("nan")]}
    Ledger(out).path(record.key).unlink()
    Ledger(out).write(dataclasses.replace(record, layers=layers))
    return out


def proposals(out: Path) -> list[Proposal]:
    return SweepFolder(out, SWEEP).read_proposals()


def records(out: Path) -> list[TrialRecord]:
    trials = {(p.key, p.cell): p for p in proposals(out)}
    return [record for _, stored in Ledger(out, is_read_only=True).stored(trials, SWEEP) for record in stored if record]


def part(whole: Path, out: Path, keep: Callable[[Proposal], bool], change: Change = lambda record: record) -> Path:
    """Write a folder in which the same sweep has run in part, on a machine that may give other numbers."""
    source, folder, ledger = SweepFolder(whole, SWEEP), SweepFolder(out, SWEEP), Ledger(out)
    folder.write_declaration(source.read_declaration(), (source.path / "resolved.yaml").read_text())
    for proposal in proposals(whole):
        if keep(proposal):
            folder.append_proposal(proposal)
    trials = {(p.key, p.cell): p for p in proposals(out)}
    for _, stored in Ledger(whole).stored(trials, SWEEP):
        for record in filter(None, stored):
            table = Ledger(whole).read_layers(record)
            ledger.write(change(dataclasses.replace(record, layers=table.to_pydict() if table else {})))
    return out


def in_cells(*numbers: int) -> Callable[[Proposal], bool]:
    return lambda proposal: proposal.cell in [f"cell{number}" for number in numbers]


def exported(out: Path, name: str) -> Path:
    file = out.parent / name
    export_sweep(out, SWEEP, file)
    return file


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file below a folder, with its time: what was written anew is seen."""
    found = [path for path in folder.rglob("*") if path.is_file() and path.name not in ("lock", "latest_sweep")]
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


def contents(folder: Path) -> dict[str, bytes]:
    """The content of every file but the proposals, which are written with the parameters that are new since."""
    return {name: content for name, (content, _) in files(folder).items() if not name.endswith("proposals.jsonl")}


def invoke(*arguments: str | Path):
    return CliRunner().invoke(main, [str(each) for each in arguments])


def refused(out: Path, *bundles: Path) -> list[str]:
    """Merge, by the command, what must be refused: exit code 2, and nothing changes. Return what it says."""
    before = files(out) if out.exists() else None
    done = invoke("merge", *bundles, "--out", out)
    assert (done.exit_code, done.stdout) == (2, "")
    assert (files(out) if out.exists() else None) == before
    assert not list(Path(ablate.bundle.merge.tempfile.gettempdir()).glob("ablate-merge-*/*"))
    return done.stderr.splitlines()


@pytest.fixture(autouse=True)
def _own_temporary_folder(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(ablate.bundle.merge.tempfile, "tempdir", str(tmp_path_factory.mktemp("unpacked")))


def test_a_sweep_comes_out_of_a_bundle_as_it_went_in(whole, tmp_path):
    file = exported(whole, "whole.zip")
    done = invoke("merge", file, "--out", tmp_path / "runs")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(f"{file}: sweep '{SWEEP}': 24 trials added, 0 were there already\n")
    assert contents(tmp_path / "runs") == contents(whole)
    assert collected(tmp_path / "runs") == collected(whole)
    with zipfile.ZipFile(file) as archive:
        manifest = json.loads(archive.read(MANIFEST))
        assert archive.namelist() == [MANIFEST, *sorted(manifest["members"])]
    assert manifest["sweep"] == SWEEP
    assert manifest["declaration"] == SweepFolder(whole, SWEEP).read_declaration().history[-1]


def collected(out: Path):
    folder = SweepFolder(out, SWEEP)
    return collect(folder.read_declaration(), folder.read_proposals(), Ledger(out, is_read_only=True))


def test_the_same_state_gives_the_same_bytes(whole, tmp_path):
    first = exported(whole, "first.zip").read_bytes()
    os.utime(SweepFolder(whole, SWEEP).path / "resolved.yaml", (0, 0))
    assert exported(whole, "second.zip").read_bytes() == first
    merge([exported(whole, "first.zip")], tmp_path / "runs")
    assert exported(tmp_path / "runs", "third.zip").read_bytes() == first


def test_exporting_changes_nothing_and_leaves_out_what_is_not_of_the_sweep(tmp_path):
    out = tmp_path / "runs"
    Synthetic(out, num_tune=2, num_seeds=1, axes=AXES).write()
    Synthetic(out, sweep="other", num_tune=4, num_seeds=2, axes=AXES, tune_states=("pruned", "complete")).write()
    before = files(out)
    done = invoke("export", SWEEP, "--to", tmp_path / "one.zip", "--out", out)
    assert done.exit_code == 0, done.output
    assert f"sweep '{SWEEP}', 12 trials, " in done.stdout
    assert "python cli.py merge " in done.stdout
    assert files(out) == before
    merge([tmp_path / "one.zip"], tmp_path / "merged")
    assert {record.key for record in records(tmp_path / "merged")} == {p.key for p in proposals(out)}
    assert not list((tmp_path / "merged").rglob("*other*"))


def test_merging_twice_does_nothing_and_says_so(whole, tmp_path):
    file, out = exported(whole, "whole.zip"), tmp_path / "runs"
    assert invoke("merge", file, "--out", out).exit_code == 0
    before = files(out)
    done = invoke("merge", file, file, "--out", out)
    assert done.exit_code == 0
    assert done.stdout.startswith(f"{file}: sweep '{SWEEP}': nothing to add, 24 trials are there already\n")
    assert files(out) == before


def test_parts_of_a_sweep_become_one_and_the_next_command_is_printed(whole, tmp_path):
    first = exported(part(whole, tmp_path / "a" / "runs", in_cells(0, 1)), "first.zip")
    second = exported(part(whole, tmp_path / "b" / "runs", in_cells(1, 2, 3)), "second.zip")
    out = tmp_path / "runs"
    done = invoke("merge", first, "--out", out)
    assert done.exit_code == 0, done.output
    assert "12 trials added, 0 were there already" in done.stdout
    assert f"{SWEEP}: 10 of 24 trials have ended. To run what is missing: python cli.py sweep " in done.stdout
    assert f"--out {out}" in done.stdout
    done = invoke("merge", second, "--out", out)
    assert "12 trials added, 6 were there already" in done.stdout
    assert collected(out) == collected(whole)
    done = invoke("report", SWEEP, "--out", out, "--to", tmp_path / "report")
    assert done.exit_code == 0, done.output


def test_a_finished_sweep_is_to_be_reported(tmp_path):
    out = tmp_path / "runs"
    Synthetic(out, num_tune=2, num_seeds=1, axes=AXES).write()
    done = invoke("merge", exported(out, "one.zip"), "--out", tmp_path / "merged")
    line = f"{SWEEP}: all 12 trials have ended. Next: python cli.py report {SWEEP} --out {tmp_path / 'merged'}"
    assert line in done.stdout.splitlines()


def test_a_merged_sweep_goes_on_with_what_is_missing_only(tmp_path):
    runs = tmp_path / "runs"
    with tarfile.open(WRITTEN / "runs.tar.gz") as archive:
        archive.extractall(runs, filter="data")
    cells = [cell.key for cell in SweepFolder(runs, "small").read_declaration().cells]
    bundles = []
    for name, keys in (("a", cells[:2]), ("b", cells[2:])):
        shutil.copytree(runs, tmp_path / name)
        file = tmp_path / name / "small" / "proposals.jsonl"
        lines = [line for line in file.read_text().splitlines() if json.loads(line)["cell"] in keys]
        file.write_text("".join(f"{line}\n" for line in lines))
        bundles.append(tmp_path / f"{name}.zip")
        export_sweep(tmp_path / name, "small", bundles[-1])
    (first,) = merge(bundles[:1], tmp_path / "merged")
    assert (first.num_added, first.num_known) == (20, 0)
    half = schedule(tmp_path / "merged", AS_THEN)
    assert half.num_finished() == 20
    waiting = [half.next_pack() for _ in range(4)]
    assert {pack.proposals[0].cell for pack in waiting} == set(cells[2:])
    assert half.next_pack() is None

    merge(bundles, tmp_path / "together")
    then = schedule(tmp_path / "together", AS_THEN)
    assert then.num_finished() == 60
    assert then.is_finished()
    assert then.next_pack() is None
    done = invoke("report", "small", "--out", tmp_path / "together", "--to", tmp_path / "report")
    assert done.exit_code == 0, done.output
    assert "| ortho beats plain at depth 14                      | supported |" in done.stdout


def elsewhere(record: TrialRecord) -> TrialRecord:
    """The same numbers, computed at another time on another machine."""
    provenance = {**record.provenance, **ELSEWHERE}
    return dataclasses.replace(
        record, duration_s=1.5, started_at="2027-05-01T00:00:00Z", finished_at="", provenance=provenance
    )


def test_equal_numbers_with_other_times_and_machines_are_no_conflict_and_the_first_stay(whole, tmp_path):
    file = exported(part(whole, tmp_path / "b" / "runs", lambda _: True, elsewhere), "other.zip")
    out = part(whole, tmp_path / "runs", in_cells(0))
    before = files(out)
    done = invoke("merge", file, "--out", out)
    assert done.exit_code == 0, done.output
    assert "18 trials added, 6 were there already" in done.stdout
    after = files(out)
    for name, found in before.items():
        assert after[name] == found or name.endswith("proposals.jsonl")


def test_status_and_report_say_where_the_trials_come_from(whole, tmp_path):
    out = part(whole, tmp_path / "runs", in_cells(0))
    assert "trials come from" not in invoke("status", "--out", out).stdout
    assert "origins" not in json.loads(invoke("status", "--json", "--out", out).stdout)
    merge([exported(part(whole, tmp_path / "b" / "runs", in_cells(1, 2, 3), elsewhere), "other.zip")], out)
    found = invoke("status", "--out", out).stdout
    assert "  trials come from: cuda: NVIDIA A100, torch 2.15.0 (18); cpu, torch 2.14.0 (6)\n" in found
    origins = json.loads(invoke("status", "--json", "--out", out).stdout)["origins"]
    assert origins[1] == {"device": "cpu", "torch": "2.14.0", "trials": 6}
    assert invoke("report", "--out", out, "--to", tmp_path / "report").exit_code == 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert "The trials are from 2 classes of device: 18 from cuda: NVIDIA A100 and 6 from cpu." in page


def less_accurate(record: TrialRecord) -> TrialRecord:
    if record.state != "complete" or record.phase != "confirm":
        return elsewhere(record)
    return dataclasses.replace(elsewhere(record), metrics={**record.metrics, "test_accuracy": 0.5})


def test_other_numbers_for_the_same_trial_are_named_and_nothing_of_any_file_is_merged(whole, tmp_path):
    out = part(whole, tmp_path / "runs", in_cells(0))
    good = exported(part(whole, tmp_path / "b" / "runs", in_cells(1)), "good.zip")
    other = exported(part(whole, tmp_path / "c" / "runs", in_cells(0, 2), less_accurate), "other.zip")
    lines = refused(out, good, other)
    confirmed = [p for p in proposals(out) if p.phase == "confirm"]
    assert lines == [
        *(
            f"{other}: the trial {p.key} has other numbers in {out}: test_accuracy is "
            f"{Ledger(out).read(p.key, '').metrics['test_accuracy']!r} there (cpu, torch 2.14.0, numpy unknown) "
            "and 0.5 in the file (cuda: NVIDIA A100, torch 2.15.0, numpy 2.3.1)"
            for p in confirmed
        ),
        "nothing was merged",
    ]


def test_bundles_that_contradict_each_other_are_refused_in_an_empty_folder(whole, tmp_path):
    first = exported(part(whole, tmp_path / "b" / "runs", in_cells(0)), "first.zip")
    second = exported(part(whole, tmp_path / "c" / "runs", in_cells(0), less_accurate), "second.zip")
    lines = refused(tmp_path / "runs", first, second)
    assert len(lines) == 3
    assert f"has other numbers in {first}: test_accuracy is" in lines[0]
    assert not (tmp_path / "runs").exists()


def test_bundles_of_two_sweeps_that_share_a_trial_with_other_numbers_are_refused(whole, tmp_path):
    source = tmp_path / "b" / "runs"
    Synthetic(source, sweep="other", num_tune=4, num_seeds=2, axes=AXES, confirm={("plain", "20", 0): 0.25}).write()
    other = tmp_path / "other.zip"
    export_sweep(source, "other", other)
    first = exported(part(whole, tmp_path / "a" / "runs", in_cells(0, 1)), "first.zip")
    (line, _) = refused(tmp_path / "runs", first, other)
    assert line.startswith(f"{other}: the trial ")
    assert f"has other numbers in {first}: test_accuracy is " in line
    assert " and 0.25 in the file" in line


def test_an_unzipped_bundle_is_an_output_folder(whole, tmp_path):
    with zipfile.ZipFile(exported(whole, "whole.zip")) as archive:
        archive.extractall(tmp_path / "runs")
    assert collected(tmp_path / "runs") == collected(whole)
    assert invoke("status", "--out", tmp_path / "runs").exit_code == 0


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"num_seeds": 3}, "num_seeds is 2 there and 3 in the file"),
        ({"question": "Why?", "sampler": "qmc"}, "question is 'Do .*' there and 'Why\\?' in the file; sampler is "),
        ({"report": {"metric": "test_accuracy"}}, "report differs"),
        ({"data": {"num_train": 5}}, "data differs"),
    ],
)
def test_another_declaration_of_the_same_sweep_is_named(whole, tmp_path, change, text):
    out = part(whole, tmp_path / "runs", in_cells(0))
    source = part(whole, tmp_path / "b" / "runs", in_cells(1))
    folder = SweepFolder(source, SWEEP)
    declaration = folder.read_declaration()
    if "data" in change:
        change = {"data": {**declaration.data, **change["data"]}}
    folder.write_declaration(dataclasses.replace(declaration, **change), "")
    lines = refused(out, exported(source, "other.zip"))
    assert len(lines) == 2
    with pytest.raises(UsageError, match=rf"the sweep '{SWEEP}' is declared otherwise in {out}: {text}"):
        merge([tmp_path / "b" / "other.zip"], out)


def test_how_a_declaration_came_about_is_no_conflict(whole, tmp_path):
    out = part(whole, tmp_path / "runs", in_cells(0))
    source = part(whole, tmp_path / "b" / "runs", in_cells(1))
    folder = SweepFolder(source, SWEEP)
    declaration = folder.read_declaration()
    other = dataclasses.replace(
        declaration, path="/home/bob/study/x.yaml", file="x.yaml", overrides=["a=1"], history=["b2c4e6f801"],
        data={**declaration.data, "absent": {}},
    )  # fmt: skip
    folder.write_declaration(other, "")
    file = exported(source, "other.zip")
    with zipfile.ZipFile(file) as archive:
        assert json.loads(archive.read(f"{SWEEP}/declaration.json"))["path"] == "x.yaml"
    (merged,) = merge([file], out)
    assert merged.num_added == 6
    assert SweepFolder(out, SWEEP).read_declaration() == declaration


def test_a_margin_that_was_late_on_one_side_is_late_in_the_merged_sweep(whole, tmp_path):
    out = part(whole, tmp_path / "runs", in_cells(0))
    source = part(whole, tmp_path / "b" / "runs", in_cells(0))
    on_time = exported(source, "on_time.zip")
    folder = SweepFolder(source, SWEEP)
    folder.write_declaration(dataclasses.replace(folder.read_declaration(), is_late_margin=True), "")
    late = exported(source, "late.zip")
    declared = SweepFolder(out, SWEEP).read_declaration()
    for bundles, is_changed in (([on_time, late], [False, True]), ([late, on_time], [False, False])):
        assert [merged.is_changed for merged in merge(bundles, out)] == is_changed
        assert SweepFolder(out, SWEEP).read_declaration() == dataclasses.replace(declared, is_late_margin=True)


def test_other_proposals_of_the_same_number_are_named(whole, tmp_path):
    out = part(whole, tmp_path / "runs", in_cells(0))
    source = part(whole, tmp_path / "b" / "runs", lambda p: p.cell == "cell0" and p.number == 0 and p.phase == "tune")
    lines = (source / SWEEP / "proposals.jsonl").read_text()
    (source / SWEEP / "proposals.jsonl").write_text("")
    (proposal,) = map(json.loads, lines.splitlines())
    settings = {**proposal["settings"], "lr": 0.7}
    SweepFolder(source, SWEEP).append_proposal(Proposal(**{**proposal, "settings": settings, "key": "ab-01"}))
    text = "the tune trial 0 of depth=20, arm=plain is proposed otherwise in"
    assert refused(out, exported(source, "other.zip")) == [
        f"{tmp_path / 'b' / 'other.zip'}: {text} {out}: lr is 0.1 there and 0.7 in the file", "nothing was merged",
    ]  # fmt: skip


def test_a_trial_that_its_cell_stopped_on_one_side_only_is_a_conflict(whole, tmp_path):
    stopped = next(p for p in proposals(whole) if p.phase == "tune" and p.number == 1)
    complete = next(record for record in records(whole) if record.phase == "tune" and record.state == "complete")

    def to_its_end(record: TrialRecord) -> TrialRecord:
        same = {name: getattr(record, name) for name in ("key", "fingerprint", "seed", "settings")}
        return dataclasses.replace(complete, **same) if record.state == "pruned" else record

    out = part(whole, tmp_path / "runs", in_cells(0))
    other = part(whole, tmp_path / "b" / "runs", lambda p: p == stopped, to_its_end)
    text = f"the trial {stopped.key} has other numbers in"
    for lines, state in (
        (refused(out, exported(other, "b.zip")), "pruned there"),
        (refused(other, exported(out, "a.zip")), "complete there"),
    ):
        assert len(lines) == 2
        assert text in lines[0]
        assert f"state is {state}" in lines[0]
    # Another sweep's complete trial is no conflict: what was stopped in a cell stays so there.
    (other / SWEEP / "proposals.jsonl").unlink()
    merge([tmp_path / "a.zip"], other)
    assert collected(other) == collected(out)


def test_a_failed_trial_gives_way_to_a_result_and_replaces_none(whole, tmp_path):
    def fail(record: TrialRecord) -> TrialRecord:
        return dataclasses.replace(
            record, state="failed", reason="out_of_memory", message="x", metrics={}, curves={}, sweep=SWEEP,
            weights_digest="", diverged_epoch=None, diverged_step=None, diverged_layer="", layers={},
        )  # fmt: skip

    failed = part(whole, tmp_path / "a" / "runs", in_cells(0), fail)
    out = part(whole, tmp_path / "runs", in_cells(0))
    before = collected(out)
    (merged,) = merge([exported(failed, "failed.zip")], out)
    assert (merged.num_added, merged.is_changed) == (0, False)
    assert collected(out) == before
    (merged,) = merge([exported(out, "good.zip")], failed)
    assert merged.num_added == 5  # The sixth failed on both sides.
    assert collected(failed)[0].confirm == before[0].confirm
    assert [r.state for _, r in collected(failed)[0].tune] == ["complete", "pruned", "diverged", "failed"]
    assert not merge([tmp_path / "good.zip"], failed)[0].is_changed


def test_proposals_that_were_made_later_are_added_after_the_earlier_ones(whole, tmp_path):
    out = part(whole, tmp_path / "runs", in_cells(0))
    later = part(whole, tmp_path / "b" / "runs", in_cells(0))
    first = next(p for p in proposals(out) if p.phase == "confirm")
    # The winner changed with more tune trials, and its confirm trials were proposed anew.
    again = dataclasses.replace(first, key="ab-01", settings={**first.settings, "lr": 0.7})
    SweepFolder(later, SWEEP).append_proposal(again)
    earlier, newer = exported(out, "earlier.zip"), exported(later, "newer.zip")
    assert merge([newer], out)[0].is_changed
    assert proposals(out) == [*proposals(whole)[:6], again]
    assert not merge([earlier], out)[0].is_changed
    assert proposals(out)[-1] == again


def test_tables_of_layers_travel_with_their_records(whole, tmp_path):
    record = next(record for record in records(whole) if Ledger(whole).read_layers(record) is not None)
    out = tmp_path / "runs"
    merge([exported(whole, "whole.zip")], out)
    path = Ledger(out).layers_path(record.key)
    assert path.read_bytes() == Ledger(whole).layers_path(record.key).read_bytes()
    path.unlink()
    (merged,) = merge([exported(whole, "whole.zip")], out)
    assert (merged.num_added, merged.is_changed) == (0, True)
    assert path.exists()
    table = pq.ParquetFile(path).read()
    pq.write_table(table.set_column(3, "gain", pa.array([0.25, 0.25], pa.float32())), path)
    text = f"the trial {record.key} has another table of layers in {out}"
    assert refused(out, exported(whole, "whole.zip"))[0].endswith(text)


def of_bits(*bits: float) -> Change:
    """Return what gives complete confirm trials an item of every test image."""
    return lambda record: (
        dataclasses.replace(record, items={"test_accuracy": list(bits)}, items_digest="d")
        if (record.state, record.phase) == ("complete", "confirm")
        else record
    )


def test_items_travel_with_their_records_and_must_be_equal_where_both_have_them(whole, tmp_path):
    file = exported(part(whole, tmp_path / "b" / "runs", in_cells(0), of_bits(1, 0, 1)), "bits.zip")
    out = tmp_path / "runs"
    merge([file], out)
    keys = [proposal.key for proposal in proposals(out) if proposal.phase == "confirm"]
    kept = [Ledger(out).read(key, "", items=None).items for key in keys]
    assert kept
    assert kept == [{"test_accuracy": [1, 0, 1]}] * len(keys)
    assert not merge([exported(part(whole, tmp_path / "c" / "runs", in_cells(0)), "none.zip")], out)[0].is_changed
    other = exported(part(whole, tmp_path / "d" / "runs", in_cells(0), of_bits(1, 1, 0)), "other.zip")
    lines = refused(out, other)
    text = f"{other}: the trial {keys[0]} has other numbers in {out}: items of test_accuracy is another list there"
    assert lines[0].startswith(text)


def test_a_damaged_record_is_not_exported_and_a_merge_mends_it(whole, tmp_path, caplog):
    out = tmp_path / "runs"
    merge([exported(whole, "whole.zip")], out)
    path = next(path for path in (out / "ledger" / "trials").rglob("*.parquet") if "~" not in path.name)
    content = path.read_bytes()
    path.write_bytes(content[:-9])
    assert export_sweep(out, SWEEP, tmp_path / "damaged.zip").num_trials == 23
    assert f"{path} is damaged and counts as missing" in caplog.text
    assert path.exists()
    (merged,) = merge([exported(whole, "whole.zip")], out)
    assert (merged.num_added, merged.num_known) == (1, 23)
    assert path.read_bytes() == content
    assert (out / "ledger" / "aside" / path.name).read_bytes() == content[:-9]


def test_a_newer_record_ends_the_export(whole, tmp_path):
    out = part(whole, tmp_path / "runs", in_cells(0))
    path = next(path for path in (out / "ledger" / "trials").rglob("*.parquet"))
    newer(path)
    done = invoke("export", SWEEP, "--to", tmp_path / "x.zip", "--out", out)
    assert (done.exit_code, done.stdout) == (1, "")
    assert f"cannot read {path}: its schema version {SCHEMA_VERSION + 1} is newer" in done.stderr
    assert not (tmp_path / "x.zip").exists()


def newer(path: Path) -> None:
    table = pq.ParquetFile(path).read()
    version = pa.array([SCHEMA_VERSION + 1], pa.int32())
    pq.write_table(table.set_column(0, "schema_version", version), path)


def test_an_unknown_sweep_is_told_with_the_choices(whole, tmp_path):
    done = invoke("export", "depth_ablation@smok", "--to", tmp_path / "x.zip", "--out", whole)
    assert done.exit_code == 2
    assert f"no sweep 'depth_ablation@smok' in {whole}. Did you mean '{SWEEP}'? Available: {SWEEP}" in done.stderr
    assert not (tmp_path / "x.zip").exists()


def test_export_replaces_a_bundle_and_no_other_file(whole, tmp_path):
    target = tmp_path / "x.yaml"
    target.write_text("name: x\n")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "nowhere").symlink_to(tmp_path / "unmounted" / "x.zip")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for file in (target, tmp_path / "pipe", tmp_path / "nowhere", tmp_path / "loop"):
        done = invoke("export", SWEEP, "--to", file, "--out", whole)
        assert done.exit_code == 2
        assert f"{file} is there already and is no bundle: give --to another name" in done.stderr
    assert target.read_text() == "name: x\n"
    assert (tmp_path / "nowhere").is_symlink()
    assert (tmp_path / "loop").is_symlink()
    assert exported(whole, "whole.zip") == exported(whole, "whole.zip")


def test_a_url_in_place_of_a_file_is_refused_and_no_folder_has_its_name(whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments in (
        ("export", SWEEP, "--to", "s3://bucket/x.zip", "--out", whole),
        ("report", SWEEP, "--to", "s3://bucket/report", "--out", whole),
        ("merge", "s3://bucket/x.zip", "--out", "runs"),
        ("plan", "https://me:canary@host/x.yaml", "--out", "runs"),
    ):
        done = invoke(*arguments)
        assert (done.exit_code, done.stdout) == (2, "")
        scheme = "https" if arguments[0] == "plan" else "s3"
        assert f": must be a path on this machine; got {scheme}://…\n" in done.stderr
        assert "canary" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_one_file_under_several_names_is_merged_once(whole, tmp_path):
    file, out = exported(part(whole, tmp_path / "a" / "runs", in_cells(0)), "one.zip"), tmp_path / "runs"
    (tmp_path / "link.zip").symlink_to(file)
    done = invoke("merge", file, file, tmp_path / "link.zip", "--out", out)
    assert done.exit_code == 0, done.output
    first, second, _ = done.stdout.splitlines()
    assert first == f"{file}: sweep '{SWEEP}': 6 trials added, 0 were there already"
    assert second == f"{tmp_path / 'link.zip'}: sweep '{SWEEP}': nothing to add, 6 trials are there already"
    before = files(tmp_path / "a" / "runs")
    assert (
        "nothing to add, 6 trials are there already" in invoke("merge", file, "--out", tmp_path / "a" / "runs").stdout
    )
    assert files(tmp_path / "a" / "runs") == before


@pytest.mark.parametrize("name", ["ledger", SWEEP, f"{SWEEP}/lock", f"{SWEEP}/proposals.jsonl"])
def test_what_lies_in_the_way_of_a_merge_is_named_and_stays(small, tmp_path, name):
    out = tmp_path / "runs"
    way = out / name
    way.parent.mkdir(parents=True)
    if way.name in ("lock", "proposals.jsonl"):
        way.mkdir()
    else:
        way.write_text("mine")
    before = files(out)
    done = invoke("merge", small, "--out", out)
    assert (done.exit_code, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(str(way))
    assert files(out) == before
    assert way.exists()


def test_a_sweep_that_runs_in_the_folder_is_not_merged_into(whole, tmp_path):
    out = part(whole, tmp_path / "runs", in_cells(0))
    with locked(out / SWEEP / "lock"):
        (line,) = refused(out, exported(whole, "whole.zip"))
    command = f"python cli.py status {SWEEP} --out {out}"
    assert line == f"the sweep '{SWEEP}' is running in {out}: merge when it has ended; how far it is says: {command}"


@pytest.mark.parametrize("is_empty", [True, False])
def test_a_merge_that_was_cut_off_is_harmless_and_is_completed(whole, tmp_path, monkeypatch, is_empty):
    file = exported(whole, "whole.zip")
    # Every file, and at the end the proposals, which are appended.
    num_files = len(contents(whole)) - (0 if is_empty else 9)
    write = ablate.bundle.merge.write_atomically
    for number in [*range(0, num_files - 2, 6), *range(num_files - 2, num_files + 1)]:
        out = tmp_path / str(number) / "runs"
        if not is_empty:
            part(whole, out, in_cells(0))
        num_left = [number]

        def stop(path, content, num_left=num_left):
            num_left[0] -= 1
            if num_left[0] < 0:
                raise KeyboardInterrupt
            return write(path, content)

        def stop_at_the_end(folder, *proposals):
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(ablate.bundle.merge, "write_atomically", stop)
            patched.setattr(SweepFolder, "append_proposal", stop_at_the_end)
            with pytest.raises(KeyboardInterrupt):
                merge([file], out)
            assert (num_left[0] < 0) == (number < num_files)
        if (out / SWEEP / "declaration.json").exists():
            assert invoke("status", "--out", out).exit_code == 0
        merge([file], out)
        assert collected(out) == collected(whole)


@pytest.fixture
def small(tmp_path) -> Path:
    """A bundle of three trials."""
    out = tmp_path / "small" / "runs"
    Synthetic(out, num_tune=2, num_seeds=1, axes={"depth": ["20"], "arm": ["plain"]}).write()
    return exported(out, "small.zip")


def repacked(file: Path, change: Callable[[dict[str, bytes]], None], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    """Change the members of a bundle; the manifest is made anew where it is not changed itself."""
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    manifest = members[MANIFEST]
    change(members)
    if members.get(MANIFEST) == manifest:
        content = json.loads(manifest)
        content["members"] = {
            name: {"size": len(each), "sha256": ablate.bundle.archive.hashlib.sha256(each).hexdigest()}
            for name, each in members.items() if name != MANIFEST
        }  # fmt: skip
        members[MANIFEST] = json.dumps(content).encode()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, each in members.items():
            archive.writestr(name, each)
    return file


def in_manifest(**changes) -> Callable[[dict[str, bytes]], None]:
    def change(members: dict[str, bytes]) -> None:
        members[MANIFEST] = json.dumps({**json.loads(members[MANIFEST]), **changes}).encode()

    return change


def member(name: str, content: bytes | Callable[[bytes], bytes] | None) -> Callable[[dict[str, bytes]], None]:
    def change(members: dict[str, bytes]) -> None:
        known = next((each for each in members if each.endswith(name)), name)
        if content is None:
            del members[known]
        else:
            members[known] = content(members[known]) if callable(content) else content

    return change


def of_another_trial(members: dict[str, bytes]) -> None:
    name = next(name for name in members if name.startswith("ledger/trials/"))
    members["ledger/trials/ab/ab12-01.parquet"] = members[name]


ODD = {
    "absolute": (member("/etc/cron.d/x", b""), "a bundle has no member '/etc/cron.d/x'"),
    "above": (member("../x.parquet", b""), r"a bundle has no member '\.\./x\.parquet'"),
    "above, within": (member("ledger/trials/ab/../../x.parquet", b""), "a bundle has no member 'ledger/trials/ab/"),
    "hidden": (member("ledger/trials/ab/.parquet", b""), "a bundle has no member"),
    "folder": (member("ledger/trials/", b""), "a bundle has no member 'ledger/trials/'"),
    "foreign": (member("s/optuna.journal", b""), "a bundle has no member 's/optuna.journal'"),
    "too long": (member(f"ledger/trials/ab/{'a' * 100}~{'s' * 200}.parquet", b""), "is too long"),
    "no manifest": (member(MANIFEST, None), "it has no manifest.json"),
    "no json": (member(MANIFEST, b"{"), "is no bundle, or is damaged: Expecting property name"),
    "deep": (member(MANIFEST, b"[" * 100_000), "manifest.json is nested too deep"),
    "list": (member(MANIFEST, b"[]"), "manifest.json does not say that it is an ablate bundle"),
    "format": (in_manifest(format="zip"), "manifest.json does not say that it is an ablate bundle"),
    "old": (in_manifest(version=0), "there is no version 0 of the format"),
    "more": (in_manifest(more=1), "more: Unexpected keyword argument"),
    "sweep": (in_manifest(sweep="../x"), r"no name of a sweep: '\.\./x'"),
    "other sweep": (in_manifest(sweep="x"), "it has no declaration.json of its sweep"),
    "hash": (in_manifest(declaration="0"), "the declaration has another hash than the manifest"),
    "no proposals": (member("proposals.jsonl", None), "it has no proposals.jsonl of its sweep"),
    "only listed": (in_manifest(members={}), "it has no declaration.json of its sweep"),
    "declaration": (member("declaration.json", b"{}"), r"cannot read depth_ablation@smoke/declaration\.json: "),
    "proposal": (member("proposals.jsonl", lambda c: c + b"{}\n"), r"a line of proposals\.jsonl is no proposal"),
    "record": (member(".parquet", lambda c: c[:-9]), r"ledger/trials/\w\w/.*\.parquet is damaged: "),
    "unasked": (member("proposals.jsonl", b""), r"ledger/trials/.*\.parquet is of no trial that the sweep proposed"),
    "misnamed": (of_another_trial, r"ledger/trials/ab/ab12-01\.parquet is of no trial that the sweep proposed"),
    "bomb": (member("resolved.yaml", bytes(30_000_000)), "it would unpack to 30.* bytes, more than 100 times its size"),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_an_odd_bundle_is_refused_in_one_line(small, tmp_path, name):
    change, text = ODD[name]
    repacked(small, change)
    (line,) = refused(tmp_path / "runs", small)
    assert line.startswith(f"{small} is ")
    assert str(ablate.bundle.merge.tempfile.tempdir) not in line
    with pytest.raises(UsageError, match=text):
        merge([small], tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_member_that_is_a_link_or_there_twice_or_changed_is_refused(small, tmp_path):
    content = small.read_bytes()
    with zipfile.ZipFile(small) as archive:
        first = archive.namelist()[1]
        kept = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(small, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(first, b"x")
    (line,) = refused(tmp_path / "runs", small)
    assert line == f"{small} is no bundle, or is damaged: the member {first!r} is there twice"

    with zipfile.ZipFile(small, "w") as archive:
        for name, each in kept.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = ((stat.S_IFLNK if name == first else stat.S_IFREG) | 0o777) << 16
            archive.writestr(info, b"/etc/passwd" if name == first else each)
    (line,) = refused(tmp_path / "runs", small)
    assert line == f"{small} is no bundle, or is damaged: the member {first!r} is no regular file"

    small.write_bytes(content)
    with zipfile.ZipFile(small, "w") as archive:
        for name, each in kept.items():
            archive.writestr(name, each[:-1] + b"?" if name == first else each)
    (line,) = refused(tmp_path / "runs", small)
    assert line == f"{small} is no bundle, or is damaged: the SHA-256 of the member {first!r} is another one"
    repacked(small, lambda members: None, zipfile.ZIP_LZMA)
    (line,) = refused(tmp_path / "runs", small)
    assert "is encrypted, or compressed in another way than by deflate" in line


def test_a_member_that_unpacks_to_more_than_it_tells_is_not_unpacked(small, tmp_path, monkeypatch):
    members = {}
    with zipfile.ZipFile(small) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = f"{SWEEP}/resolved.yaml"
    size = len(members[name])
    with zipfile.ZipFile(small, "w", zipfile.ZIP_DEFLATED) as archive:
        for each, content in members.items():
            archive.writestr(each, bytes(200_000_000) if each == name else content)
        archive.getinfo(name).file_size = size
    unpacked = []
    decompress = zipfile.zlib.decompressobj

    class Counting:
        def __init__(self, *arguments):
            self.inner = decompress(*arguments)

        def decompress(self, *arguments):
            content = self.inner.decompress(*arguments)
            unpacked.append(len(content))
            return content

        def __getattr__(self, name):
            return getattr(self.inner, name)

    monkeypatch.setattr(zipfile.zlib, "decompressobj", Counting)
    (line,) = refused(tmp_path / "runs", small)
    assert "Bad CRC-32" in line
    assert max(unpacked) <= 2**20


def test_a_newer_format_is_refused_with_the_remedy(small, tmp_path):
    repacked(small, in_manifest(version=VERSION + 1, members=7, more={}))
    assert refused(tmp_path / "runs", small) == [
        f"cannot read {small}: the version 2 of its format is newer than 1, which this program reads; "
        "update the program"
    ]


def test_newer_files_within_a_bundle_are_refused(small, tmp_path):
    def declared_later(members: dict[str, bytes]) -> None:
        name = next(name for name in members if name.endswith("declaration.json"))
        members[name] = json.dumps({**json.loads(members[name]), "schema_version": 99}).encode()

    def recorded_later(members: dict[str, bytes]) -> None:
        name = next(name for name in members if name.startswith("ledger/trials/"))
        (tmp_path / "x.parquet").write_bytes(members[name])
        newer(tmp_path / "x.parquet")
        members[name] = (tmp_path / "x.parquet").read_bytes()

    content = small.read_bytes()
    for change, text in (
        (declared_later, f"cannot read {SWEEP}/declaration.json: its schema version 99 is newer than 5, which"),
        (recorded_later, f"parquet: its schema version {SCHEMA_VERSION + 1} is newer than {SCHEMA_VERSION}, which"),
    ):
        small.write_bytes(content)
        (line,) = refused(tmp_path / "runs", repacked(small, change))
        assert line.startswith(f"{small} is damaged, or not for this program: cannot read ")
        assert text in line


def test_what_is_no_file_is_told_in_one_line(small, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty.zip").write_bytes(b"")
    shutil.make_archive(str(tmp_path / "foreign"), "zip", small.parent / "runs" / "ledger")
    for file, text in (
        (tmp_path / "none.zip", f"there is no file {tmp_path / 'none.zip'}"),
        (tmp_path / "pipe", f"{tmp_path / 'pipe'} is no regular file"),
        (tmp_path, f"{tmp_path} is no regular file"),
        (tmp_path / "empty.zip", f"{tmp_path / 'empty.zip'} is no bundle, or is damaged: File is not a zip file"),
        (tmp_path / "foreign.zip", f"{tmp_path / 'foreign.zip'} is no bundle, or is damaged: a bundle has no member"),
    ):
        (line,) = refused(tmp_path / "runs", small, file)
        assert line.startswith(text)


def test_a_bundle_that_is_cut_off_anywhere_is_refused(small, tmp_path):
    content = small.read_bytes()
    for length in range(0, len(content), 97):
        small.write_bytes(content[:length])
        with pytest.raises(UsageError, match="is no bundle, or is damaged: "):
            merge([small], tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@fuzz(100, 1)
@given(data=st.data())
def test_bundles_with_other_bytes(folder, data):
    file = folder / "one.zip"
    out = folder / "one" / "runs"
    if not out.exists():
        Synthetic(out, num_tune=2, num_seeds=1, axes={"depth": ["20"], "arm": ["plain"]}).write()
    export_sweep(out, SWEEP, folder / "whole.zip")
    file.write_bytes(data.draw(mutated_bytes([(folder / "whole.zip").read_bytes()])))
    shutil.rmtree(folder / "merged", ignore_errors=True)
    with one_input("bundles, bytes changed"):
        try:
            merge([file], folder / "merged")
        except UsageError:
            assert not (folder / "merged").exists()
            raise
        assert contents(folder / "merged") == contents(out)


def test_a_bundle_goes_into_an_object_store_and_out_of_it(whole, tmp_path, monkeypatch):
    with s3_server("bucket") as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        ablate.places._store.cache_clear()
        try:
            file, out = exported(whole, "whole.zip"), "s3://bucket/team/runs"
            for text in ("24 trials added, 0 were there", "nothing to add, 24 trials are there already"):
                done = invoke("merge", file, "--out", out)
                assert done.exit_code == 0, done.output
                assert text in done.stdout
            objects = s3_objects(environment, "bucket")
            stored = {name: objects[f"team/runs/{name}"] for name in contents(whole) if name.endswith(".parquet")}
            assert stored == {name: content for name, content in contents(whole).items() if name.endswith(".parquet")}
            export_sweep(to_place(out), SWEEP, tmp_path / "back.zip")
            assert (tmp_path / "back.zip").read_bytes() == file.read_bytes()
        finally:
            ablate.places._store.cache_clear()


TINY = """
name: tiny
fixed: {dataset: digits, depth: 8, width: 4, epochs: 1, batch_size: 128}
axes: {arm: {plain: {shortcut: none}, residual: {shortcut: identity}}}
tune: {lr: {low: 0.01, high: 1, log: true}}
budget: {trials_per_cell: 2, pruner: none}
confirm: {seeds: 2}
report: {baseline: plain}
"""


@pytest.mark.slow
def test_two_machines_run_one_sweep_together(tmp_path):
    def run(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(command(*arguments), cwd=tmp_path, capture_output=True, text=True, timeout=900)

    (tmp_path / "tiny.yaml").write_text(TINY)
    for name, cell in (("a", 0), ("b", 1)):
        assert run("sweep", "tiny.yaml", "--out", name, "--jobs", "1").returncode == 0
        # As if only one cell had run there, and the other's first trial.
        folder = SweepFolder(tmp_path / name, "tiny")
        key = folder.read_declaration().cells[cell].key
        kept = [p for p in folder.read_proposals() if p.cell == key or (p.phase, p.number) == ("tune", 0)]
        (folder.path / "proposals.jsonl").unlink()
        folder.append_proposal(*kept[: None if name == "a" else -1])
        done = run("export", "tiny", "--to", f"{name}.zip", "--out", name)
        assert done.returncode == 0, done.stderr
    done = run("merge", "a.zip", "b.zip", "--out", "both")
    assert done.returncode == 0, done.stderr
    assert "5 trials added, 0 were there already" in done.stdout
    assert "2 trials added, 2 were there already" in done.stdout
    assert (
        "tiny: 7 of 8 trials have ended. To run what is missing: python cli.py sweep tiny.yaml --out both"
        in done.stdout
    )
    assert run("report", "tiny", "--out", "both", "--to", "report").returncode == 0
    before = contents(tmp_path / "both" / "ledger" / "trials")
    done = run("sweep", "tiny.yaml", "--out", "both", "--jobs", "1")
    assert done.returncode == 0, done.stderr
    assert "7 of 8 trials are in the ledger already" in done.stdout
    after = contents(tmp_path / "both" / "ledger" / "trials")
    assert len(after) == 8
    assert {name: content for name, content in after.items() if name in before} == before
