"""The examples under deploy/: not run here, but well-formed, with a token, and with options that exist."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import jsonschema
import pytest
import ray
from click.testing import CliRunner
from ruamel.yaml import YAML

from ablate.commands import main

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "deploy").iterdir())


def load(name: str) -> dict:
    return YAML(typ="safe").load(ROOT / "deploy" / name)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_example_says_that_it_was_not_run_and_is_documented(file):
    assert "NOT RUN" in file.read_text().partition("\n\n")[0]
    page = (ROOT / "docs" / "cluster.md").read_text()
    (section,) = [part for part in page.split("\n## ")[1:] if f"deploy/{file.name}" in part]
    for asked in ("starts", "idle", "stop"):
        assert asked in section.lower(), asked


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_commands_of_every_example_are_understood(file):
    text = re.sub(r"\\\n#?\s*", " ", file.read_text())
    text = re.sub(r"\n +--", " --", text)
    lines = re.findall(r"^[^#\n]*cli\.py sweep (.*)$|^# .*cli\.py sweep ([^\"]*)", text, flags=re.MULTILINE)
    commands = [(first or second).split('"  ')[0] for first, second in lines]
    assert commands
    for command in commands:
        arguments = [
            {"$@": "file.yaml", "$address": "head:6379", "$out": "runs", "$time_limit": "460"}.get(part, part)
            for part in shlex.split(command)
        ]
        with main.commands["sweep"].make_context("sweep", arguments) as context:
            assert context.params["address"] != "local"


def test_the_cluster_launcher_file_follows_the_schema_that_ray_ships():
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    content = load("ray_cluster.yaml")
    jsonschema.validate(content, schema)
    with pytest.raises(jsonschema.ValidationError, match="head_node"):
        jsonschema.validate({**content, "head_node": {}}, schema)
    starts = [*content["head_start_ray_commands"], *content["worker_start_ray_commands"]]
    for start in (start for start in starts if "ray start" in start):
        assert "RAY_AUTH_MODE=token" in start
    assert any("--dashboard-host=127.0.0.1" in start for start in starts)


def test_the_kuberay_job_has_a_token_and_ends():
    spec = load("ray_job.yaml")["spec"]
    assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert spec["shutdownAfterJobFinishes"] is True
    # Ray's own version, because drivers and nodes must have the same.
    assert spec["rayClusterSpec"]["rayVersion"] == ray.__version__


def test_the_slurm_script_is_a_script_that_stops_before_its_wall_time():
    script = ROOT / "deploy" / "slurm.sh"
    subprocess.run(["bash", "-n", script], check=True)
    text = script.read_text()
    hours, minutes, _ = map(int, re.search(r"--time=(\d+):(\d+):(\d+)", text).groups())
    assert int(re.search(r"time_limit=(\d+)", text)[1]) < 60 * hours + minutes
    assert "RAY_AUTH_MODE=token" in text
    assert text.index("umask 077") < text.index("/token")


def test_the_help_of_sweep_names_the_options_that_clusters_need():
    shown = CliRunner().invoke(main, ["sweep", "--help"]).output
    for option in ("--address", "--jobs", "--time-limit"):
        assert option in shown
