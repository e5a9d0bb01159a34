"""A user's own function or script as the task of a sweep file, without Ray."""

import math
import struct
from pathlib import Path

import pytest
from own_trials import (
    COMMAND,
    COMMAND_FILE,
    FILE,
    OBJECTIVE,
    OTHER,
    SCRIPT,
    SETTINGS,
    TASK,
    body,
    ran,
    refused,
    request,
    task_of,
    wait_until_gone,
    write,
    write_script,
)

from ablate.errors import SpecError
from ablate.run.checkpoints import Checkpoints
from ablate.run.pack import Pack
from ablate.run.plan import make_plan
from ablate.store.ledger import Ledger
from ablate.sweepfile.spec import load_spec
from ablate.tasks import catalog
from ablate.tasks.own.state import from_bytes, to_bytes


class TestFunction:
    def test_a_confirm_trial_has_what_it_reported_and_returned_and_a_tune_trial_sees_no_test_metric(self, tmp_path):
        path = write(tmp_path)
        record = ran(path)
        assert (record.state, record.num_epochs, record.unread) == ("complete", 4, [])
        assert record.metrics == {"val_rmse": record.curves["val_rmse"][-1], "test_rmse": record.metrics["test_rmse"]}
        assert record.metrics["test_rmse"] == pytest.approx(record.metrics["val_rmse"] + 0.01)
        assert list(ran(path, "tune").metrics) == ["val_rmse"]
        assert ran(path, seed=6).metrics != record.metrics

    def test_curves_on_test_data_are_dropped_while_tuning(self, tmp_path):
        path = write(tmp_path, body("trial.report(val_rmse=1, test_rmse=2)"))
        assert ran(path, "tune").curves == {"val_rmse": [1.0]}
        assert ran(path).curves == {"val_rmse": [1.0], "test_rmse": [2.0]}

    def test_a_trial_that_goes_on_after_an_interruption_gives_the_same_numbers(self, tmp_path, monkeypatch):
        monkeypatch.setattr("ablate.run.pack.CHECKPOINT_EVERY_S", 0)
        monkeypatch.setattr("ablate.tasks.own.trial.SAVE_EVERY_S", 0)
        path, checkpoints = write(tmp_path), Checkpoints(tmp_path / "checkpoints")
        whole = ran(path)

        class CutError(Exception):
            pass

        def cut(epoch, values):
            if epoch == 3:
                raise CutError
            return set()

        with pytest.raises(CutError):
            ran(path, report=cut, checkpoints=checkpoints)
        assert checkpoints.load("k") is not None
        steps = []
        again = ran(path, report=lambda epoch, values: steps.append(values) or set(), checkpoints=checkpoints)
        assert (again.curves, again.metrics, len(steps)) == (whole.curves, whole.metrics, 4)

    def test_a_pruned_trial_ends_inside_report_whatever_the_function_catches(self, tmp_path):
        code = body(
            "for step in trial.steps(9):",
            "    try:",
            "        trial.report(val_rmse=1)",
            "    except Exception:",
            "        open(trial.folder / 'caught', 'w')",
            "    finally:",
            "        trial.folder.joinpath(f'left{step}').touch()",
        )
        task, folder = task_of(write(tmp_path, code)), tmp_path / "trials"
        (record,) = Pack(task, [request({}, "tune")], "cpu", folder=folder).run(
            lambda epoch, _: {0} if epoch == 2 else set()
        )
        assert (record.state, record.num_epochs) == ("pruned", 2)
        assert sorted(file.name for file in (folder / "k").iterdir()) == ["left0", "left1"]

    def test_an_objective_that_is_no_finite_number_is_divergence(self, tmp_path):
        record = ran(write(tmp_path, body("trial.report(val_rmse=2)", "trial.report(val_rmse=math.nan)")))
        assert (record.state, record.num_epochs, record.diverged_epoch) == ("diverged", 1, 2)
        assert (record.message, record.curves) == ("val_rmse is nan", {"val_rmse": [2.0]})

    @pytest.mark.parametrize(
        ("lines", "message"),
        [
            (["1 / 0"], r"code.py:4: ZeroDivisionError: division by zero$"),
            (["sys.exit(3)"], r"code.py:4: RuntimeError: train called sys.exit\(3\)$"),
            (["return {}"], r"train returned without reporting: it must call trial.report\(val_rmse=…\)"),
            (["trial.report(loss=1)"], r"code.py:4: ValueError: trial.report needs the objective val_rmse, but got"),
            (["trial.report(val_rmse='x')"], r"code.py:4: TypeError: trial.report needs numbers, but val_rmse is str$"),
            (["trial.report(val_rmse=1)", "return 3"], r"must return a mapping of metrics or nothing, but"),
            (["trial.report(val_rmse=1)", "return {'test_rmse': 'x'}"], r"must return numbers, but test_rmse is str$"),
            (["trial.report(val_rmse=1)"], r"train must report or return test_rmse in a confirm trial"),
            (["config.width"], r"AttributeError: this trial has no parameter 'width'. Available: epochs, lr, scale$"),
            (["config['lrr']"], r"KeyError: .*no parameter 'lrr'. Did you mean 'lr'\? Available: epochs, lr, scale"),
            (
                ["trial.report(val_rmse=1)", "trial.report(val_rmse=1, x=2)"],
                r"code.py:5: ValueError: trial.report had val_rmse before, but now has val_rmse, x:",
            ),
            (
                ["for _ in trial.steps(2):", "    trial.report(val_rmse=1)", "    trial.save({'model': object()})"],
                r"trial.save takes tensors, arrays and plain values, but state\['model'\] is object$",
            ),
            (["trial.report(val_rmse=1)", "trial.save(1)"], r"RuntimeError: trial.save needs trial.steps: only steps"),
            (["next(trial.steps(0))"], r"trial.steps needs a whole number >= 1, but got 0$"),
            (["raise KeyboardInterrupt"], r"code.py:4: KeyboardInterrupt$"),
        ],
    )  # fmt: skip
    def test_an_error_is_told_with_its_place_and_its_parameters(self, tmp_path, lines, message):
        import re

        record = ran(write(tmp_path, body(*lines)))
        assert (record.state, record.reason) == ("failed", "error")
        assert re.search(message, record.message), record.message
        if "code.py:" in message:
            assert "parameters: epochs=4, scale=1.0, lr=0.1\n" in record.message

    def test_a_seed_is_one_that_libraries_take(self, tmp_path):
        lines = ["trial.report(val_rmse=trial.seed)", "return {'test_rmse': trial.seed}"]
        assert ran(write(tmp_path, body(*lines)), seed=605858063826952).metrics["test_rmse"] < 2**31

    def test_out_of_memory_is_told_as_such(self, tmp_path):
        assert ran(write(tmp_path, body("raise MemoryError"))).reason == "out_of_memory"

    def test_a_metric_out_of_its_bounds_is_refused(self, tmp_path):
        task = TASK.replace("direction: min", "direction: max, unit: percent")
        record = ran(write(tmp_path, body("trial.report(val_rmse=97)"), task))
        assert record.message.endswith("val_rmse must be in [0, 1], but got 97: a metric in percent is a fraction")

    def test_a_function_that_hangs_ends_at_trial_timeout(self, tmp_path, monkeypatch):
        monkeypatch.setattr("ablate.tasks.own.function.GRACE_S", 0.1)
        task = TASK.replace("metrics", "trial_timeout: 0.2, metrics")
        record = ran(write(tmp_path, body("while True:", "    time.sleep(0.01)"), task))
        assert "the trial took longer than trial_timeout, 0.2 s; it was at" in record.message
        assert "code.py:5" in record.message

    def test_a_fork_that_comes_back_ends_and_may_not_report(self, tmp_path):
        code = body("pid = os.fork()", "if pid == 0:", "    trial.report(val_rmse=7)", "os.waitpid(pid, 0)",
                    "trial.report(val_rmse=1)", "return {'test_rmse': 1}")  # fmt: skip
        assert ran(write(tmp_path, code)).curves == {"val_rmse": [1.0]}

    def test_parameters_that_were_never_read_are_noted_with_what_was(self, tmp_path):
        code = body("config.get('learning_rate')", "config.epochs", "trial.report(val_rmse=1)")
        assert ran(write(tmp_path, code), "tune").unread == [
            "the parameter 'scale' was never read. Read: epochs. It asked for learning_rate, which the trial does not "
            "have.",
            "the parameter 'lr' was never read. Read: epochs. It asked for learning_rate, which the trial does not "
            "have.",
        ]
        code = body("dict(config)", "trial.report(val_rmse=1)")
        assert ran(write(tmp_path, code), "tune").unread == []

    def test_random_numpy_and_torch_are_seeded_anew_in_every_step_also_if_imported_late(self, tmp_path):
        code = body(
            "import random, numpy, torch",
            "draws = lambda: random.random() + numpy.random.rand() + torch.rand(()).item()",
            "first = draws()",
            "for step in trial.steps(2):",
            "    trial.report(val_rmse=draws())",
            "return {'test_rmse': first}",
        )
        path = write(tmp_path, code)
        first, second = ran(path), ran(path)
        assert (first.curves, first.metrics) == (second.curves, second.metrics)
        assert first.curves["val_rmse"][0] != first.curves["val_rmse"][1]

    def test_the_fingerprint_follows_the_files_that_the_function_imports(self, tmp_path):
        path = write(tmp_path)
        stamp = load_spec(path).task.stamp
        (tmp_path / "unrelated.py").write_text("x = 1\n")
        assert load_spec(path).task.stamp == stamp
        (tmp_path / "other.py").write_text(OTHER + "# changed\n")
        assert load_spec(path).task.stamp != stamp

    def test_a_version_pins_the_code_and_the_record_tells_which_it_was(self, tmp_path):
        path = write(tmp_path, task=TASK.replace("metrics", "version: 3, metrics"))
        task = load_spec(path).task
        (tmp_path / "other.py").write_text(OTHER + "# changed\n")
        changed = load_spec(path).task
        assert task.stamp == changed.stamp == f"function@1+{tmp_path.name}/code.train=3"
        (tmp_path / "b").mkdir()
        other = write(tmp_path / "b", task=TASK.replace("metrics", "version: 3, metrics"))
        assert load_spec(other).task.stamp != task.stamp
        assert task.provenance() != changed.provenance()

    def test_files_that_change_while_they_are_in_use_are_refused(self, tmp_path):
        path = write(tmp_path)
        reference = load_spec(path).task.reference()
        (tmp_path / "other.py").write_text("x = 1\n")
        (record,) = Pack(catalog.from_reference(reference), [request({})], "cpu").run()
        assert "changed while it was in use; run the command again" in record.message

    def test_a_package_with_relative_imports_is_hashed_and_run_from_above_it(self, tmp_path):
        package = tmp_path / "lab"
        package.mkdir()
        (package / "__init__.py").write_text("")
        (package / "parts.py").write_text("VALUE = 4\n")
        (package / "main.py").write_text(
            "from .parts import VALUE\ndef train(config, trial):\n    trial.report(val_rmse=VALUE)\n"
        )
        path = write(tmp_path, task=TASK.replace("code.py", "lab/main.py"))
        spec = load_spec(path)
        assert sorted(spec.task.code()) == ["lab/__init__.py", "lab/main.py", "lab/parts.py"]
        assert ran(path, "tune").metrics == {"val_rmse": 4.0}


