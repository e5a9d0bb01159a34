"""The project's own rules: which module may import which, and that every search space is valid."""

import ast
import functools
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from mutants import MUTANTS, applies

from ablate.sweepfile.document import Document
from ablate.sweepfile.spec import load_spec

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "ablate"
EXAMPLES = PACKAGE / "examples"
MODULES = sorted(file for file in PACKAGE.rglob("*.py") if EXAMPLES not in file.parents)
# What a part of the package may import of the others; the order of the layers, from the top down.
LAYERS = [
    "registry",
    "testing",
    "commands",
    "api",
    "report",
    "run",
    "search",
    "sweepfile",
    "tracking",
    "bundle",
    "store",
    "tasks.image_classification",
    "tasks",
    "base",
]
"""The parts of the package, from the top down; none imports one above it. `registry` and `testing` are
for users' own code, `api` is the package's face."""
APART = [
    ("report", "run"),
    ("report", "search"),
    ("report", "sweepfile"),
    ("report", "tracking"),
    ("bundle", "tracking"),
]
"""Of two parts neither imports the other."""
ONLY_IN = {
    "ray": ("run/launch/",),
    "optuna": ("search/", "report/importance.py"),
    "mlflow": ("tracking/",),
    "torch": ("tasks/image_classification/",),
}


def part(module: str) -> str:
    """Return the part that a module belongs to; those that lie beside the parts are the base."""
    names = module.split(".")[1:]
    if names == ["__init__"]:
        return "api"
    return next((layer for n in (2, 1) if (layer := ".".join(names[:n])) in LAYERS), "base")


@functools.cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def imports(file: Path) -> list[str]:
    tree = parsed(file)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found += names if node.module == "ablate" else [node.module]
    return found


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_point_one_way(file):
    own = part("ablate." + ".".join(file.relative_to(PACKAGE).with_suffix("").parts))
    for module in imports(file):
        if module.split(".")[0] == "ablate":
            target = part(module)
            assert LAYERS.index(target) >= LAYERS.index(own), f"{own} imports {module}"
            assert not {(own, target), (target, own)} & set(APART), f"{own} imports {module}"


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_heavy_libraries_stay_where_they_belong(file):
    place = str(file.relative_to(PACKAGE))
    for module in imports(file):
        library = module.split(".")[0]
        if library in ONLY_IN:
            assert place.startswith(ONLY_IN[library]), f"{place} imports {library}"


def graph() -> dict[str, set[str]]:
    """Return what each module imports of the others, imports for types and within functions included."""
    modules = {".".join(("ablate", *file.relative_to(PACKAGE).with_suffix("").parts)): file for file in MODULES}
    modules = {name.removesuffix(".__init__"): file for name, file in modules.items()}
    found = {}
    for name, file in modules.items():
        nodes = [node for node in ast.walk(parsed(file)) if isinstance(node, ast.ImportFrom)]
        named = [(node.module, alias.name) for node in nodes if node.module for alias in node.names]
        targets = {f"{module}.{each}" if f"{module}.{each}" in modules else module for module, each in named}
        targets |= set(imports(file))
        found[name] = {target for target in targets if target in modules and target != name}
    return found


def test_no_module_imports_itself_by_way_of_others():
    TopologicalSorter(graph()).prepare()


def test_the_graph_sees_every_import():
    found = graph()
    assert "ablate.tasks.image_classification.training.trainer" in found["ablate.tasks.image_classification.task"]
    assert "ablate.run.launch.tuner" in found["ablate.run.runner"]


TESTS = Path(__file__).parent


def modules_of_tests(text: str) -> list[str]:
    """Return the modules of tests that a module imports: what they share belongs into a module beside them."""
    nodes = list(ast.walk(ast.parse(text)))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            names += [alias.name for alias in node.names] if node.module in (None, "tests") else [node.module]
    return [name for name in names if any(part.startswith("test_") for part in name.split("."))]


