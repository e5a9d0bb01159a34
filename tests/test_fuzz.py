"""Bad input by the thousand: every one ends in success or in one clear message, never in a traceback or a hang.

A few hundred inputs on every run, always the same ones. For a long run with other inputs each time:

    ABLATE_FUZZ_EXAMPLES=900 python -m pytest tests/test_fuzz.py tests/test_fuzz_out.py tests/test_fuzz_files.py
"""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest
from fuzzing import fuzz, mutated_bytes, mutated_trees, one_input, to_file, to_yaml, values
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from ablate.run.estimate import estimate, lines
from ablate.run.plan import make_plan
from ablate.sweepfile.merge import SECTIONS, WHOLE
from ablate.sweepfile.spec import load_spec
from ablate.tasks.image_classification.config import KINDS, PARAMETERS
from ablate.tasks.image_classification.data.prepare import PreparedData
from ablate.tasks.registry import names

ROOT = Path(__file__).parent.parent
SMALL = """\
name: small
question: What is it?
fixed: {depth: 8, epochs: 4, batch_size: 16}
axes:
  width: [4, 8]
  arm:
    plain: &plain {shortcut: none, regularizer: l2}
    ortho: {<<: *plain, regularizer: orthonormal, init: orthonormal}
    mod: {shortcut: none, regularizer: orthonormal, modulation: anchor}
tune:
  optimizer: [sgd, adam]
  lr:
    - {low: 1e-3, high: 1, log: true, when: {optimizer: sgd}}
    - {low: 1e-5, high: 1e-2, log: true, when: {optimizer: adam}}
  weight_decay: {low: 1e-6, high: 1e-2, log: true, when: {regularizer: l2}}
  modulation_window: {choices: {always: [0, 1], start: [0, 0.1]}, when: {modulation: anchor}}
  warmup: {choices: [0, 0.1]}
budget: {trials_per_cell: 6, pruner: median, batch: 2, audit: 1, start_from: [{lr: 0.1, optimizer: sgd}, {warmup: 0.1}]}
confirm: {seeds: 3, runner_up: true, keep_weights: true}
report: {rows: width, columns: arm, metric: test_accuracy, baseline: plain}
claims: [ortho beats plain by at least 1.5 points at width 4, mod beats plain at width 8]
resources: {cpus: 1, gpus: 0}
seed: 3
profiles:
  smoke: {fixed: {epochs: 2}, axes: {width: [4]}, budget: {audit: null}, claims: [], seed: 7}
"""
DESIGN = """\
name: design
fixed: {depth: 8, width: 4}
design: list
components:
  ortho: {init: orthonormal}
  wd: {regularizer: l2, weight_decay: 1e-4}
combinations: [[], [ortho], [ortho, wd]]
tune: {momentum: {low: 0, high: 0.9, step: 0.3}, depth_: null}
budget: {trials_per_cell: 4, sampler: grid, pruner: none}
""".replace(", depth_: null", "")
TINY = "name: tiny\nbudget: {trials_per_cell: 2}\n"
TREES = [YAML(typ="safe", pure=True).load(text) for text in (SMALL, DESIGN, TINY)]
OURS = [YAML(typ="safe", pure=True).load(file) for file in sorted((ROOT / "search_spaces").glob("*.yaml"))]
TEXTS = [text.encode() for text in (SMALL, DESIGN, TINY)]
KNOWN = st.sampled_from([*PARAMETERS.all(), *SECTIONS, *WHOLE, "profiles"])


ROWS = st.sampled_from([name for kind in KINDS for name in names(kind)])
PLAIN_NUMBERS = st.sampled_from([0, 1, 2, 3, 4, 8, 14, 20, 64, 0.1, 0.3, 0.5, 0.9, 1e-4, 10**6]) | st.integers(0, 100)
PLAUSIBLE = st.one_of(
    ROWS,
    PLAIN_NUMBERS,
    KNOWN,
    st.booleans(),
    st.lists(ROWS | PLAIN_NUMBERS, min_size=1, max_size=4),
    st.fixed_dictionaries(
        {"low": PLAIN_NUMBERS, "high": PLAIN_NUMBERS},
        optional={"log": st.booleans(), "step": PLAIN_NUMBERS, "when": st.dictionaries(KNOWN, ROWS, max_size=1)},
    ),
    st.fixed_dictionaries({"choices": st.lists(PLAIN_NUMBERS | ROWS, min_size=1, max_size=3)}),
    st.dictionaries(KNOWN, ROWS | PLAIN_NUMBERS, min_size=1, max_size=2),
)
SETTINGS = st.one_of(
    *[
        st.tuples(st.just(parameter.name), st.sampled_from([*parameter.allowed()] or [0, 1, 2, 8, 20, 0.5, [0, 1]]))
        for parameter in PARAMETERS.all().values()
    ]
)