class TestSweepFile:
    def test_types_follow_from_the_values(self, tmp_path):
        file = FILE.replace("fixed: {epochs: 4}", "fixed: {epochs: 4, name: relu, sizes: [1, 2], flag: true, x: null}")
        spec = load_spec(write(tmp_path, file=file))
        kinds = {name: parameter.type for name, parameter in spec.task.parameters.core.items()}
        assert kinds == {"epochs": "int", "name": "str", "sizes": "any", "flag": "bool", "x": "any",
                         "scale": "float", "lr": "float"}  # fmt: skip
        assert spec.fixed["sizes"] == [1, 2]

    def test_an_arm_that_does_not_set_a_parameter_does_not_have_it(self, tmp_path):
        file = FILE.replace("axes: {scale: [1, 0.5]}", "axes: {arm: {plain: {scale: 1}, wide: {scale: 1, width: 8}}}")
        file = file.replace("baseline: 1", "baseline: plain")
        plan = make_plan(write(tmp_path, file=file), None, [], tmp_path / "runs")
        assert [cell.settings for cell in plan.cells] == [
            {"epochs": 4, "scale": 1}, {"epochs": 4, "scale": 1, "width": 8},
        ]  # fmt: skip
        assert [metric.direction for metric in plan.declaration.metrics] == ["min", "min"]

    def test_the_table_shows_the_first_of_the_metrics(self, tmp_path):
        assert load_spec(write(tmp_path)).report.metric == "test_rmse"
        assert load_spec(write(tmp_path, task=TASK.replace(", metrics: [test_rmse]", ""))).report.metric == "val_rmse"

    def test_the_pruner_of_no_file_is_idle_where_nothing_says_how_long_a_trial_is(self, tmp_path):
        file = FILE.replace("epochs: 4", "rounds: 4")
        assert load_spec(write(tmp_path, file=file)).budget.pruner == "none"
        message = refused(tmp_path, file=file.replace("trials_per_cell: 3", "trials_per_cell: 3, pruner: median"))
        assert message.endswith("own.yaml:7:38: the pruner median cannot judge: no parameter says how often a trial "
                                "reports. Name it as task.length, or set pruner: none")  # fmt: skip
        named = TASK.replace("metrics", "length: rounds, metrics")
        assert load_spec(write(tmp_path, file=file, task=named)).budget.pruner == "median"
        code = body("trial.report(val_rmse=config.rounds)")
        assert ran(write(tmp_path, code, named, file), "tune", settings={"rounds": 4}).state == "complete"

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("code.py:train", "code.py:trian", "code.py has no function 'trian'. Did you mean 'train'?"),
            ("code.py:train", "cod.py:train", "/cod.py: No such file or directory"),
            ("code.py:train", "code.py", "3:18: a function is FILE.py:NAME, but got 'code.py'"),
            (", direction: min", "", "3:44: is more or less better in val_rmse? say which way is better: {name:"),
            ("direction: min", "direction: less", "unknown direction 'less'. Available: max, min"),
            ("objective", "objektive", "3:33: unknown key 'objektive'. Did you mean 'objective'?"),
            ("[test_rmse]", "[test_loss]", "is more or less better in test_loss?"),
            ("[test_rmse]", "[val_rmse]", "the metric 'val_rmse' is declared twice"),
            ("function: code.py:train,", "", "task needs either a function or a command"),
            ("metrics", "length: rounds, metrics", "length must be a parameter of this file, but got 'rounds'."),
            ("metrics", "trial_timeout: 0, metrics", "trial_timeout must be greater than 0, but got 0"),
            ("val_rmse", "test_loss", "the objective is 'test_loss', but tuning must not see test data"),
            ("code.py:train", "code.txt:train", "a function lies in a Python file, FILE.py:NAME, but got 'code.txt:"),
            ("direction: min", "direction: min, low: 2, high: 1", "low of val_rmse must be below high, but got"),
            ("direction: min", "direction: min, low: 0, floor: -1", "the floor of val_rmse must be >= 0, but got -1"),
        ],
    )  # fmt: skip
    def test_what_is_wrong_in_the_entry_is_told_where_it_stands(self, tmp_path, monkeypatch, old, new, message):
        assert old in TASK
        monkeypatch.chdir(tmp_path)
        write(tmp_path, task=TASK.replace(old, new))
        with pytest.raises(SpecError) as caught:
            load_spec(Path("own.yaml"))
        assert message in str(caught.value)

    @pytest.mark.parametrize(
        ("code", "message"),
        [
            ("def train(config):\n    pass", "train must take two arguments, (config, trial), but takes config"),
            ("def train(a, b, c):\n    pass", "train must take two arguments, (config, trial), but takes a, b, c"),
            ("async def train(a, b):\n    pass", "code.py:1: train is async: it must be a plain function"),
            ("def train(a, b):\n    yield 1", "train is a generator: it must call trial.report"),
            ("def train(a, b:\n", "code.py:1: '(' was never closed"),
        ],
    )  # fmt: skip
    def test_a_function_that_cannot_be_called_is_refused_before_anything_runs(self, tmp_path, code, message):
        assert message in refused(tmp_path, code=code)


