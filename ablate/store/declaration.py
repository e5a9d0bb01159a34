"""What a sweep asks for, and which trials it has proposed: the part of a sweep that the report reads.

A sweep's folder under the output folder:

    <sweep>/declaration.json    the present declaration: cells, budget, data, report options
    <sweep>/resolved.yaml       the sweep file after profile and --set
    <sweep>/proposals.jsonl     one line for every trial, written before the trial is launched
    <sweep>/running.json        what the driver has launched and not yet heard of; true while it holds the lock
    <sweep>/mlflow_runs.json    ids of the experiment and of the cells' runs in MLflow, for the report's links

Beside the ledger's folders, ledger/latest_sweep names the sweep that was declared last.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
import math
import re
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ablate.checked import STRICT, Count, Key, from_json, from_plain
from ablate.command_lines import Commands
from ablate.errors import DamagedError, UsageError, choices_text
from ablate.metrics import Metric
from ablate.places import Place
from ablate.storage import Lines, OddFileError, listed, read_file, write_atomically, write_view
from ablate.store.ledger import Ledger, check_version
from ablate.store.record import TrialRecord
from ablate.tasks import catalog
from ablate.tasks.base import Task
from ablate.tasks.parameters import FIRST_TASK

SCHEMA_VERSION = 5
"""4: `num_tune` was `trials_per_cell`, and there was one study a cell. 3: also without `task`, `data_line` and
`notices`. 2: also without `metrics` and `objective`. 1: also without `space` of a cell, `runner_up`, `audit`, `design`
and `components`."""
WITH_NOTICES = 4
SWEEP_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}(@[A-Za-z0-9][A-Za-z0-9._+-]{0,99})?")
"""Name or name@profile: it becomes a folder."""
Slot = tuple[str, int, str, int]
"""Cell, study, phase and number of a proposal."""
EXTRA_PHASES = ("runner_up", "audit")
"""Trials beside the table: the runner-up's confirm trials, and stopped trials that are run to their end."""
MIN_EQUIVALENCE = 5
"""From this many replicates on two arms can be called equivalent."""
MIN_SHARED = 6
"""A search by `auto` of no more trials than these has no others than shared points."""
LATEST = "ledger/latest_sweep"
RUNNING = "running.json"
MLFLOW_RUNS = "mlflow_runs.json"
"""File in a sweep's folder with the ids of its experiment and its cells' runs, written by the mirror."""
log = logging.getLogger(__name__)


