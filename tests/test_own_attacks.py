"""What users' own functions and scripts do that nobody expects: no number is wrong then, and nothing is left behind."""

import os
import py_compile
import subprocess
import sys
import time
from pathlib import Path

import pytest
from own_trials import (
    COMMAND,
    COMMAND_FILE,
    FILE,
    OBJECTIVE,
    SCRIPT,
    SETTINGS,
    TASK,
    body,
    ran,
    refused,
    wait_until_gone,
    write,
    write_script,
)

from ablate.errors import SpecError
from ablate.sweepfile.spec import load_spec
from ablate.tasks import base


class TestFunction:
    def test_no_trial_sees_what_another_left_in_a_module(self, tmp_path):
        code = "import random\nSEEN = []\nDRAWN = random.random()\n\n" + body(
            "SEEN.append(1)", "trial.report(val_rmse=len(SEEN) + DRAWN)", "return {'test_rmse': 1}"
        )
        path = write(tmp_path, code)
        assert ran(path).curves == ran(path).curves

    def test_bytecode_of_another_time_is_not_run(self, tmp_path):
        path = write(tmp_path, body("trial.report(val_rmse=1)", "return {'test_rmse': 1}"))
        file = tmp_path / "code.py"
        os.utime(file, (1_000_000_000, 1_000_000_000))
        assert Path(py_compile.compile(str(file))).exists()
        file.write_text(file.read_text().replace("val_rmse=1", "val_rmse=7"))
        os.utime(file, (1_000_000_000, 1_000_000_000))
        assert ran(path).curves == {"val_rmse": [7.0]}

    def test_after_a_function_that_does_not_end_no_other_one_runs_in_its_process(self, tmp_path, monkeypatch):
        monkeypatch.setattr("ablate.tasks.own.function.GRACE_S", 0.1)
        code = body(
            "import threading",
            "sys.go_on = threading.Event()",
            "while not sys.go_on.is_set():",
            "    try:",
            "        time.sleep(0.01)",
            "    except BaseException:",
            "        pass",
        )
        path = write(tmp_path, code, TASK.replace("metrics", "trial_timeout: 0.1, metrics"))
        assert "longer than trial_timeout" in ran(path).message
        try:
            assert "a function that was stopped before does not end: no other one can run" in ran(path).message
        finally:
            sys.go_on.set()
            base.lingering.pop().join()

    @pytest.mark.parametrize("name", ["test/acc", "acc_test", "Test_acc", "testLoss"])
    def test_test_metrics_of_tune_trials_are_known_by_their_word_and_by_the_table(self, tmp_path, name):
        task = TASK.replace("[test_rmse]", "[{name: holdout, direction: min}]")
        path = write(tmp_path, body("trial.report(val_rmse=1)", f"return {{'{name}': 1.0, 'holdout': 2.0}}"), task)
        assert ran(path, "tune").metrics == {"val_rmse": 1.0}
        assert ran(path).metrics == {"val_rmse": 1.0, name: 1.0, "holdout": 2.0}

    @pytest.mark.parametrize("value", ["inf", "nan"])
    def test_a_metric_that_is_not_finite_is_refused(self, tmp_path, value):
        record = ran(write(tmp_path, body("trial.report(val_rmse=1)", f"return {{'test_rmse': math.{value}}}")))
        assert (record.state, record.message) == ("failed", f"test_rmse must be a number, but got {value}")

    def test_an_import_that_fails_is_told_at_its_line(self, tmp_path):
        record = ran(write(tmp_path, "import numpyy\n\ndef train(config, trial):\n    pass\n"))
        assert record.message.splitlines()[-1].endswith("code.py:1: ModuleNotFoundError: No module named 'numpyy'")
        assert "loading.py" not in record.message

    def test_a_message_of_any_characters_and_size_is_kept_as_far_as_it_can_be(self, tmp_path):
        record = ran(write(tmp_path, body("raise ValueError('x' * 50_000 + chr(0xd800))")))
        assert len(record.message) < 21_000
        assert record.message.endswith("x\\ud800")

    def test_another_thread_may_not_report(self, tmp_path):
        code = body(
            "from threading import Thread",
            "caught = []",
            "def other():",
            "    try:",
            "        trial.report(val_rmse=3)",
            "    except RuntimeError as error:",
            "        caught.append(error)",
            "thread = Thread(target=other)",
            "thread.start()",
            "thread.join()",
            "trial.report(val_rmse=len(caught))",
            "return {'test_rmse': 1}",
        )
        assert ran(write(tmp_path, code)).curves == {"val_rmse": [1.0]}

    @pytest.mark.parametrize("name", ["keys", "get", "_values"])
    def test_a_parameter_that_config_has_another_meaning_for_is_refused(self, tmp_path, name):
        message = refused(tmp_path, file=FILE.replace("epochs: 4", f"epochs: 4, {name}: 1"))
        assert f"the parameter '{name}' needs another name: config.{name} is something else" in message

    def test_a_length_must_be_a_whole_number(self, tmp_path):
        named = TASK.replace("metrics", "length: epochs, metrics")
        message = refused(tmp_path, task=named, file=FILE.replace("epochs: 4", "epochs: 4.5"))
        assert "length names epochs, which must be a whole number in every trial" in message


