"""`reproduce`: a recorded trial again, and whether the numbers agree; and what is said about trials from elsewhere."""

import dataclasses
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from packs import packed

from ablate.commands import main
from ablate.errors import UsageError
from ablate.provenance import library_versions
from ablate.run.origins import foreign_lines
from ablate.run.pack import Request
from ablate.run.reproduce import Reproduction, find_trial
from ablate.store.ledger import Ledger
from ablate.tasks.image_classification.config import resolve
from ablate.tasks.image_classification.data.prepare import load, prepare
from ablate.tasks.parameters import trial_key

CPU = torch.device("cpu")


def trained(out: Path, *, stop_after: int = 0, phase: str = "confirm", **settings):
    config = resolve({"depth": 8, "width": 4, "epochs": 2, "batch_size": 64, "lr": 0.05, **settings})
    data = prepare(config, out / "data")
    fingerprint = config.fingerprint(data.digest)
    task = Request(key=trial_key(fingerprint, 7), fingerprint=fingerprint, seed=7, phase=phase,
                settings=config.settings(), data_digest=data.digest)  # fmt: skip
    stop = (
        (lambda epoch, values: {0} if epoch == stop_after else set()) if stop_after else (lambda epoch, values: set())
    )
    (record,) = packed([task], load(data.path), CPU, None, library_versions()).run(stop)
    return record