class TestState:
    def test_what_is_saved_comes_back(self):
        import numpy as np
        import torch

        state = {
            "w": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3), "e": torch.empty(0, 2), "n": np.float32(2.5),
            "a": np.arange(3), 3: (1, None, [True, "x", math.inf]), "flag": torch.tensor(True),
        }  # fmt: skip
        found = from_bytes(to_bytes(state))
        assert list(found) == list(state)
        assert torch.equal(found["w"], state["w"])
        assert found["w"].dtype == torch.bfloat16
        assert found["e"].shape == (0, 2)
        assert (found["n"], found[3], found["flag"].item()) == (2.5, (1, None, [True, "x", math.inf]), True)
        assert found["a"].tolist() == [0, 1, 2]

    def test_an_optimizer_goes_on_from_it(self):
        import torch

        weight = torch.nn.Parameter(torch.ones(2))
        optimizer = torch.optim.Adam([weight])
        weight.sum().backward()
        optimizer.step()
        other = torch.optim.Adam([torch.nn.Parameter(torch.ones(2))])
        other.load_state_dict(from_bytes(to_bytes(optimizer.state_dict())))
        assert repr(other.state_dict()) == repr(optimizer.state_dict())


ITEMS_TASK = (
    "{function: code.py:train, objective: {name: val_accuracy, direction: max, unit: percent}, "
    "metrics: [test_accuracy]}"
)


