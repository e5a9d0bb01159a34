"""The documentation says what is true."""

import inspect
import re
import runpy
import sys
from pathlib import Path

import pytest

from ablate.tasks import registry
from ablate.tasks.image_classification import rows
from ablate.tasks.image_classification.config import CORE

ROOT = Path(__file__).parent.parent


def test_the_page_of_parameters_is_generated_from_the_registry():
    page = runpy.run_path(str(ROOT / "docs" / "generate.py"))["page"]()
    assert (ROOT / "docs" / "parameters.md").read_text() == page


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.stem)
def test_every_row_of_a_table_has_as_many_cells_as_its_head(page):
    lines = page.read_text().splitlines()
    num_cells = 0
    for line, before in zip(lines, ["", *lines], strict=False):
        num = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        if before.startswith("|") and num:
            assert num == num_cells, line
        num_cells = num


def test_the_page_says_which_parameters_stand_in_fixed_only():
    page = (ROOT / "docs" / "parameters.md").read_text()
    told = re.findall(r"^\| `(\w+)` .*, only in `fixed` \|", page, re.MULTILINE)
    assert told == [name for name, parameter in CORE.items() if parameter.fixed_only]


def test_every_test_and_row_that_the_page_of_the_method_names_exists():
    page = (ROOT / "docs" / "method.md").read_text()
    tests = "".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", page))
    assert len(named) > 10
    assert [name for name in sorted(named) if f"def {name}(" not in tests] == []
    for kind in ("regularizer", "modulation"):
        for name in registry.names(kind):
            assert f"`{name}`" in page, name


@pytest.mark.parametrize("row", rows._ROWS, ids=lambda row: f"{row.kind} {row.name}")
def test_every_row_is_described_and_its_own_source_named_in_its_docstring_or_its_module(row):
    code = row.load()
    # Not inspect.getdoc, which would take what a base class says.
    own = code.__doc__
    assert own
    text = " ".join(f"{own} {inspect.getdoc(sys.modules[code.__module__])}".split())
    if row.source == "–":
        return
    citation = re.search(r"arXiv:[\d.]+", row.source)
    assert (citation.group() if citation else row.source) in text
    assert re.search(r"Sources?: ", text)