@st.composite
def plausible_files(draw):
    """Draw a sweep file that is nearly right: some parameters more, perhaps one part changed."""
    tree = copy.deepcopy(draw(st.sampled_from(TREES)))
    for _ in range(draw(st.integers(0, 3))):
        name, value = draw(SETTINGS)
        section = draw(st.sampled_from(["fixed", "tune", "axes"]))
        tree.setdefault(section, {})[name] = value if section == "fixed" else [value]
    return draw(mutated_trees([tree], PLAUSIBLE, most=1)) if draw(st.booleans()) else tree


def fake_prepare(config, cache):
    """Stands in for the data, which no mistake of a sweep file reaches."""
    return PreparedData(cache / "none.pt", "0123456789abcdef", config.dataset, 1000, 200, 200, 10, (1, 8, 8))


def try_plan(folder, monkeypatch, text, profile=None, overrides=()):
    """Plan a sweep file; one that is right is declared, read back and equal to what its resolved file says."""
    file, out = folder / "sweep.yaml", folder / "out"
    file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    monkeypatch.setattr("ablate.tasks.image_classification.data.prepare.prepare", fake_prepare)
    shutil.rmtree(out, ignore_errors=True)
    made = make_plan(file, profile, overrides, out)
    printed = [*made.lines(), *made.cell_lines(), *lines(estimate(made, jobs=1, device="cpu", with_probe=False), made)]
    json.dumps(made.summary(), allow_nan=False)
    assert printed
    made.declare()
    assert made.folder.read_declaration() == made.declaration
    assert [path.name for path in folder.iterdir() if path.name not in ("sweep.yaml", "out")] == []
    assert {path.parent for path in out.rglob("*") if path.is_file()} <= {
        out / made.spec.sweep_id,
        out / "ledger",
    }
    if not made.spec.imports:
        again = load_spec(out / made.spec.sweep_id / "resolved.yaml")
        assert again == made.spec


@pytest.fixture(scope="module")
def patch():
    with pytest.MonkeyPatch.context() as context:
        yield context


@fuzz(60, 3)
@given(tree=mutated_trees(TREES, values() | KNOWN), profile=st.sampled_from([None, None, "smoke"]))
def test_sweep_files_with_other_parts(folder, patch, tree, profile):
    with one_input("sweep files, parts changed"):
        try_plan(folder, patch, to_file(tree), profile)


@fuzz(60, 4)
@given(tree=plausible_files(), profile=st.sampled_from([None, None, "smoke"]))
def test_sweep_files_that_are_nearly_right(folder, patch, tree, profile):
    with one_input("sweep files, nearly right"):
        try_plan(folder, patch, to_file(tree), profile if "profiles" in tree else None)


@fuzz(4, 0.1)
@given(tree=mutated_trees(OURS, values() | KNOWN))
def test_our_sweep_files_with_other_parts(folder, patch, tree):
    with one_input("search_spaces, parts changed"):
        try_plan(folder, patch, to_file(tree))


@fuzz(60, 2)
@given(content=mutated_bytes(TEXTS))
def test_sweep_files_with_other_bytes(folder, patch, content):
    with one_input("sweep files, bytes changed"):
        try_plan(folder, patch, content)


@fuzz(20, 0.5)
@given(content=st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_random_bytes_as_a_sweep_file(folder, patch, content):
    with one_input("sweep files, random bytes"):
        try_plan(folder, patch, content)


KEYS = st.one_of(
    st.sampled_from(
        [f"{section}.{name}" for section in SECTIONS for name in ("lr", "depth", "trials_per_cell", "x", "")]
    ),
    st.sampled_from(
        [*SECTIONS, *WHOLE, "name", "profiles", "budget.sampler", "report.baseline", "axes.arm", "tune.lr"]
    ),
    st.builds("{}.{}".format, st.sampled_from(["fixed", "tune", "axes"]), KNOWN),
    st.text(max_size=10),
)


@fuzz(60, 2)
@given(key=KEYS, value=values().map(to_yaml) | st.text(max_size=20), profile=st.sampled_from([None, "smoke"]))
def test_set_values(folder, patch, key, value, profile):
    with one_input("--set values"):
        try_plan(folder, patch, SMALL, profile, [f"{key}={value}"])
