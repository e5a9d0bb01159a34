"""Attacks on a sweep, each tried: code in files, names that leave the output folder, secrets, foreign web pages."""

from __future__ import annotations

import ast
import base64
import dataclasses
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from packs import starts_over
from PIL import Image
from services import free_port
from synthetic import Synthetic

from ablate.commands import main
from ablate.errors import AblateError, DataError, SpecError, UsageError
from ablate.report.latex import latex_escaped
from ablate.store.declaration import SweepFolder, collect
from ablate.store.ledger import Ledger
from ablate.sweepfile.spec import load_spec
from ablate.tasks.image_classification.data.image_folder import ImageFiles
from ablate.tasks.image_classification.data.parquet import read_parquet
from ablate.tasks.image_classification.data.prepare import load
from ablate.tracking.server import served, ui_command
from ablate.tracking.store import QUIET, masked, plain_cause

ROOT = Path(__file__).parent.parent
HEAD = "name: s\nbudget: {trials_per_cell: 1}\nfixed: {depth: 8}\n"


class Payload:
    """Creates a file where it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = str(file)

    def __reduce__(self):
        return open, (self.file, "w")


def attacks(file: Path) -> dict[str, bytes]:
    """Return files that run code in a reader that unpickles."""
    new, old = io.BytesIO(), io.BytesIO()
    torch.save({"net": Payload(file)}, new)
    torch.save({"net": Payload(file)}, old, _use_new_zipfile_serialization=False)
    plain, array = pickle.dumps(Payload(file)), io.BytesIO()
    np.save(array, np.array([Payload(file)], dtype=object), allow_pickle=True)
    script = io.BytesIO()
    with zipfile.ZipFile(script, "w") as archive:
        archive.writestr("archive/data.pkl", plain)
        archive.writestr("archive/constants.pkl", plain)
        archive.writestr("archive/version", "3\n")
    return {
        "zip": new.getvalue(),
        "old": old.getvalue(),
        "pickle": plain,
        "numpy": array.getvalue(),
        "script": script.getvalue(),
    }


KINDS = ("zip", "old", "pickle", "numpy", "script")


@pytest.mark.filterwarnings("ignore:'torch.load' received a zip file that looks like a TorchScript archive")
@pytest.mark.parametrize("kind", KINDS)
def test_code_in_a_checkpoint_does_not_run(tmp_path, tiny_dataset, caplog, kind):
    (tmp_path / "k.pt").write_bytes(attacks(tmp_path / "pwned")[kind])
    starts_over(tmp_path, tiny_dataset)
    assert "the checkpoint k.pt cannot be read, so its trial starts over" in caplog.text
    assert not (tmp_path / "pwned").exists()


@pytest.mark.filterwarnings("ignore:'torch.load' received a zip file that looks like a TorchScript archive")
@pytest.mark.parametrize("kind", KINDS)
def test_code_in_a_prepared_file_does_not_run(tmp_path, kind):
    (tmp_path / "data.pt").write_bytes(attacks(tmp_path / "pwned")[kind])
    with pytest.raises(DataError, match="cannot read the prepared data"):
        load(tmp_path / "data.pt")
    assert not (tmp_path / "pwned").exists()


def test_the_payload_runs_where_a_reader_unpickles(tmp_path):
    pickle.loads(attacks(tmp_path / "pwned")["pickle"])
    assert (tmp_path / "pwned").exists()


def test_foreign_cifar_batches_are_not_unpickled(tmp_path, monkeypatch):
    folder = tmp_path / "cifar10" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name in (
        "data_batch_1",
        "data_batch_2",
        "data_batch_3",
        "data_batch_4",
        "data_batch_5",
        "test_batch",
        "batches.meta",
    ):
        (folder / name).write_bytes(attacks(tmp_path / "pwned")["pickle"])
    monkeypatch.setenv("ABLATE_DATA", str(tmp_path))
    (tmp_path / "s.yaml").write_text(HEAD.replace("depth: 8", "depth: 8, dataset: cifar10"))
    done = CliRunner().invoke(main, ["plan", str(tmp_path / "s.yaml"), "--out", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert "is not a whole copy of CIFAR-10: a file is missing or has a wrong MD5 sum" in done.stderr
    assert not (tmp_path / "pwned").exists()


def calls(tree: ast.AST):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}


def imported(tree: ast.AST):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_nothing_is_unpickled_evaluated_or_given_to_a_shell():
    refused = {"eval", "exec", "compile", "np.load", "os.system", "os.popen", "torch.jit.load", "yaml.load"}
    modules = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "yaml"}
    num_loads = 0
    for file in [*(ROOT / "ablate").rglob("*.py"), ROOT / "cli.py"]:
        tree = ast.parse(file.read_text())
        for name in imported(tree):
            assert name.partition(".")[0] not in modules, f"{file.name} imports {name}"
            assert name not in ("torch.load", "numpy.load", "pandas.read_pickle"), f"{file.name} imports {name}"
        for name, words in calls(tree):
            assert name not in refused, f"{file.name} calls {name}"
            assert not name.endswith(("read_pickle", "pickle_module")), f"{file.name} calls {name}"
            assert words.get("shell", "False") == "False", f"{file.name} calls {name} with a shell"
            assert words.get("allow_pickle", "False") == "False", f"{file.name} calls {name}"
            if name == "torch.load":
                num_loads += 1
                assert words.get("weights_only") == "True", file.name
            if name == "YAML":
                assert words.get("typ", "'safe'") == "'safe'", file.name
    assert num_loads == 1


@pytest.mark.parametrize(
    "tag",
    ["!!python/object/apply:os.system [touch pwned]", "!!python/name:os.system", "!<tag:yaml.org,2002:python/x> 1"],
)
def test_a_tag_in_a_sweep_file_makes_no_object(tmp_path, monkeypatch, tag):
    monkeypatch.chdir(tmp_path)
    Path("s.yaml").write_text(HEAD + f"question: {tag}\n")
    with pytest.raises(SpecError, match=r"4:11: the tag .* is not allowed; leave it out"):
        load_spec(Path("s.yaml"))
    with pytest.raises(SpecError, match=r"--set seed=.*: the tag .* is not allowed"):
        load_spec(Path("t.yaml") if Path("t.yaml").write_text(HEAD) else Path(), None, [f"seed={tag}"])
    assert not Path("pwned").exists()


OUTSIDE = ["../x", "..", "/tmp/x", "a/../../x", "a\\..\\x", "~/x", "x\\0y", ".hidden", "-x", "a/b", "\u2215x", "C:x"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_no_name_leaves_the_output_folder(tmp_path, name):
    quoted = json.dumps(name)
    for text in (
        HEAD.replace("name: s", f"name: {quoted}"),
        HEAD + f"profiles: {{{quoted}: {{seed: 1}}}}\n",
        HEAD + f"axes: {{arm: {{{quoted}: {{width: 4}}}}}}\n",
        HEAD + f"axes: {{{quoted}: {{a: {{width: 4}}}}}}\n",
        HEAD + f"tune: {{lr: {{choices: {{{quoted}: 1}}}}}}\n",
        HEAD + f"report: {{metric: {quoted}}}\n",
        HEAD + f"fixed: {{dataset: {quoted}}}\n".replace("fixed", "tune").replace(quoted, f"[{quoted}]"),
        HEAD.replace("trials_per_cell: 1", f"trials_per_cell: 1, start_from: [{{{quoted}: 1}}]"),
        "name: s\nbudget: {trials_per_cell: 1}\ndesign: add-one\ncomponents: {" + quoted + ": {depth: 8}}\n",
    ):
        (tmp_path / "s.yaml").write_text(text)
        with pytest.raises(SpecError, match=r"must be letters, digits|unknown dataset|is no parameter") as refused:
            load_spec(tmp_path / "s.yaml", name if "profiles" in text else None)
        assert all(problem.line for problem in refused.value.problems)
    with pytest.raises(UsageError, match="no sweep"):
        SweepFolder(tmp_path, name).read_declaration()


def test_keys_in_an_output_folder_name_no_file_elsewhere(tmp_path):
    """A proposal whose key is a path would have the ledger set aside, that is move, a file that is not its own."""
    out = tmp_path / "runs"
    sweep = SweepFolder(out, Synthetic(out).write().sweep)
    victim = tmp_path / "mine.parquet"
    victim.write_bytes(b"mine")
    file = sweep.path / "proposals.jsonl"
    lines = [{**json.loads(line), "key": "../../../../mine"} for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (out / "ledger" / "trials" / "..").mkdir(exist_ok=True)
    assert sweep.read_proposals() == []
    found = collect(sweep.read_declaration(), sweep.read_proposals(), Ledger(out))
    assert all(trials.tune == [] for trials in found)
    assert victim.read_bytes() == b"mine"


def test_a_declaration_names_no_other_folder(tmp_path):
    declaration = Synthetic(tmp_path).write()
    folder = SweepFolder(tmp_path, declaration.sweep)
    for change in ({"sweep": "../x"}, {"cells": [dataclasses.replace(declaration.cells[0], key="../../x")]}):
        folder.write_declaration(dataclasses.replace(declaration, **change), "")
        with pytest.raises(UsageError, match=r"cannot read .*declaration.json: (no name of a sweep|cells.0.key)"):
            folder.read_declaration()


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    """A PNG of 50 KB that would take 1.2 GB of memory."""
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "png")
    (tmp_path / "0.png").write_bytes(bomb.getvalue())
    monkeypatch.setenv("ABLATE_LOADER_WORKERS", "0")
    images = ImageFiles(str(tmp_path), ("0.png",), torch.zeros(1, dtype=torch.int64), 32)
    with pytest.raises(DataError, match=r"cannot decode .*/0.png: Image size .* exceeds limit .* decompression bomb"):
        next(images.in_order(1))
    table = pa.table({"img": [{"bytes": bomb.getvalue(), "path": ""}], "label": [0]})
    pq.write_table(table, tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"train.parquet, row 0: no 32×32 image: Image size .* decompression bomb"):
        read_parquet([tmp_path / "train.parquet"], label_column="label", size=32)


def test_latex_and_markdown_print_what_is_in_a_sweep_file_as_text():
    assert latex_escaped(r"\input{/etc/passwd} $x$ ^^5cinput") == (
        r"\textbackslash{}input\{/etc/passwd\} \$x\$ \textasciicircum{}\textasciicircum{}5cinput"
    )


SECRET = "canary5ecret"
BASIC = base64.b64encode(f"me:{SECRET}".encode()).decode()


@pytest.mark.parametrize(
    "uri",
    [
        f"postgresql://me:{SECRET}@host/db",
        # SQLAlchemy takes these, although they should be quoted.
        f"postgresql+psycopg2://me:{SECRET}/x@host/db",
        f"postgresql+psycopg2://me:{SECRET}?x@host/db",
        f"postgresql+psycopg2://me:{SECRET}#x@host/db",
        f"postgresql+psycopg2://me:x[{SECRET}@host/db",
        f"postgresql+psycopg2://me:x@{SECRET}@host/db",
        f"mysql+pymysql://host/db?user=me&passwd={SECRET}",
        f"postgresql://me@host/db?sslpassword={SECRET}",
        f"https://{SECRET}@host/mlflow",
        f"https://host/mlflow?access_token={SECRET}",
        f"https://host/mlflow?api_key={SECRET}",
        f"postgresql://host/db?user=me&password={SECRET}",
        f"mysql+pymysql://me:{SECRET}@host:3306/db?ssl=1",
        f"https://me:{SECRET}@host/mlflow",
        f"https://host/mlflow?token={SECRET}",
        f"http//me:{SECRET}@host",
        f"http:me:{SECRET}@host",
        f"ftp://{SECRET}@host",
        f"uc://{SECRET}@host",
        f"http://host/mlflow;password={SECRET}",
        f"http://host/mlflow#{SECRET}",
        f"//me:{SECRET}@host/mlflow",
        f"//{SECRET}@host/mlflow",
        f"me:{SECRET}@host/mlflow",
        f"{SECRET}@host/mlflow",
        f"postgresql//me:{SECRET}@host/db",
        f"databricks://dapi{SECRET}",
        f"databricks://{SECRET}{SECRET}",
        f"databricks://profile:dapi{SECRET}",
        f"databricks:///dapi{SECRET}/x",
        f"databricks:dapi-{SECRET}",
        f"databricks-uc://DAPI{SECRET}",
    ],
)
def test_a_password_in_a_uri_is_masked_and_is_in_no_message_and_no_process_list(monkeypatch, tmp_path, uri):
    assert SECRET not in masked(uri)
    assert "***" in masked(uri)
    assert SECRET not in plain_cause(ValueError(f"cannot reach {uri}: refused"), uri)
    if "://me:" in uri:  # as a driver reports what it took for the host
        seen = uri.partition("://me:")[2].rpartition("/")[0]
        assert SECRET not in plain_cause(ValueError(f'could not translate host name "{seen}"'), uri)
    assert SECRET not in plain_cause(ValueError(f"there is no profile '{uri.rpartition('/')[2]}'"), uri)
    path = uri.partition("host")[2]
    assert SECRET not in plain_cause(ValueError(f"Max retries exceeded with url: {path}/api/2.0 (refused)"), uri)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert SECRET not in " ".join(ui_command(tmp_path, 5000))


@pytest.mark.parametrize(
    "uri",
    [
        "databricks", "databricks://profile", "databricks://my-workspace-of-the-group", "databricks://scope:prefix",
        "databricks-uc://profile", "/data/runs@home/mlruns", "./runs@home", "file:///data/runs@home", "//host/mlflow",
        "http://host/0123456789abcdef01234567", "mlruns",
    ],
)  # fmt: skip
def test_what_is_no_secret_of_a_uri_is_printed(uri):
    assert masked(uri) == uri


@pytest.mark.parametrize(
    "text",
    [
        "Basic authentication is off; use a Bearer token, or basic access authentication.",
        "401: Bearer authentication required",
        "the basic problem: no user",
        "Basic auth: wrong password",
        "Bearer or Basic",
    ],
)
def test_words_that_name_a_scheme_of_authentication_are_printed(text):
    assert plain_cause(ValueError(text), "http://host:5000") == text


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("MLFLOW_TRACKING_TOKEN", f"{SECRET}\n", f"return character(s) in header value: 'Bearer {SECRET}\\n'"),
        ("MLFLOW_TRACKING_TOKEN", SECRET, f"the proxy at gate.example sent back {SECRET}"),
        ("MLFLOW_TRACKING_PASSWORD", SECRET, f"401: {base64.b64encode(f'me:{SECRET}'.encode()).decode()}"),
        ("DATABRICKS_TOKEN", SECRET, f"no such token: {SECRET}"),
        ("SOMETHING_ELSE", SECRET, f"401 for Authorization: Bearer {SECRET}"),
        ("SOMETHING_ELSE", SECRET, f'401 for {{"authorization": "basic {SECRET}="}}'),
        ("SOMETHING_ELSE", SECRET, f"401 for ('Authorization', b'Basic {SECRET}')"),
        ("SOMETHING_ELSE", SECRET, f"401: Basic {BASIC}."),
        ("SOMETHING_ELSE", SECRET, f"401: basic {BASIC.rstrip('=')[:-1]}... (cut off)"),
        ("SOMETHING_ELSE", SECRET, f"sent with Bearer {SECRET}."),
    ],
)
def test_no_token_of_the_environment_and_no_header_is_in_a_message(monkeypatch, name, value, message):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv(name, value)
    told = plain_cause(ValueError(message), "http://host:5000")
    assert "***" in told
    for form in (SECRET, BASIC, BASIC[:12]):
        assert form not in told


def test_telemetry_is_off_in_every_process_of_ours():
    assert QUIET["MLFLOW_DISABLE_TELEMETRY"] == "true"
    code = (
        "from ablate.tracking.store import quiet_environment; quiet_environment()\n"
        "import os, subprocess, sys\n"
        "child = 'import os; print(os.environ[\"MLFLOW_DISABLE_TELEMETRY\"])'\n"
        "print(subprocess.run([sys.executable, '-c', child], capture_output=True, text=True).stdout.strip())\n"
        "from mlflow.telemetry.utils import is_telemetry_disabled; print(is_telemetry_disabled())\n"
        "from ray._common.usage.usage_lib import usage_stats_enabled; print(usage_stats_enabled())\n"
        "from ablate.run.launch.cluster import _environment\n"
        "with _environment({}): print(usage_stats_enabled())\n"
    )
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "DO_NOT_TRACK", "RAY"))
    }
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=ROOT, check=True
    )
    assert done.stdout.split() == ["true", "True", "True", "False"], "Ray's own default is to report"


@pytest.mark.slow
def test_the_ui_listens_on_loopback_only(tmp_path):
    """Who is let in there is in test_guard.py."""
    port = free_port()
    with served(tmp_path, port):
        listening = Path("/proc/net/tcp").read_text().splitlines()[1:]
        bound = {line.split()[1].split(":")[0] for line in listening
                 if line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A"}  # fmt: skip
        assert bound == {"0100007F"}


def test_a_file_that_is_a_link_is_replaced_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    out = tmp_path / "runs"
    (out / "depth_ablation@smoke").mkdir(parents=True)
    for name in ("declaration.json", "resolved.yaml"):
        (out / "depth_ablation@smoke" / name).symlink_to(victim)
    Synthetic(out).write()
    assert victim.read_text() == "mine"
    assert issubclass(DataError, AblateError)


def test_no_character_of_a_record_steers_the_terminal_or_is_in_the_report(tmp_path, monkeypatch):
    monkeypatch.setattr("ablate.report.build._documents", lambda *_: iter(()))
    odd = "\x1b]0;mine\x07\u202e\u2028"
    declaration = Synthetic(tmp_path / "runs", num_tune=1).write()
    folder, ledger = SweepFolder(tmp_path / "runs", declaration.sweep), Ledger(tmp_path / "runs")
    asked = dataclasses.replace(declaration, question=f"Does {odd} it train?")
    folder.write_declaration(asked, "")
    proposal = folder.read_proposals()[1]
    record = ledger.read(proposal.key, "")
    ledger.path(record.key).unlink()
    ledger.write(dataclasses.replace(record, provenance={**record.provenance, "torch": f"2{odd}", f"a{odd}": "b"}))
    for command in (["status"], ["report", "--to", str(tmp_path / "report")]):
        done = CliRunner().invoke(main, [*command, "--out", str(tmp_path / "runs")])
        assert done.exit_code == 0, done.output
        assert all(line.isprintable() for line in done.output.split("\n"))
        assert "torch 2 ]0;mine" in done.output or command[0] == "report"
    page = (tmp_path / "report" / "report.html").read_text()
    assert "2 ]0;mine" in page
    assert not set("\x1b\x07\u202e\u2028") & set(page)


def test_no_character_of_a_question_steers_the_terminal(tmp_path):
    question = r'"Does \e[31m it \a\b \u202e \u2028 train?"'
    text = f"name: tiny\nquestion: {question}\naxes: {{depth: [8]}}\nbudget: {{trials_per_cell: 1}}\n"
    (tmp_path / "tiny.yaml").write_text(text)
    done = CliRunner().invoke(main, ["plan", str(tmp_path / "tiny.yaml"), "--out", str(tmp_path / "o"), "--no-probe"])
    assert done.exit_code == 0, done.output
    assert "tiny: Does  [31m it" in done.output
    assert all(line.isprintable() for line in done.output.splitlines())
