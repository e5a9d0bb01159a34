"""Fixtures: nothing of the machine's environment reaches a test, and training uses one thread."""

from __future__ import annotations

import gc
import json
import signal
import sys
from collections import Counter

import pytest
import torch

from ablate.report import build
from ablate.tasks import registry
from ablate.tasks.image_classification.config import KINDS
from ablate.tasks.image_classification.data.dataset import Dataset, Split


@pytest.fixture(autouse=True, scope="module")
def _frozen():
    """What is there by now is no garbage: a report has all of it looked through, by `gc.collect` of statsmodels."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    for name in ("ABLATE_DATA", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _signals_of_a_terminal():
    """In the background SIGINT is ignored, and under nohup SIGHUP: here, and in every process that a test starts."""
    own = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in own.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def rows_of_before(monkeypatch):
    """Forget after a test what rows a user's file registered in it."""
    for kind in KINDS:
        monkeypatch.setitem(registry._rows, kind, dict(registry._rows[kind]))
    monkeypatch.setattr(registry, "_imported", {})


@pytest.fixture(autouse=True)
def _without_figures(request, monkeypatch):
    """Figures are most of what a report costs: they are drawn where a test is about them."""
    if request.node.get_closest_marker("figures") is None:
        monkeypatch.setattr(build, "_documents", lambda *_: iter(()))


def pytest_collection_modifyitems(items):
    """Modules with many slow tests come first: what runs last, with nothing beside it, should be short."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


def pytest_terminal_summary(terminalreporter):
    """Say how many bad inputs a long run has tried."""
    fuzzing = sys.modules.get("fuzzing")
    if fuzzing is not None and fuzzing.EXAMPLES:
        for kind, counts in sorted(fuzzing.COUNTS.items()):
            terminalreporter.line(json.dumps({"kind": kind, **counts}))
        terminalreporter.line(json.dumps({"inputs": sum(counts["inputs"] for counts in fuzzing.COUNTS.values())}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of one module, for tests that try thousands of inputs."""
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture
def tiny_dataset() -> Dataset:
    """96 training, 32 validation and 32 test images of 3 classes that a net can tell apart by their brightness."""
    generator = torch.Generator().manual_seed(0)

    def split(num: int) -> Split:
        labels = torch.arange(num) % 3
        noise = torch.randint(0, 40, (num, 1, 8, 8), generator=generator)
        return Split((noise + 80 * labels.view(-1, 1, 1, 1)).to(torch.uint8), labels)

    return Dataset(
        name="tiny",
        train=split(96),
        val=split(32),
        test=split(32),
        num_classes=3,
        mean=torch.tensor([0.4]),
        std=torch.tensor([0.25]),
        digest="0123456789abcdef",
    )
