"""A checked sweep file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ablate.sweepfile.positions import Positions
from ablate.sweepfile.shape import Budget, Confirm, Resources
from ablate.sweepfile.space import Definition
from ablate.tasks.base import Task
from ablate.tasks.registry import Value


@dataclass(frozen=True, kw_only=True)
class ReportLayout:
    """The table's layout: `rows` and `columns` name axes, None where there is none; `baseline` is a level's label.

    `margin` is the smallest difference that matters, in the metric (a fraction where it is in percent).
    """

    rows: str | None
    columns: str | None
    metric: str
    baseline: str | None
    margin: float | None = None


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A checked claim: `better` beats `worse`, levels of the column axis, by at least `margin` in the table's metric.

    Where `kind` is equals, it claims that they differ by less than `margin`. `levels` has a level of every other axis.
    """

    text: str
    better: str
    worse: str
    margin: float
    levels: Mapping[str, str]
    kind: Literal["beats", "equals"] = "beats"


@dataclass(frozen=True, kw_only=True)
class SweepSpec:
    """A sweep file whose every name and value is checked, with its profile and overrides merged.

    `axes` maps each axis to its levels' labels and what they set. Specs are equal if they ask for the same:
    `path`, `positions`, `profile` and the merged `tree` do not count. `path` is as the user wrote it, `positions` say
    where in it an entry stands. `components` are those that each arm of a design switches on; `tree` has the design's
    arms, `written` has the design itself.
    """

    name: str
    question: str
    task: Task
    fixed: Mapping[str, Value]
    axes: Mapping[str, Mapping[str, Mapping[str, Value]]]
    tune: Mapping[str, tuple[Definition, ...]]
    budget: Budget
    confirm: Confirm
    report: ReportLayout
    resources: Resources
    seed: int
    imports: tuple[str, ...]
    claims: tuple[Claim, ...] = ()
    path: Path = field(compare=False)
    positions: Positions = field(compare=False, repr=False)
    profile: str = field(default="", compare=False)
    design: str = ""
    components: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    tree: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    written: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def sweep_id(self) -> str:
        """The sweep's name, or name@profile."""
        return f"{self.name}@{self.profile}" if self.profile else self.name

    @property
    def import_paths(self) -> tuple[Path, ...]:
        """The user's Python files, absolute."""
        return tuple((self.path.parent / name).resolve() for name in self.imports)