@pytest.fixture
def out(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def invoke(*arguments):
    return CliRunner().invoke(main, ["reproduce", *map(str, arguments)])


def test_a_trial_repeats_bit_for_bit_and_its_weights_can_be_had(out, tmp_path):
    record = trained(out)
    Ledger(out).write(record)
    done = invoke(record.key[:9], "--weights", tmp_path / "weights")
    assert done.exit_code == 0, done.output
    assert f"test_accuracy: recorded {record.metrics['test_accuracy']!r}, repeated" in done.output
    assert f"weights: recorded {record.weights_digest}, repeated {record.weights_digest}" in done.output
    assert done.output.endswith("the numbers agree bit for bit\n")
    assert [file.name for file in (tmp_path / "weights").iterdir()] == [f"{record.key}.pt"]


def test_a_stopped_trial_is_stopped_after_the_same_epoch_and_a_diverged_one_diverges_again(out):
    stopped = dataclasses.replace(trained(out, stop_after=1, phase="tune", epochs=3), sweep="s", cell="c")
    diverged = trained(out, lr=1e6, regularizer="orthonormal")
    assert (stopped.state, diverged.state) == ("pruned", "diverged")
    for record in (stopped, diverged):
        Ledger(out).write(record)
        done = invoke(record.key)
        assert done.exit_code == 0, done.output
        assert f"state: recorded {record.state}, repeated {record.state}" in done.output
        assert "agree bit for bit" in done.output


def test_other_numbers_do_not_agree_on_the_same_hardware(out):
    record = trained(out)
    metrics = {name: value - 0.01 for name, value in record.metrics.items()}
    Ledger(out).write(dataclasses.replace(record, metrics=metrics))
    done = invoke(record.key)
    assert done.exit_code == 1
    assert "the numbers do not agree; asked for: bit for bit" in done.output


def test_the_table_of_layers_must_agree_too(out):
    record = trained(out, diagnostics="epoch")
    ledger = Ledger(out)
    path = ledger.write(record)
    done = invoke(record.key)
    assert done.exit_code == 0, done.output
    assert "tables of layers: equal\n" in done.output
    name = next(name for name, values in record.layers.items() if isinstance(values[0], float))
    path.unlink()
    values = [record.layers[name][0] + 1, *record.layers[name][1:]]
    ledger.write(dataclasses.replace(record, layers={**record.layers, name: values}))
    done = invoke(record.key)
    assert done.exit_code == 1
    assert "tables of layers: not equal\n" in done.output
    assert "the numbers do not agree" in done.output


def test_test_items_must_agree_where_both_have_them(out):
    record = trained(out)
    ledger = Ledger(out)
    path = ledger.write(record)
    done = invoke(record.key)
    assert done.exit_code == 0, done.output
    assert "test items of test_accuracy: equal\n" in done.output
    bits = [1 - bit for bit in record.items["test_accuracy"][:2]] + record.items["test_accuracy"][2:]
    path.unlink()
    path = ledger.write(dataclasses.replace(record, items={**record.items, "test_accuracy": bits}))
    done = invoke(record.key)
    assert done.exit_code == 1
    assert "test items of test_accuracy: 2 of 360 not equal\n" in done.output
    assert "the numbers do not agree" in done.output
    path.unlink()
    ledger.write(dataclasses.replace(record, items={}, items_digest=""))
    done = invoke(record.key)
    assert done.exit_code == 0, done.output
    assert "test items" not in done.output


def test_a_repetition_that_fails_says_why(out, monkeypatch):
    record = trained(out)
    Ledger(out).write(record)

    def run_epoch(trainer):
        raise ValueError("no more")

    monkeypatch.setattr("ablate.tasks.image_classification.training.trainer.Trainer.run_epoch", run_epoch)
    done = invoke(record.key)
    assert done.exit_code == 1
    assert "state: recorded complete, repeated failed\nit failed (error): ValueError: no more\n" in done.output


def test_numbers_that_are_none_agree_with_themselves(out):
    record = trained(out)
    undefined = dataclasses.replace(record, metrics={**record.metrics, "train_loss": float("nan")})
    again = dataclasses.replace(
        undefined, metrics=dict(undefined.metrics), curves=dict(reversed(record.curves.items()))
    )
    assert Reproduction(undefined, again, [], 0.05).is_exact
    assert not Reproduction(undefined, record, [], 0.05).is_exact


def test_a_record_of_a_version_that_had_fewer_metrics_is_compared_in_those_it_has(out):
    record = trained(out)
    fewer = {name: value for name, value in record.metrics.items() if "estimated" not in name}
    older = dataclasses.replace(record, metrics=fewer)
    assert Reproduction(older, record, [], 0.05).is_exact
    assert not Reproduction(record, older, [], 0.05).is_exact
    assert not Reproduction(dataclasses.replace(older, metrics={**fewer, "val_loss": 0.5}), record, [], 0.05).is_exact


@pytest.mark.parametrize(("shift", "exit_code", "verdict"), [(0.01, 0, "agree"), (0.2, 1, "do not agree")])
def test_on_other_hardware_a_stated_tolerance_counts(out, shift, exit_code, verdict):
    record = trained(out)
    metrics = {name: value - shift for name, value in record.metrics.items()}
    provenance = {**record.provenance, "device": "cuda: a card"}
    Ledger(out).write(dataclasses.replace(record, metrics=metrics, provenance=provenance))
    done = invoke(record.key)
    assert done.exit_code == exit_code, done.output
    assert "computed with other: device cuda: a card, here cpu" in done.output
    assert f"the numbers {verdict}; asked for: within 0.05 of a metric's range" in done.output


def test_what_cannot_be_repeated_is_refused(out):
    record = trained(out)
    ledger = Ledger(out)
    ledger.write(record)
    ledger.write(dataclasses.replace(record, key=record.key[:-1] + "x"))
    with pytest.raises(UsageError, match=r"begins 2 trials; give more of the key: "):
        find_trial(ledger, record.key[:5])
    for name in ("00", "../../etc", "zz", ""):
        with pytest.raises(UsageError, match="no trial"):
            find_trial(ledger, name)
    with pytest.raises(UsageError, match=f"no trial '{record.key[0]}' in .*; a beginning has two digits at least"):
        find_trial(ledger, record.key[0])
    failed = dataclasses.replace(record, key="ff" + record.key[2:], state="failed", reason="out_of_memory", sweep="s")
    ledger.write(failed)
    with pytest.raises(UsageError, match=r"failed \(out_of_memory\): there are no numbers"):
        find_trial(ledger, failed.key)
    for change, message in (
        ({"rows": {**record.rows, "init": "he@0"}}, "cannot be repeated with this version: init he@0 is now he@"),
        ({"data_digest": "other"}, "the data is not that of the trial"),
        (
            {"settings": {**record.settings, "regularizer": "mine"}},
            "cannot be repeated with this version: unknown regularizer 'mine'",
        ),
        ({"settings": {**record.settings, "regularizer": "mine"}}, "Rows and tasks of your own need --import FILE"),
    ):
        other = dataclasses.replace(record, key="ee" + record.key[2:], **change)
        path = ledger.write(other)
        done = invoke("ee")
        assert done.exit_code == 2
        assert message in done.output
        path.unlink()


def test_weights_of_a_trial_that_has_none_are_refused_before_it_runs(out, tmp_path):
    for phase, stop_after, state in (("tune", 0, "complete"), ("tune", 1, "pruned")):
        record = dataclasses.replace(trained(out, phase=phase, stop_after=stop_after), sweep="s" if stop_after else "")
        path = Ledger(out).write(record)
        done = invoke(record.key, "--weights", tmp_path / "weights")
        assert done.exit_code == 2
        assert f"--weights is for complete confirm trials, but {record.key} is a {state} tune trial" in done.output
        assert "epoch 1" not in done.output
        path.unlink()


def test_trials_of_another_commit_torch_or_device_are_announced(out):
    record = trained(out)
    present = {**library_versions(), "device": "cpu", "git_sha": "a" * 40}
    here = dataclasses.replace(record, provenance=present)
    elsewhere = dataclasses.replace(record, provenance={**present, "git_sha": "b" * 40, "torch": "1.0"})
    assert foreign_lines([here], present) == []
    assert foreign_lines([here, elsewhere], present) == [
        "1 of the trials in the ledger is of another commit than aaaaaaaaaaaa: bbbbbbbbbbbb (1)",
        f"1 of the trials in the ledger is of another torch than {present['torch'][:12]}: 1.0 (1)",
    ]