def with_items(folder, *lines, task=ITEMS_TASK):
    """Write a function that reports once and ends with these lines."""
    return write(folder, body("trial.report(val_accuracy=0.5)", *lines), task)


class TestItems:
    @pytest.mark.parametrize(
        "values",
        ["[1, 0, 1, 0]", "[True, False, True, False]", "(0.9, 0.1, 0.7, 0.3)", "numpy.array([1, 0, 1, 0], bool)",
         "torch.tensor([1.0, 0.0, 1.0, 0.0])"],
    )  # fmt: skip
    def test_a_confirm_trial_keeps_what_its_function_returns_in_single_precision(self, tmp_path, values):
        path = with_items(
            tmp_path, "import numpy, torch", f'return {{"test_accuracy": 0.5, "items": {{"test_accuracy": {values}}}}}'
        )
        record = ran(path)
        assert record.message == ""
        assert record.metrics == {"val_accuracy": 0.5, "test_accuracy": 0.5}
        expected = [0.9, 0.1, 0.7, 0.3] if "0.9" in values else [1.0, 0.0, 1.0, 0.0]
        assert record.items == {"test_accuracy": [struct.unpack("f", struct.pack("f", each))[0] for each in expected]}
        ledger = Ledger(tmp_path / "runs")
        ledger.write(record)
        assert ledger.read(record.key, "", items=None).items == record.items
        tuned = ran(path, "tune")
        assert (tuned.metrics, tuned.items, tuned.items_digest) == ({"val_accuracy": 0.5}, {}, "")

    def test_which_items_they_are_is_told_by_their_number_and_a_text(self, tmp_path):
        def digest(values, of=""):
            named = f', "items_of": "{of}"' if of else ""
            path = with_items(
                tmp_path, f'return {{"test_accuracy": 0.5, "items": {{"test_accuracy": {values}}}{named}}}'
            )
            record = ran(path)
            assert record.metrics["test_accuracy"] == 0.5
            return record.items_digest

        assert digest("[1, 0]") == digest("[0, 1]")
        assert len({digest("[1, 0]"), digest("[1, 0, 1, 0]"), digest("[1, 0]", "a"), digest("[1, 0]", "b")}) == 4

    def test_a_single_number_named_items_is_a_metric_as_before(self, tmp_path):
        record = ran(with_items(tmp_path, 'return {"test_accuracy": 0.5, "items": 360}'))
        assert (record.metrics["items"], record.items) == (360.0, {})

    @pytest.mark.parametrize(
        ("items", "message"),
        [
            ("[1, 0]", "items must map metrics to one number a test item each, but got list"),
            ("{'test_accuracy': 1}", "items of test_accuracy must be a list or an array of numbers, but got int"),
            ("{'test_accuracy': [1, None]}", "items of test_accuracy must be numbers, but item 1 is NoneType"),
            ("{'test_accuracy': [[1, 0]]}", "items of test_accuracy must be numbers, but item 0 is list"),
            ("{'test_accuracy': []}", "items of test_accuracy must be one number a test item, but there are none"),
            ("{'test_accuracy': [0.5, math.nan]}", "must be finite in single precision, but item 1 is nan"),
            ("{'test_accuracy': [0.5, 1e300]}", "must be finite in single precision, but item 1 is 1e+300"),
            (
                "{'accuracy': [1, 0]}",
                "there are items of accuracy, which this trial has not: it has val_accuracy, test",
            ),
            ("{'test_accuracy': [1, 0], 'val_accuracy': [1, 0, 1, 0]}", "test_accuracy has 2 and val_accuracy has 4"),
            ("{'test_accuracy': [1, 0, 0]}", "must be the mean of its items, but it is 0.5 and that is 0.333333333"),
            ("{'test_accuracy': [1, 0] * 50_000 + [1, 1]}", "must be the mean of its items, but it is 0.5 and that is"),
        ],
    )
    def test_what_is_no_list_with_the_metric_for_its_mean_fails_the_trial(self, tmp_path, items, message):
        record = ran(with_items(tmp_path, f'return {{"test_accuracy": 0.5, "items": {items}}}'))
        assert (record.state, record.reason, record.items) == ("failed", "error", {})
        assert message in record.message

    def test_a_mean_in_single_precision_is_near_enough(self, tmp_path):
        task = ITEMS_TASK.replace(", unit: percent", "")
        path = with_items(
            tmp_path,
            "import numpy",
            "losses = numpy.random.default_rng(0).gamma(1, 3, 20_000).astype('float32')",
            "batches = [float(part.mean()) for part in losses.reshape(100, 200)]",
            'return {"test_accuracy": sum(batches) / 100, "items": {"test_accuracy": losses}}',
            task=task,
        )
        record = ran(path)
        assert record.message == ""
        assert len(record.items["test_accuracy"]) == 20_000

    @pytest.mark.parametrize("phase", ["confirm", "tune"])
    def test_a_script_prints_them_with_its_last_metrics(self, tmp_path, phase):
        last = 'print(json.dumps({"test_rmse": 0.5, "items": {"test_rmse": [0.25, 0.75]}, "items_of": "mine"}))'
        script = SCRIPT.replace('print(json.dumps({"test_rmse": given.seed % 7 + 0.5}))', last)
        record = ran(write_script(tmp_path, script), phase, settings=SETTINGS)
        assert record.message == ""
        assert record.items == ({"test_rmse": [0.25, 0.75]} if phase == "confirm" else {})
        assert bool(record.items_digest) == (phase == "confirm")

    def test_a_script_may_print_a_long_line_of_them(self, tmp_path):
        last = 'print(json.dumps({"test_rmse": 1 / 3, "items": {"test_rmse": [1 / 3] * 100_000}}))'
        script = SCRIPT.replace('print(json.dumps({"test_rmse": given.seed % 7 + 0.5}))', last)
        assert len(ran(write_script(tmp_path, script), settings=SETTINGS).items["test_rmse"]) == 100_000

    @pytest.mark.parametrize(
        ("items", "message"),
        [
            ('{"test_rmse": ["a"]}', "items of test_rmse must be numbers, but item 0 is str"),
            ('{"test_rmse": [0.5, 0.6]}', "test_rmse must be the mean of its items, but it is 0.5 and that is 0.55"),
        ],
    )
    def test_a_script_that_prints_others_has_failed(self, tmp_path, items, message):
        last = f"print(json.dumps({{'test_rmse': 0.5, 'items': {items}}}))"
        script = SCRIPT.replace('print(json.dumps({"test_rmse": given.seed % 7 + 0.5}))', last)
        record = ran(write_script(tmp_path, script), settings=SETTINGS)
        assert (record.state, message in record.message) == ("failed", True)


