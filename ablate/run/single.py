"""One trial of a cell in this process, without Ray: for debugging."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ablate.errors import UsageError, choices_text
from ablate.places import Place
from ablate.run.pack import Pack, Request
from ablate.run.plan import check_data, make_plan
from ablate.store.record import TrialRecord
from ablate.sweepfile.cells import Cell
from ablate.sweepfile.document import Document
from ablate.sweepfile.space import label
from ablate.tasks.parameters import ConfigError, trial_key
from ablate.tasks.registry import Value


def train_one(
    file: Path,
    profile: str | None,
    overrides: Sequence[str],
    out: Place,
    cell_name: str,
    tuned: Sequence[str],
    seed: int,
    device: str,
    echo: Callable[[str], None],
    *,
    with_test: bool = False,
) -> TrialRecord:
    """Train the cell named like "width=16, arm=plain"; echo the configuration and a line an epoch.

    `tuned` are texts PARAMETER=VALUE; tuned parameters that are left out keep their defaults. Only `with_test` is test
    data looked at.

    Raises:
        UsageError: The file, the cell or a value is wrong.
    """
    plan = make_plan(file, profile, overrides, out)
    names = {_compact(cell.name): index for index, cell in enumerate(plan.cells)}
    if _compact(cell_name) not in names:
        raise UsageError(f"no cell '{cell_name}'. {choices_text(cell_name, [cell.name for cell in plan.cells])}")
    index = names[_compact(cell_name)]
    cell, data = plan.cells[index], plan.data[index]
    values = _values(tuned, cell)
    try:
        settings = cell.config(values)
        check_data(cell.task, settings, data)
        details = cell.task.details(settings, data.facts)
    except ConfigError as error:
        name = error.parameter
        given = next((f"--with {text}: " for text in reversed(tuned) if text.partition("=")[0] == name), "")
        named = _names(cell, name)
        choices = f". {choices_text(values[name], named)}" if given and named else ""
        raise UsageError(f"{given}{error}{choices}") from None
    for name in cell.space.tuned:
        is_always = not any(definition.when for definition in cell.space.definitions(name))
        if is_always and name not in settings and not cell.space.parameters.owners(name):
            raise UsageError(f"{name} is tuned here and has no default: give --with {name}=VALUE")
    for note in _notes(values, settings, cell):
        echo(note)
    echo(f"configuration: {', '.join(f'{name}={label(value)}' for name, value in settings.items())}")
    for line in details:
        echo(line)
    fingerprint = cell.task.fingerprint(settings, data.digest)
    num_epochs, objective = cell.task.num_epochs(settings), cell.task.metric(cell.task.objective)
    request = Request(
        key=trial_key(fingerprint, seed),
        fingerprint=fingerprint,
        seed=seed,
        phase="confirm" if with_test else "tune",
        settings=dict(settings),
        data_digest=data.digest,
    )

    def report(epoch: int, values: list[float | None]) -> set[int]:
        if pack.members[0].record is None:  # One that diverged has no number.
            of = f"/{num_epochs}" if num_epochs else ""
            echo(f"epoch {epoch}{of}: {objective.label.lower()} {values[0]:.4f}")
        return set()

    pack = Pack(cell.task, [request], device, data.path)
    (record,) = pack.run(report)
    if record.state == "diverged":
        place = f"epoch {record.diverged_epoch}, step {record.diverged_step}, layer {record.diverged_layer}"
        echo(f"diverged in {place}: {record.message}")
    return record


def _compact(name: str) -> str:
    return name.replace(" ", "")


def _values(tuned: Sequence[str], cell: Cell) -> dict[str, Any]:
    """Return the given values of tuned parameters; choices with names go by these."""
    values: dict[str, Any] = {}
    names = cell.space.tuned
    for text in tuned:
        name, equals, value = text.partition("=")
        if name in values:
            raise UsageError(f"--with {text}: '{name}' is given twice")
        if not equals or name not in names:
            raise UsageError(
                f"--with {text}: needs PARAMETER=VALUE with a tuned parameter. {choices_text(name, names)}"
            )
        document = Document(value, f"--with {text}", has_lines=False)
        document.findings.raise_all()
        values[name] = document.tree
        if isinstance(values[name], str):
            values[name] = _names(cell, name).get(values[name], values[name])
    return values


def _notes(values: dict[str, Any], settings: dict[str, Value], cell: Cell) -> list[str]:
    """Return a line for each number that no trial of the cell can have."""
    notes = []
    for name in (name for name in values if name in settings):
        held = [
            definition
            for definition in cell.space.definitions(name)
            if all(settings.get(other) in allowed for other, allowed in definition.when.items())
        ]
        ranges = [f"{label(each.low)} to {label(each.high)}" for each in held if each.kind != "categorical"]
        if ranges and not any(definition.can_be(settings[name]) for definition in held):
            notes.append(f"note: {name}={label(settings[name])} is outside of what the sweep tries, {ranges[0]}")
    return notes


def _names(cell: Cell, parameter: str) -> dict[str, Value]:
    """Return what the names of a parameter's choices stand for, without choices that go by their value."""
    choices = (entry for definition in cell.space.definitions(parameter) for entry in definition.choices.items())
    return {name: value for name, value in choices if isinstance(name, str) and name != value}