@pytest.mark.parametrize("file", sorted(TESTS.glob("*.py")), ids=lambda file: file.name)
def test_no_module_imports_a_module_of_tests(file):
    assert modules_of_tests(file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("from test_sweep import FILE", ["test_sweep"]),
        ("import test_sweep as sweeps, os", ["test_sweep"]),
        ("def f():\n    from tests.test_sweep import FILE", ["tests.test_sweep"]),
        ("from . import test_sweep", ["test_sweep"]),
        ("from tests import test_sweep", ["test_sweep"]),
        ("from command_line import test_file", []),
    ],
)
def test_an_import_of_a_module_of_tests_is_found(line, found):
    assert modules_of_tests(line) == found


WORDS = re.compile(r"accurac(y|ies)|\bchance\b|depth|(?<!composite_)\bimages?\b(?!\.composite)", re.IGNORECASE)


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_only_tasks_know_what_a_trial_does(file):
    if "tasks" not in file.relative_to(PACKAGE).parts:
        found = [line for line in file.read_text().splitlines() if WORDS.search(line)]
        assert [line for line in found if "imshow" not in line and "colorbar" not in line] == []


SPACES = sorted((ROOT / "search_spaces").glob("*.yaml"))


@pytest.mark.parametrize("file", SPACES, ids=lambda file: file.name)
def test_every_search_space_and_each_of_its_profiles_is_valid_and_documented(file):
    text = file.read_text()
    for line in ("Question:", "Baseline:", "Source:", "Command:", "Expected cost:", "Expected result:"):
        assert f"# {line}" in text
    profiles = Document(text, file.name).tree.get("profiles", {})
    for profile in [None, *profiles]:
        assert load_spec(file, profile).axes
    documented = (ROOT / "README.md").read_text() + (ROOT / "docs" / "sweep_files.md").read_text()
    for name in [file.name, *profiles]:
        assert name in documented


TEXT_MODES = re.compile(r"[rwax+t]+")
NOT_TEXT = {"os", "gzip", "Image", "opener", "archive"}
"""Whose `open` opens no text file."""


def is_text_without_encoding(call: ast.Call) -> bool:
    """Whether a call reads or writes text in whatever encoding the machine's locale has."""
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    if "encoding" in given:
        return False
    if any(ast.unparse(given.get(name, call)) == "True" for name in ("text", "universal_newlines")):
        return True
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name in ("read_text", "write_text"):
        return True
    owner = getattr(call.func.value, "id", "") if isinstance(call.func, ast.Attribute) else ""
    if name not in ("open", "fdopen") or (name == "open" and owner in NOT_TEXT):
        return False
    modes = [given["mode"]] if "mode" in given else call.args[owner == "" or name == "fdopen" :]
    texts = [mode.value for mode in modes if isinstance(mode, ast.Constant) and isinstance(mode.value, str)]
    return not texts or TEXT_MODES.fullmatch(texts[0]) is not None


@pytest.mark.parametrize(
    ("line", "is_found"),
    [
        ("open(path)", True),
        ("open(path, 'w')", True),
        ("open(path, 'rb')", False),
        ("open(path, encoding='utf-8')", False),
        ("path.open('a')", True),
        ("path.open(mode='r')", True),
        ("path.open('ab+')", False),
        ("os.fdopen(handle, 'w')", True),
        ("os.fdopen(handle, 'wb')", False),
        ("path.read_text()", True),
        ("path.write_text(text, encoding='utf-8')", False),
        ("subprocess.run(command, text=True)", True),
        ("subprocess.run(command)", False),
        ("os.open(path, os.O_RDONLY)", False),
    ],
)
def test_text_without_an_encoding_is_found(line, is_found):
    assert is_text_without_encoding(ast.parse(line).body[0].value) == is_found


@pytest.mark.parametrize(
    "file",
    [*MODULES, ROOT / "cli.py", *(ROOT / "docs").glob("*.py"), *(ROOT / "benchmarks").glob("*.py")],
    ids=lambda file: str(file.relative_to(ROOT)),
)
def test_every_text_is_utf_8_whatever_the_locale(file):
    calls = [node for node in ast.walk(parsed(file)) if isinstance(node, ast.Call)]
    assert [ast.unparse(call) for call in calls if is_text_without_encoding(call)] == []


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_changes_one_place_that_is_there(mutant):
    assert applies(mutant)
    assert all((ROOT / "tests" / each.partition("::")[0]).exists() for each in mutant.tests.split())