class TestCommand:
    def test_a_script_is_a_trial(self, tmp_path):
        path = write_script(tmp_path)
        record = ran(path, settings=SETTINGS)
        assert (record.state, record.num_epochs) == ("complete", 4)
        assert record.metrics == {"val_rmse": pytest.approx(0.9 / 4), "test_rmse": 5.5}
        assert list(ran(path, "tune", settings=SETTINGS).metrics) == ["val_rmse"]

    def test_a_seed_is_one_that_libraries_take(self, tmp_path):
        script = SCRIPT + "\nassert given.seed < 2**31 and given.seed == int(os.environ['ABLATE_SEED'])\n"
        assert ran(write_script(tmp_path, script), settings=SETTINGS, seed=605858063826952).state == "complete"

    @pytest.mark.parametrize(
        ("script", "message"),
        [
            ("import sys; print('no', file=sys.stderr); sys.exit(3)", "ended with exit status 3: no"),
            ("import os; os.kill(os.getpid(), 9)", "ended with the signal SIGKILL: it printed no error"),
            ("print('hello')", 'printed no val_rmse: expected lines such as {"step": 1, "val_rmse": 0.41}'),
            ("print('{\"loss\": 1}')", '"val_rmse": 0.41}; it printed loss'),
            ("print('{\"val_rmse\": 1}')", "a confirm trial must print test_rmse too (ABLATE_PHASE is confirm)"),
        ],
    )  # fmt: skip
    def test_a_script_that_goes_wrong_is_told_with_its_last_lines(self, tmp_path, script, message):
        record = ran(write_script(tmp_path, script), settings=SETTINGS)
        assert (record.state, record.reason) == ("failed", "error")
        assert message in record.message.splitlines()[-1]

    def test_pruning_ends_the_whole_process_group_also_one_that_ignores_sigterm(self, tmp_path, monkeypatch):
        monkeypatch.setattr("ablate.tasks.own.command.GRACE_S", 0.2)
        script = """
            import json, os, signal, subprocess, sys, time
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            open("pids", "w").write(f"{os.getpid()} {child.pid}")
            print(json.dumps({"val_rmse": 1}))
            time.sleep(600)
        """
        record = ran(write_script(tmp_path, script), "tune", settings=SETTINGS, report=lambda *_: {0})
        assert record.state == "pruned"
        for pid in map(int, (tmp_path / "pids").read_text().split()):
            wait_until_gone(pid)

    def test_a_script_that_hangs_ends_at_trial_timeout(self, tmp_path, monkeypatch):
        monkeypatch.setattr("ablate.tasks.own.command.GRACE_S", 0.2)
        task = COMMAND.replace("metrics", "trial_timeout: 0.5, metrics")
        record = ran(write_script(tmp_path, "import time; time.sleep(600)", task), settings=SETTINGS)
        assert record.message.endswith("took longer than trial_timeout, 0.5 s")

    def test_the_environment_and_a_file_have_what_has_no_place(self, tmp_path):
        script = """
            import json, os, sys
            config = json.load(open(os.environ["ABLATE_CONFIG"]))
            assert os.path.isdir(os.environ["ABLATE_FOLDER"]) and os.environ["ABLATE_DEVICE"] == "cpu"
            print(json.dumps({"val_rmse": config["lr"], "test_rmse": int(os.environ["ABLATE_SEED"])}))
        """
        task = f"{{command: [python, script.py, '{{config}}'], {OBJECTIVE}, metrics: [test_rmse]}}"
        record = ran(write_script(tmp_path, script, task), settings=SETTINGS)
        assert record.metrics == {"val_rmse": 0.1, "test_rmse": 5.0}

    def test_much_output_is_no_harm(self, tmp_path):
        script = SCRIPT + "\nsys.stdout.write('x' * 5_000_000); sys.stderr.write('y' * 5_000_000)\n"
        assert ran(write_script(tmp_path, script), settings=SETTINGS).state == "complete"

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("{scale}", "1", "the command has no place {scale}, so the parameter 'scale' would do nothing"),
            ("{lr}", "{lrr}", "there is no parameter 'lrr'. Did you mean 'lr'? Available: config, device, folder"),
            ("script.py", "scrip.py", "there is no script"),
            ("[python", "[no-such-program", "there is no program 'no-such-program'"),
            ("{lr}", "{lr", "a brace that is none of a place is doubled"),
        ],
    )  # fmt: skip
    def test_what_is_wrong_in_the_command_is_told_where_it_stands(self, tmp_path, old, new, message):
        with pytest.raises(SpecError) as caught:
            load_spec(write_script(tmp_path, task=COMMAND.replace(old, new)))
        assert f"own.yaml:3:17: {message}" in str(caught.value) or message in str(caught.value)
        assert "own.yaml:3:" in str(caught.value)

    def test_a_place_needs_a_value_in_every_cell(self, tmp_path):
        (tmp_path / "script.py").write_text(SCRIPT)
        file = COMMAND_FILE.replace("axes: {scale: [1, 0.5]}", "axes: {arm: {plain: {}, half: {scale: 0.5}}}")
        path = write(tmp_path, task=COMMAND, file=file.replace("baseline: 1", "baseline: plain"))
        with pytest.raises(SpecError, match="scale has a place in the command, but no value here"):
            load_spec(path)
