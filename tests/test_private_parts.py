"""What is used of Optuna and MLflow beyond their public interfaces is there and used as it was, in one module each."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import optuna
import pytest

import ablate.search.pruning

PACKAGE = Path(ablate.search.pruning.__file__).parents[1]
PRIVATE = {"search/pruning.py": ["_get_bracket_id"]}
"""Methods of libraries that a module overrides or calls, by their module."""


def test_hyperband_still_asks_for_the_bracket_of_a_trial_by_this_name():
    """Seen in Optuna 5.0: else every cell would have brackets of its own, without an error."""
    assert "self._get_bracket_id(study, trial)" in inspect.getsource(optuna.pruners.HyperbandPruner.prune)
    assert list(inspect.signature(optuna.pruners.HyperbandPruner._get_bracket_id).parameters) == [
        "self", "study", "trial",
    ]  # fmt: skip


def test_a_bracket_depends_on_the_name_of_the_study_and_the_number_of_the_trial_alone():
    source = inspect.getsource(optuna.pruners.HyperbandPruner._get_bracket_id)
    assert set(re.findall(r"\b(?:study|trial)\.([a-z]\w*)", source)) == {"study_name", "number"}


def test_the_server_of_mlflow_is_an_application_that_can_be_guarded():
    """Seen in MLflow 3.17: tracking/guard.py puts its own middleware around it."""
    app = importlib.import_module("mlflow.server.fastapi_app").app
    assert callable(app.add_middleware)


@pytest.mark.parametrize("file", sorted((PACKAGE / "search").glob("*.py")), ids=lambda file: file.name)
def test_no_other_module_of_the_search_touches_private_parts(file):
    """Own attributes are those of `self`; `super()._name` is a library's."""
    calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Attribute)]
    foreign = [
        node.attr
        for node in calls
        if re.fullmatch(r"_[a-z]\w*", node.attr) and not (isinstance(node.value, ast.Name) and node.value.id == "self")
    ]
    assert foreign == PRIVATE.get(file.relative_to(PACKAGE).as_posix(), [])
