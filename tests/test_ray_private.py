"""What is used of Ray beyond its public interface is still there and used as it was; nothing else of it is used."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from ablate.errors import AblateError
from ablate.run.launch import ray_private
from ablate.run.launch.ray_private import nothing_propagated, nothing_reported, signals_for_us

PACKAGE = Path(ray_private.__file__).parents[2]


@pytest.mark.parametrize("part", ray_private.PARTS, ids=lambda part: part[1])
def test_ray_has_every_private_part(part):
    module, name = part
    assert hasattr(importlib.import_module(module), name), f"seen in Ray {ray_private.SEEN_IN}"


@pytest.mark.parametrize(
    ("user", "part"),
    [
        (("ray._private.services", "start_ray_process"), ray_private.SERVICES),
        (("ray._private.worker", "init"), ray_private.SIGTERM),
        (("ray._private.node", "Node._register_shutdown_hooks"), ray_private.SIGTERM),
        (("ray.tune.execution.class_cache", "_ActorClassCache.get"), ray_private.PROPAGATED),
        (("ray.tune.utils.callback", "_create_default_callbacks"), ray_private.PROGRESS),
    ],
)
def test_ray_looks_a_part_up_by_its_name_each_time(user, part):
    """Else to replace it would do nothing."""
    function = importlib.import_module(user[0])
    for name in user[1].split("."):
        function = getattr(function, name)
    assert part[1] in inspect.getsource(function)
    importer = importlib.import_module(user[0])
    assert user[0] == part[0] or not hasattr(importer, part[1]), "it has a name of its own for it"


def test_ray_tune_puts_no_variable_of_the_driver_into_a_runtime_environment():
    code = (
        "import os; os.environ.update(AWS_SECRET_ACCESS_KEY='planted', RAY_CHDIR_TO_TRIAL_DIR='0')\n"
        "from ray.tune.execution.class_cache import _ActorClassCache\n"
        "from ablate.run.launch.ray_private import nothing_propagated\n"
        "def variables():\n"
        "    made = _ActorClassCache().get(type('A', (), {}))\n"
        "    return sorted(made._default_options['runtime_env']['env_vars'])\n"
        "print(variables())\n"
        "with nothing_propagated(): print(variables())\n"
        "print(variables())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    propagated, ours, after = done.stdout.splitlines()
    assert "AWS_SECRET_ACCESS_KEY" in propagated, "Ray does what this is made against"
    assert ours == "['PL_DISABLE_FORK']"
    assert after == propagated


def test_what_is_replaced_comes_back():
    before = [getattr(importlib.import_module(module), name) for module, name in ray_private.PARTS]
    with signals_for_us(), nothing_propagated(), nothing_reported():
        pass
    assert [getattr(importlib.import_module(module), name) for module, name in ray_private.PARTS] == before


def test_a_ray_that_is_built_otherwise_is_one_line(monkeypatch):
    monkeypatch.setattr(ray_private, "PROPAGATED", ("ray.tune.execution.class_cache", "GONE"))
    said = r"^Ray \S+ has no ray\.\S+\.GONE, which Ray 2\.60\.0 had: install ray\[tune\]==2\.60\.0$"
    with pytest.raises(AblateError, match=said), nothing_propagated():
        pass


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_no_other_module_touches_a_private_part(file):
    if file.name == "ray_private.py":
        return
    for node in ast.walk(ast.parse(file.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute):
            names = [ast.unparse(node)]
        for name in names:
            is_private = any(part.startswith("_") for part in name.split(".")) or "ray.tune.execution" in name
            assert not (name.startswith("ray.") and is_private), f"{file.name} uses {name}"