def num_shared(sampler: str, num_tune: int) -> int:
    """Return how many trials of a study, its first ones, take shared points.

    With `auto` two thirds, and MIN_SHARED at least: in shorter searches the points that cells share tell more than the
    few results that TPE could follow (docs/statistics.md).
    """
    return {"qmc": num_tune, "auto": min(num_tune, max(MIN_SHARED, -(-2 * num_tune // 3)))}.get(sampler, 0)


def named_study(name: str, study: int) -> str:
    """Return the name of a cell; of further studies of it with their number, counted from 1."""
    return f"{name}, study {study + 1}" if study else name


def public_file(path: str) -> str:
    """Return a sweep file's name as a report may show it: of its folders only `search_spaces` may stay."""
    folders, _, name = path.replace("\\", "/").rpartition("/")
    return f"search_spaces/{name}" if folders.rpartition("/")[2] == "search_spaces" else name


@dataclass(frozen=True, kw_only=True)
class DeclaredCell:
    """One entry of the table.

    `key` identifies what is searched in the cell and how: proposals of another key do not count. `levels` maps
    each axis to the label of its level, `tuned` names the parameters that are searched, `settings` are the
    parameters that are not. `space` has the definitions of each tuned parameter: name, kind, low, high, log, step,
    choices, when. `num_points` counts the points of a finite space; None where it is not, or was not counted.
    """

    key: Key
    levels: dict[str, str]
    settings: dict[str, Any]
    tuned: list[str]
    space: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    num_points: Count | None = None

    __pydantic_config__ = STRICT

    @property
    def name(self) -> str:
        """For example "width=16, arm=plain"."""
        return ", ".join(f"{axis}={level}" for axis, level in self.levels.items())


@dataclass(frozen=True, kw_only=True)
class DeclaredClaim:
    """A claim as it was frozen: `better` beats `worse` by at least `margin` (a fraction) in the row of `levels`.

    `better` and `worse` are levels of the column axis `axis`, `levels` has a level of every other axis. `hash` is over
    the text, the `design` (hash of both cells' keys, tune trials and metric) and the number of replicates. `kind`
    equals claims that they differ by less than `margin`. `is_exploratory`: trials had been proposed when it was
    written, or its design changed after that. `looks` are the numbers of replicates declared so far, the frozen one
    first; `is_withdrawn`: the present file has it no longer.
    """

    text: str
    axis: str
    better: str
    worse: str
    margin: float
    levels: dict[str, str]
    design: str
    hash: str
    num_seeds: int
    is_exploratory: bool = False
    is_withdrawn: bool = False
    looks: list[int] = field(default_factory=list)
    num_studies: Count = 1
    kind: Literal["beats", "equals"] = "beats"

    @property
    def num_replicates(self) -> int:
        """How many replicates were frozen: studies, or the confirm seeds of a single one."""
        return self.num_studies if self.num_studies > 1 else self.num_seeds

    __pydantic_config__ = STRICT


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """The present declaration of a sweep.

    `task` is the name of what each trial does. `axes` maps each axis to the labels of its levels in the file's order.
    `data` are the task's facts about the data, `data_line` says them in prose, `notices` what it is too little to tell.
    `report` has rows, columns, metric, baseline. `metrics` are those that a table can show, with the floor on these
    data; `objective` names the one that tuning optimises. `file` is the sweep file's name as `public_file` gives it,
    `path` its path as it was given, which only the terminal shows. `history` holds the hash of every declaration so
    far, the present one last. `runner_up` says whether the second best configuration is confirmed too, `audit` how many
    stopped trials of a cell are run to their end: neither counts in `num_trials`. Each cell has `num_studies` studies,
    each of `num_tune` tune trials and `num_seeds` confirm seeds. `tune_key` is where the sweep file has `num_tune`.
    `is_late_margin`: trials had been proposed when the report's margin was written or changed. `components` are those
    that each level of the axis `arm` switches on, empty without a `design`. `length` is the parameter that says how
    often a trial reports, "" where none does.
    """

    sweep: str
    name: str
    profile: str
    question: str
    axes: dict[str, list[str]]
    cells: list[DeclaredCell]
    num_tune: Count
    num_seeds: Count
    sampler: str
    pruner: str
    seed: int
    report: dict[str, Any]
    tune: dict[str, Any]
    data: dict[str, Any]
    metrics: list[Metric]
    objective: str
    task: str = catalog.DEFAULT
    length: str = "epochs"
    data_line: str = ""
    notices: list[str] = field(default_factory=list)
    file: str = ""
    path: str = ""
    overrides: list[str] = field(default_factory=list)
    history: list[str] = field(default_factory=list)
    runner_up: bool = False
    audit: int = 0
    design: str = ""
    components: dict[str, list[str]] = field(default_factory=dict)
    claims: list[DeclaredClaim] = field(default_factory=list)
    num_studies: Count = 1
    tune_key: str = "budget.trials_per_cell"
    is_late_margin: bool = False
    schema_version: int = SCHEMA_VERSION

    __pydantic_config__ = STRICT

    def check(self) -> None:
        """Raise a ValueError where the parts of a declaration do not belong together."""
        if not SWEEP_ID.fullmatch(self.sweep):
            raise ValueError(f"no name of a sweep: {self.sweep[:100]!r}")
        if not self.cells or len({cell.key for cell in self.cells}) < len(self.cells):
            raise ValueError("it must have cells, each with a key of its own")
        for cell in self.cells:
            if cell.levels.keys() != self.axes.keys() or any(v not in self.axes[a] for a, v in cell.levels.items()):
                raise ValueError(f"the levels of the cell {cell.key} are not those of the axes")
            if not all(_is_definition(part) for parts in cell.space.values() for part in parts):
                raise ValueError(f"the space of the cell {cell.key} holds something else than definitions")
        for claim in self.claims:
            sides = [{**claim.levels, claim.axis: side} for side in (claim.better, claim.worse)]
            if any(side not in [cell.levels for cell in self.cells] for side in sides) and not claim.is_withdrawn:
                raise ValueError("a claim compares cells that there are not")
        task = self.known_task
        if task is not None:
            task.check_facts(self.data)
        for name in ("rows", "columns", "baseline", "metric"):
            text = self.report.get(name)
            if text is not None and (
                not isinstance(text, str) or (name in ("rows", "columns") and text not in self.axes)
            ):
                raise ValueError(f"report.{name} must be the name of an axis, a level or a metric")
        for known in (self.objective, self.report.get("metric")):
            if known not in [metric.name for metric in self.metrics]:
                raise ValueError(f"there is no metric {str(known)[:100]!r}")

    @property
    def known_task(self) -> Task | None:
        """The task, if it is known here: a user's is where its file was imported."""
        return catalog.find(self.task)

    def command(self, name: str, commands: Commands, options: Mapping[str, str | None] | None = None) -> str:
        """Return the command line that runs `name` on this sweep again, with further options."""
        file = commands.file(self.path, public_file(self.file) or f"{self.name}.yaml")
        own = {"profile": self.profile, "set": self.overrides}
        return commands.line(name, file, options={**own, **(options or {})})

    def overridden(self, key: str, value: object) -> Declaration:
        """Return the declaration with one `--set` more, in place of an earlier one of the same key."""
        kept = [override for override in self.overrides if not override.startswith(f"{key}=")]
        return dataclasses.replace(self, overrides=[*kept, f"{key}={value}"])

    def of(self, levels: Mapping[str, str]) -> Declaration:
        """Return the declaration of the sweep that the cell of these levels belongs to."""
        return self

    @property
    def replicate(self) -> str:
        """What is repeated: "study", or "seed" where each cell has one study."""
        return "study" if self.num_studies > 1 else "seed"

    @property
    def searched(self) -> str:
        """What has a search of its own: a "study" of several, or the "cell"."""
        return "study" if self.num_studies > 1 else "cell"

    @property
    def is_tuned(self) -> bool:
        """Whether anything is searched in any cell."""
        return any(cell.tuned for cell in self.cells)

    @property
    def num_replicates(self) -> int:
        """How many replicates each cell has."""
        return self.num_studies if self.num_studies > 1 else self.num_seeds

    def replicates(self, number: int) -> str:
        """Return what is repeated, for prose: "study", "studies", "seed" or "seeds"."""
        return self.replicate if number == 1 else {"study": "studies"}.get(self.replicate, f"{self.replicate}s")

    def row(self, proposal: Proposal) -> int:
        """Return which replicate a confirm trial belongs to; cells are compared over those of equal number."""
        return proposal.study if self.num_studies > 1 else proposal.seed

    @property
    def metric(self) -> Metric:
        """The metric of the table."""
        return self.metric_named(str(self.report["metric"]))

    @property
    def tuned_metric(self) -> Metric:
        """The metric that tuning optimises."""
        return self.metric_named(self.objective)

    def metric_named(self, name: str) -> Metric:
        """Return one of the metrics.

        Raises:
            UsageError: There is none of this name.
        """
        known = {metric.name: metric for metric in self.metrics}
        if name not in known:
            raise UsageError(f"unknown metric '{name}'. {choices_text(name, known)}")
        return known[name]

    def metric_of(self, levels: Mapping[str, str]) -> Metric:
        """Return the metric of the table with the floor of the cell of these levels."""
        return self.of(levels).metric_named(self.metric.name)

    @property
    def floors(self) -> list[float]:
        """The floors of all cells, ascending; [] where there is none."""
        found = {self.metric_of(cell.levels).floor for cell in self.cells}
        return sorted(floor for floor in found if floor is not None)

    @property
    def num_trials(self) -> int:
        """How many trials the sweep asks for, tune and confirm together."""
        return len(self.cells) * self.num_studies * (self.num_tune + self.num_seeds)


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A trial that was decided on.

    `phase` is tune, confirm, runner_up or audit. `number` is the trial's number within its study while tuning and in an
    audit, that of the confirm seed otherwise. `study` is the number of its study in its cell. `params` are the
    sampler's own values, `settings` the flat configuration, `task` is the task's stamp.
    """

    cell: Key
    phase: str
    number: Count
    key: Key
    seed: int
    settings: dict[str, Any]
    params: dict[str, Any] = field(default_factory=dict)
    task: str = FIRST_TASK
    study: Count = 0

    __pydantic_config__ = STRICT

    @property
    def slot(self) -> Slot:
        """What a later proposal replaces it by: cell, study, phase and number."""
        return (self.cell, self.study, self.phase, self.number)

    @property
    def name(self) -> str:
        """For example "tune 3"; of further studies with their number, counted from 1: "study 2 tune 3"."""
        return f"study {self.study + 1} {self.phase} {self.number}" if self.study else f"{self.phase} {self.number}"

    @property
    def recorded_phase(self) -> str:
        """The phase in its record: a trial beside the table is run like one of the table."""
        return {"runner_up": "confirm", "audit": "tune"}.get(self.phase, self.phase)


Trials = list[tuple["Proposal", TrialRecord | None]]
"""Proposals with their records; a record is None while unfinished."""


@dataclass(frozen=True, kw_only=True)
class StudyTrials:
    """The trials of one study of a cell: one search, and the confirm trials of its winner.

    `extra` are those beside the table: they never make an entry. `objective` is the metric that tuning optimises.
    """

    cell: DeclaredCell
    number: int
    objective: Metric
    tune: Trials
    confirm: Trials
    extra: Trials

    @property
    def name(self) -> str:
        """The cell's name; of further studies with their number, counted from 1."""
        return named_study(self.cell.name or "the cell", self.number)

    def value(self, record: TrialRecord) -> float:
        """Return the objective of a complete trial after its last step."""
        return record.metrics[self.objective.name]

    def winner(self) -> Proposal | None:
        """Return the proposal with the best objective after its last step, the earlier on a tie.

        If none is complete it is the diverged one that lasted longest; None if there is none either.
        """
        complete = [(p, r) for p, r in self.tune if r is not None and r.state == "complete"]
        if complete:
            return self._best(complete)
        diverged = [(p, r) for p, r in self.tune if r is not None and r.state == "diverged"]
        if diverged:
            # First by epochs: of two that saw as much data, the one of smaller batches did more steps.
            return max(
                diverged, key=lambda pair: (pair[1].diverged_epoch or 0, pair[1].diverged_step or 0, -pair[0].number)
            )[0]
        return None

    def runner_up(self) -> Proposal | None:
        """Return the best complete proposal of another configuration than the winner's, None if there is none."""
        winner = self.winner()
        complete = [
            (p, r)
            for p, r in self.tune
            if r is not None and r.state == "complete" and winner is not None and p.settings != winner.settings
        ]
        return self._best(complete) if complete else None

    def _best(self, complete: list[tuple[Proposal, TrialRecord]]) -> Proposal:
        sign = self.objective.sign
        return max(complete, key=lambda pair: (sign * self.value(pair[1]), -pair[0].number))[0]

    def tied(self) -> list[Proposal]:
        """Return the proposals that are as good as the winner, itself among them; [] if they are one configuration."""
        winner = self.winner()
        complete = {p.number: self.value(r) for p, r in self.tune if r is not None and r.state == "complete"}
        if winner is None or winner.number not in complete:
            return []
        # Equal numbers of items, whatever rounding makes of their shares.
        best = [p for p, _ in self.tune if abs(complete.get(p.number, math.inf) - complete[winner.number]) < 1e-9]
        return best if any(p.settings != winner.settings for p in best) else []

    def stopped(self) -> list[Proposal]:
        """Return the proposals that the pruner stopped."""
        return [p for p, r in self.tune if r is not None and r.state == "pruned"]


@dataclass(frozen=True)
class CellTrials:
    """The trials of one cell that the present declaration asks for, one study after the other."""

    cell: DeclaredCell
    tune: Trials
    confirm: Trials
    extra: Trials = field(default_factory=list)
    objective: Metric = field(kw_only=True)

    @functools.cached_property
    def studies(self) -> list[StudyTrials]:
        """The studies that have trials, by their number."""
        numbers = sorted({proposal.study for proposal, _ in (*self.tune, *self.confirm, *self.extra)})
        return [
            StudyTrials(
                cell=self.cell,
                number=number,
                objective=self.objective,
                **{name: [pair for pair in pairs if pair[0].study == number] for name, pairs in self._phases().items()},
            )
            for number in numbers
        ]

    def _phases(self) -> dict[str, Trials]:
        return {"tune": self.tune, "confirm": self.confirm, "extra": self.extra}

    def winners(self) -> list[Proposal]:
        """Return the winner of each study that has one."""
        return [winner for study in self.studies if (winner := study.winner()) is not None]


def cell_trials(studies: Sequence[StudyTrials]) -> CellTrials:
    """Return the trials of a cell from those of its studies."""
    first = studies[0]
    return CellTrials(
        first.cell,
        [pair for study in studies for pair in study.tune],
        [pair for study in studies for pair in study.confirm],
        [pair for study in studies for pair in study.extra],
        objective=first.objective,
    )


class SweepFolder:
    """Reads and writes the folder of one sweep."""

    def __init__(self, out: Place, sweep: str) -> None:
        self.out = out
        self.sweep = sweep
        self.path = out / sweep
        self.num_damaged = 0
        """How many lines were no proposals when `read_proposals` read them last."""

    def write_declaration(self, declaration: Declaration, resolved: str) -> None:
        """Replace the declaration and the resolved sweep file."""
        write_atomically(self.path / "resolved.yaml", resolved.encode())
        self.amend_declaration(declaration)
        write_atomically(self.out / LATEST, self.sweep.encode())

    def amend_declaration(self, declaration: Declaration) -> None:
        """Replace what is known of the declared sweep: it is not declared anew."""
        text = json.dumps(dataclasses.asdict(declaration), indent=1)
        write_atomically(self.path / "declaration.json", text.encode())

    def has_declaration(self) -> bool:
        """Whether the sweep was declared under this output folder."""
        return (self.path / "declaration.json").exists()

    def read_declaration(self) -> Declaration:
        """Return the present declaration.

        Raises:
            DamagedError: It is damaged.
            UsageError: There is none.
            LedgerError: A newer program wrote it.
            OSError: It cannot be read.
        """
        file = self.path / "declaration.json"
        if not SWEEP_ID.fullmatch(self.sweep) or not file.exists():
            known = sweeps(self.out)
            raise UsageError(
                f"no sweep '{self.sweep}' in {self.out}. {choices_text(self.sweep, known)}"
                if known
                else f"no sweep in {self.out} yet. Run: {Commands(self.out).line('sweep', 'FILE')}"
            )
        try:
            content = read_file(file)
            version = json.loads(content)["schema_version"]
            check_version(file, version, SCHEMA_VERSION)
            declaration = from_json(Declaration, content if version >= SCHEMA_VERSION else _upgraded(content))
            declaration.check()
            cells = [dataclasses.replace(cell, settings=_as_read(cell, declaration)) for cell in declaration.cells]
        except (OddFileError, ValueError, ArithmeticError, KeyError, TypeError, RecursionError) as error:
            raise DamagedError(f"cannot read {file}: {' '.join(str(error).split())[:500]}") from None
        return dataclasses.replace(declaration, cells=cells)

    def earlier_declaration(self) -> Declaration | None:
        """Return the declaration that a new one replaces; None where there is none or it is damaged."""
        try:
            return self.read_declaration() if self.has_declaration() else None
        except DamagedError:
            return None

    def set_aside_damaged(self) -> None:
        """Move a declaration that cannot be read to the ledger's folder `aside`, with a warning."""
        try:
            if self.has_declaration():
                self.read_declaration()
        except DamagedError as error:
            Ledger(self.out).set_aside(self.path / "declaration.json", str(error))

    @functools.cached_property
    def _proposals(self) -> Lines:
        return Lines(self.path / "proposals.jsonl")

    def write_running(self, running: Iterable[tuple[str, str]]) -> None:
        """Say which trials are under way, as (cell, key).

        It is not flushed to the disk, which would double the work of a trial's end: after a crash nobody reads it.
        """
        with contextlib.suppress(OSError):
            write_view(self.path / RUNNING, json.dumps(sorted(running)).encode())

    def read_running(self) -> set[tuple[str, str]]:
        """Return which trials are under way if a driver is at work, as (cell, key); empty where it cannot be read."""
        try:
            content = json.loads(read_file(self.path / RUNNING))
            return {(str(cell), str(key)) for cell, key in content}
        except (OSError, ValueError, TypeError, RecursionError):
            return set()

    def append_proposal(self, *proposals: Proposal) -> None:
        """Record proposals; they are on the disk when this returns."""
        self._proposals.append(*map(dataclasses.asdict, proposals))

    def read_proposals(self) -> list[Proposal]:
        """Return all proposals, in order; lines that a crash cut off are left out, and counted in `num_damaged`."""
        proposals = []
        num_others = 0
        for line in self._proposals.read():
            try:
                proposal = from_plain(Proposal, line)
            except ValueError:
                num_others += 1
                continue
            task = catalog.find(proposal.task.partition("@")[0])
            if task is not None:
                proposal = dataclasses.replace(proposal, settings=task.parameters.as_read(proposal.settings))
            proposals.append(proposal)
        self.num_damaged = self._proposals.num_damaged + num_others
        return proposals

    def tell_passed_over(self, num_misfits: int) -> None:
        """Warn of the lines that were no proposals when they were read last, and of so many with another's key."""
        parts = [f"{self.num_damaged} cut off or no proposal"] if self.num_damaged else []
        if num_misfits:
            parts.append(f"{num_misfits} with a key that the settings and the seed do not have")
        if num := self.num_damaged + num_misfits:
            lines = "line is" if num == 1 else "lines are"
            log.warning("%s: %d %s passed over: %s", self._proposals.path, num, lines, ", ".join(parts))


def _upgraded(content: bytes) -> bytes:
    """Return a declaration's JSON as it is written now, with what an earlier version did not write."""
    earlier = json.loads(content)
    earlier["num_tune"] = earlier.pop("trials_per_cell")
    if earlier["schema_version"] >= WITH_NOTICES:
        return json.dumps(earlier).encode()
    task, facts = catalog.get(catalog.DEFAULT), earlier["data"]
    task.check_facts(facts)
    earlier["report"] = {"metric": task.shown, **earlier["report"]}
    earlier.setdefault("metrics", [dataclasses.asdict(metric) for metric in task.measured(facts)])
    earlier.setdefault("objective", task.objective)
    earlier.setdefault("data_line", task.data_line(facts))
    earlier.setdefault("notices", task.notices(facts, [cell["settings"] for cell in earlier["cells"]]))
    return json.dumps(earlier).encode()


def _as_read(cell: DeclaredCell, declaration: Declaration) -> dict[str, Any]:
    task = declaration.known_task
    settings = cell.settings if task is None else task.parameters.as_read(cell.settings)
    return {name: value for name, value in settings.items() if name not in cell.tuned}


def _is_definition(part: dict[str, Any]) -> bool:
    """Whether it is what a cell's `space` holds for each definition."""
    if not isinstance(part.get("name"), str) or not isinstance(part.get("when"), dict):
        return False
    if part.get("kind") == "categorical":
        return isinstance(part.get("choices"), list)
    low, high = part.get("low"), part.get("high")
    if not isinstance(low, int | float) or not isinstance(high, int | float) or low >= high:
        return False
    return {"log", "step", "kind"} <= part.keys() and not (part["log"] and low <= 0)


def tie_notices(cells: list[CellTrials]) -> list[str]:
    """Return at most one sentence: where the best tune trials tie, so that their order decided."""
    places = []
    for trials in (study for cell in cells for study in cell.studies):
        tied = trials.tied() if trials.confirm else []
        if tied:
            record = next(record for proposal, record in trials.tune if proposal is tied[0])
            best = trials.objective.with_unit(trials.value(record)) if record else "–"
            places.append(f"{trials.name} ({len(tied)} of {len(trials.tune)} at {best})")
    if not places:
        return []
    shown = "; ".join(places[:10]) + (f"; and {len(places) - 10} more cells" if len(places) > 10 else "")
    return [
        f"the best tune trials tie in {cells[0].objective.label.lower()}, and the first of them was confirmed: {shown}"
    ]


def twin_notices(cells: list[CellTrials]) -> list[str]:
    """Return a sentence for each group of cells with the same numbers in every trial of equal seed and values.

    A single trial can have the same numbers by luck, where these are shares of few items.
    """
    numbers: dict[str, dict[str, str]] = {}
    groups: dict[str, list[str]] = {}
    for trials in cells:
        name = trials.cell.name or "the cell"
        for proposal, record in [*trials.confirm[:1], *trials.tune]:
            if record is None or record.state != "complete":
                continue
            tuned = {name: record.settings.get(name) for name in trials.cell.tuned}
            trial = json.dumps([proposal.phase, record.seed, tuned], sort_keys=True)
            found = json.dumps([record.metrics, record.weights_digest], sort_keys=True)
            numbers.setdefault(name, {})[trial] = found
            named = groups.setdefault(trial + found, [])
            if name not in named:
                named.append(name)
    twins: dict[str, None] = {}
    for names in groups.values():
        alike: list[list[str]] = []
        for name in names:
            fitting = next((each for each in alike if _agree(numbers[each[0]], numbers[name])), None)
            if fitting is None:
                alike.append([name])
            else:
                fitting.append(name)
        twins |= dict.fromkeys(" and ".join(each) for each in alike if len(each) > 1)
    return [
        f"the cells {names} gave the same numbers with the same seed and values: what differs may do nothing"
        for names in twins
    ]


def _agree(first: dict[str, str], second: dict[str, str]) -> bool:
    return all(second.get(trial, found) == found for trial, found in first.items())


def sweeps(out: Place) -> list[str]:
    """Return the ids of all sweeps in an output folder in order of their names, the one declared last at the end."""
    found = (file.parent.name for file in listed(out, "*/declaration.json"))
    names = sorted(name for name in found if SWEEP_ID.fullmatch(name))
    last = _latest(out / LATEST, names)
    return sorted(names, key=lambda name: name == last)


def _latest(file: Place, names: Container[str]) -> str:
    """Return which of the sweeps was declared last; "" where that is not known, with a warning if it should be."""
    try:
        last = read_file(file).decode().strip()
    except FileNotFoundError:
        return ""
    except (OddFileError, UnicodeDecodeError):
        last = ""
    if last in names:
        return last
    log.warning("%s names no sweep that is here: which was declared last is not known, until the next one is", file)
    return ""


def collect(
    declaration: Declaration, proposals: list[Proposal], ledger: Ledger, *, items: Collection[str] = ()
) -> list[CellTrials]:
    """Return the trials of every cell that the present declaration asks for, with their records.

    A confirm proposal counts only if it repeats the configuration of its study's present winner. Of the
    tune trials only the winner has its curves. `items` names the metrics whose test items the confirm trials' records
    have; no other record has any. A proposal that the ledger finds to be damaged is passed over, as if its
    line were not there: it is in the ledger's `misfits`.
    """
    while True:
        num_known = len(ledger.misfits)
        proposals = [proposal for proposal in proposals if proposal not in ledger.misfits]
        found = _collected(declaration, proposals, ledger, items)
        if len(ledger.misfits) == num_known:
            return found


def _collected(
    declaration: Declaration, proposals: list[Proposal], ledger: Ledger, items: Collection[str]
) -> list[CellTrials]:
    latest = {proposal.slot: proposal for proposal in proposals}
    found = [
        StudyTrials(
            cell=cell,
            number=study,
            objective=declaration.tuned_metric,
            tune=[
                (p, None)
                for number in range(declaration.num_tune)
                if (p := latest.get((cell.key, study, "tune", number)))
            ],
            confirm=[],
            extra=[],
        )
        for cell in declaration.cells
        for study in range(declaration.num_studies)
    ]
    # Curves take the most memory, and those of most tune trials are shown nowhere.
    tuned = _records(ledger, declaration, ((t, p) for t in found for p, _ in t.tune), with_curves=False)
    for trials in found:
        trials.tune[:] = [(p, tuned.get((p.key, trials.cell.key))) for p, _ in trials.tune]
        winner = trials.winner()
        if winner is not None and len(trials.tune) == declaration.num_tune:
            for number in range(declaration.num_seeds):
                proposal = latest.get((trials.cell.key, trials.number, "confirm", number))
                if proposal is not None and proposal.settings == winner.settings:
                    trials.confirm.append((proposal, None))
            trials.extra.extend(_extra(declaration, trials, latest, ledger))
    winners = [(t, winner) for t in found if (winner := t.winner()) is not None]
    asked = [*winners, *((t, p) for t in found for p, _ in t.confirm)]
    confirmed = _records(ledger, declaration, asked, items=items)
    for trials in found:
        trials.tune[:] = [(p, confirmed.get((p.key, trials.cell.key), record)) for p, record in trials.tune]
        trials.confirm[:] = [(p, confirmed.get((p.key, trials.cell.key))) for p, _ in trials.confirm]
    num = declaration.num_studies
    return [cell_trials(found[first : first + num]) for first in range(0, len(found), num)]


def _records(
    ledger: Ledger,
    declaration: Declaration,
    asked: Iterable[tuple[StudyTrials, Proposal]],
    *,
    with_curves: bool = True,
    items: Collection[str] = (),
) -> dict[tuple[str, str], TrialRecord]:
    trials = {(proposal.key, of.cell.key): proposal for of, proposal in asked}
    return ledger.read_all(trials, declaration.sweep, trials=trials, with_curves=with_curves, items=items)


def _extra(declaration: Declaration, trials: StudyTrials, latest: Mapping[Slot, Proposal], ledger: Ledger) -> Trials:
    second = trials.runner_up()
    asked = {("audit", p.number): p.settings for p in trials.stopped()} if declaration.audit else {}
    if declaration.runner_up and second is not None:
        asked |= {("runner_up", number): second.settings for number in range(declaration.num_seeds)}
    proposals = [latest.get((trials.cell.key, trials.number, phase, number)) for phase, number in asked]
    return [
        (p, ledger.read(p.key, "", trial=p))
        for p in proposals
        if p is not None and p.settings == asked[p.phase, p.number]
    ]  # fmt: skip