class TestCommand:
    def test_whatever_a_script_starts_ends_with_it(self, tmp_path):
        script = (
            SCRIPT
            + """
import subprocess
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
open("pid", "w").write(str(child.pid))
"""
        )
        assert ran(write_script(tmp_path, script), settings=SETTINGS).state == "complete"
        wait_until_gone(int((tmp_path / "pid").read_text()))

    def test_a_script_ends_with_all_below_it_where_the_process_that_runs_it_is_killed(self, tmp_path):
        script = """
            import json, os, subprocess, sys, time
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
            open("pids.new", "w").write(f"{os.getpid()} {child.pid}")
            os.rename("pids.new", "pids")
            time.sleep(600)
        """
        write_script(tmp_path, script)
        code = (
            "import sys; sys.path.insert(0, sys.argv[1])\n"
            "from pathlib import Path\n"
            "from own_trials import ran, SETTINGS\n"
            "ran(Path(sys.argv[2]), settings=SETTINGS)\n"
        )
        starter = subprocess.Popen([sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path / "own.yaml")])
        while not (tmp_path / "pids").exists():
            assert starter.poll() is None
            time.sleep(0.02)
        starter.kill()
        starter.wait()
        for pid in map(int, (tmp_path / "pids").read_text().split()):
            wait_until_gone(pid)

    @pytest.mark.parametrize("value", ["null", '"NaN"', "NaN", "Infinity"])
    def test_an_objective_that_is_no_number_is_divergence(self, tmp_path, value):
        script = f"""print('{{"val_rmse": 1}}'); print('{{"epoch": 1, "val_rmse": {value}}}')"""
        record = ran(write_script(tmp_path, script), settings=SETTINGS)
        assert (record.state, record.curves, record.diverged_epoch) == ("diverged", {"val_rmse": [1.0]}, 2)

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ("[1]", "test_rmse must be a number, but it printed [1]"),
            ("NaN", "test_rmse must be <= 10, but got nan"),
            ("77", "test_rmse must be <= 10, but got 77"),
        ],
    )
    def test_a_metric_that_cannot_be_is_refused(self, tmp_path, value, message):
        script = f"""print('{{"val_rmse": 1}}'); print('{{"test_rmse": {value}}}')"""
        task = COMMAND.replace("[test_rmse]", "[{name: test_rmse, high: 10}]")
        record = ran(write_script(tmp_path, script, task), settings=SETTINGS)
        assert (record.state, record.message.splitlines()[-1]) == ("failed", message)

    def test_a_place_with_an_empty_text_is_left_out(self, tmp_path):
        (tmp_path / "script.py").write_text(
            "import json, sys; print(json.dumps({'val_rmse': len(sys.argv), 'test_rmse': 0}))"
        )
        task = f"{{command: [python, script.py, '{{flag}}', '{{lr}}', '{{scale}}'], {OBJECTIVE}, metrics: [test_rmse]}}"
        path = write(tmp_path, task=task, file=COMMAND_FILE.replace("tune:", "fixed: {flag: ''}\ntune:"))
        assert [ran(path, settings={**SETTINGS, "flag": flag}).metrics["val_rmse"] for flag in ("", "--deep")] == [3, 4]

    def test_the_program_and_files_behind_an_option_are_in_the_fingerprint(self, tmp_path):
        (tmp_path / "job.sh").write_text("#!/bin/sh\n")
        (tmp_path / "job.sh").chmod(0o755)
        (tmp_path / "c.txt").write_text("1")
        task = f"{{command: [./job.sh, '--config=c.txt', '{{lr}}', '{{scale}}'], {OBJECTIVE}}}"
        stamps = {load_spec(write(tmp_path, task=task, file=COMMAND_FILE)).task.stamp}
        for name in ("job.sh", "c.txt"):
            (tmp_path / name).write_text((tmp_path / name).read_text() + "\n")
            stamps.add(load_spec(tmp_path / "own.yaml").task.stamp)
        assert len(stamps) == 3

    def test_a_parameter_of_the_name_of_the_trials_own_seed_is_refused(self, tmp_path):
        (tmp_path / "script.py").write_text(SCRIPT)
        path = write(tmp_path, task=COMMAND, file=COMMAND_FILE.replace("tune:", "fixed: {seed: 0}\ntune:"))
        with pytest.raises(
            SpecError, match=r"the parameter 'seed' needs another name: \{seed\} stands for the trial's"
        ):
            load_spec(path)
