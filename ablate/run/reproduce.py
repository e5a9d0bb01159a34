"""Runs a recorded trial again and says whether the numbers agree."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from ablate.errors import AblateError, UsageError
from ablate.metrics import Metric
from ablate.places import Place, local_view
from ablate.provenance import code_version, library_versions
from ablate.run.checkpoints import Checkpoints
from ablate.run.pack import Pack, Request
from ablate.store.declaration import SweepFolder, sweeps
from ablate.store.ledger import NUMBERS, Ledger, layers_table, same_layers
from ablate.store.record import TrialRecord
from ablate.sweepfile.spec import load_spec
from ablate.tasks import catalog
from ablate.tasks.base import Task
from ablate.tasks.parameters import trial_key
from ablate.tasks.registry import load_imports

TOLERANCE = 0.05
"""A metric may differ by this share of its range where hardware or libraries differ: rounding then takes training
another way, which may move it about as much as another seed. A convention, not measured: `--tolerance` sets it."""
SAME = ("torch", "device", "system")
"""With these equal the numbers must be equal bit for bit."""


@dataclass(frozen=True)
class Reproduction:
    """Two records of one trial. `differing` names what they were computed with, where that differs.

    `metrics` are those whose last numbers are compared where bits cannot be: what has a range, and what tuning and the
    table go by. `same_layers`: whether the tables of layers are equal; None where the trial has none.
    """

    recorded: TrialRecord
    repeated: TrialRecord
    differing: list[str]
    tolerance: float
    same_layers: bool | None = None
    metrics: Mapping[str, Metric] = field(default_factory=dict)

    @property
    def is_exact(self) -> bool:
        """Whether state, weights, curves, metrics, test items and the table of layers are equal bit for bit."""
        # An earlier version recorded fewer metrics, and no items.
        metrics = {name: value for name, value in self.repeated.metrics.items() if name in self.recorded.metrics}
        both = self.recorded.items.keys() & self.repeated.items.keys()
        first, second = (
            dataclasses.replace(record, items={name: record.items[name] for name in both})
            for record in (self.recorded, dataclasses.replace(self.repeated, metrics=metrics))
        )
        return self.same_layers is not False and _numbers(first) == _numbers(second)

    @property
    def agrees(self) -> bool:
        """Whether they are equal; on other hardware or libraries, whether the metrics are within the tolerance."""
        if self.is_exact or not self.differing:
            return self.is_exact
        return self.recorded.state == self.repeated.state and all(
            abs(first - second) <= self.tolerance * self.metrics[name].whole(first)
            for name, first, second in self.pairs()
        )

    def pairs(self) -> list[tuple[str, float, float]]:
        """Return (name, recorded, repeated) of the metrics that are compared, after the last epoch."""
        sides = []
        for record in (self.recorded, self.repeated):
            last = {name: curve[-1] for name, curve in record.curves.items() if curve}
            sides.append({name: value for name, value in {**last, **record.metrics}.items() if name in self.metrics})
        return [(name, sides[0][name], sides[1][name]) for name in sorted(sides[0].keys() & sides[1].keys())]

    def lines(self) -> list[str]:
        """Return both numbers and the verdict, for people."""
        lines = [f"state: recorded {self.recorded.state}, repeated {self.repeated.state}"]
        if self.repeated.state == "failed":
            lines.append(f"it failed ({self.repeated.reason}): {self.repeated.message.strip().splitlines()[-1]}")
        lines += [f"{name}: recorded {first!r}, repeated {second!r}" for name, first, second in self.pairs()]
        if self.recorded.weights_digest or self.repeated.weights_digest:
            digests = [record.weights_digest or "none" for record in (self.recorded, self.repeated)]
            lines.append(f"weights: recorded {digests[0]}, repeated {digests[1]}")
        for name in sorted(self.recorded.items.keys() & self.repeated.items.keys()):
            first, second = self.recorded.items[name], self.repeated.items[name]
            num_other = sum(one != other for one, other in zip(first, second, strict=False))
            others = f"{num_other:,} of {len(first):,} not equal" if first != second else "equal"
            lines.append(f"test items of {name}: {others}")
        if self.same_layers is not None:
            lines.append(f"tables of layers: {'equal' if self.same_layers else 'not equal'}")
        if self.differing:
            lines.append(f"computed with other: {'; '.join(self.differing)}")
        if self.is_exact:
            return [*lines, "the numbers agree bit for bit"]
        verdict = "agree" if self.agrees else "do not agree"
        rule = f"within {self.tolerance:g} of a metric's range, as hardware or libraries differ" if self.differing \
            else "bit for bit, as hardware and libraries are the same"  # fmt: skip
        return [*lines, f"the numbers {verdict}; asked for: {rule}"]


def _numbers(record: TrialRecord) -> str:
    """Return what must be equal as text that is the same for the same bits: a NaN, too, is equal to itself."""
    return json.dumps([getattr(record, name) for name in NUMBERS], sort_keys=True)


def find_trial(ledger: Ledger, name: str) -> TrialRecord:
    """Return the record of a trial, by its key or a prefix of it.

    Raises:
        UsageError: There is no such trial, or several.
    """
    records = ledger.find(name) if re.fullmatch(r"[0-9a-f]{2,16}(-[0-9a-f]{0,14})?", name) else []
    keys = list(dict.fromkeys(record.key for record in records))
    if not keys:
        short = "; a beginning has two digits at least" if len(name) < 2 else ""
        raise UsageError(
            f"no trial '{name}' in {ledger.root}{short}. The report's results.parquet and `status --json` have the keys"
        )
    if len(keys) > 1:
        raise UsageError(f"'{name}' begins {len(keys)} trials; give more of the key: {', '.join(keys[:5])}")
    usable = [record for record in records if record.state != "failed"]
    if not usable:
        raise UsageError(f"the trial {keys[0]} failed ({records[0].reason}): there are no numbers to compare")
    return usable[0]


def reproduce(
    out: Place,
    name: str,
    imports: Sequence[Path],
    device: str,
    tolerance: float,
    weights: Path | None,
    echo: Callable[[str], None],
) -> Reproduction:
    """Run a recorded trial again in this process, without Ray and from its start; echo a line an epoch.

    A trial that was stopped is stopped after the same epoch. `imports` are the files whose rows it uses. The weights go
    below `weights`, if given.

    Raises:
        UsageError: There is no such trial, its rows or its data are not what they were, or weights are asked for that
            it does not have.
    """
    ledger = Ledger(out, is_read_only=True)
    record = find_trial(ledger, name)
    if weights and (record.phase, record.state) != ("confirm", "complete"):
        raise UsageError(
            f"--weights is for complete confirm trials, but {record.key} is a {record.state} {record.phase} trial"
        )
    load_imports(imports)
    name = record.task.partition("@")[0]
    try:
        task = _described(out, record) if name in catalog.DESCRIBED else catalog.get(name)
        settings = task.parameters.resolve(record.settings)
    except UsageError as error:
        hint = "" if name in catalog.DESCRIBED else ". Rows and tasks of your own need --import FILE"
        raise UsageError(f"the trial {record.key} cannot be repeated with this version: {error}{hint}") from None
    stamps = {"task": task.stamp, **task.parameters.stamps(settings)}
    recorded = {"task": record.task, **record.rows}
    changed = [f"{kind} {recorded[kind]} is now {stamp}" for kind, stamp in stamps.items()
               if recorded.get(kind, "") not in ("", stamp)]  # fmt: skip
    if changed:
        raise UsageError(f"the trial {record.key} cannot be repeated with this version: {'; '.join(changed)}")
    data = task.prepare(settings, local_view(out) / "data")
    if data.digest != record.data_digest:
        raise UsageError(f"the data is not that of the trial {record.key}: its digest differs")
    if trial_key(task.fingerprint(settings, data.digest), record.seed) != record.key:
        raise AblateError(f"the record of the trial {record.key} is damaged: its settings or its seed are another's")
    fields = {field.name for field in dataclasses.fields(Request)}
    request = Request(**{key: value for key, value in dataclasses.asdict(record).items() if key in fields})
    num_epochs, objective = task.num_epochs(settings), task.metric(task.objective)

    def report(epoch: int, values: list[float | None]) -> set[int]:
        of = f"/{num_epochs}" if num_epochs else ""
        echo(f"epoch {epoch}{of}: {objective.label.lower()} {values[0] or 0:.4f}")
        return {0} if record.state == "pruned" and epoch >= record.num_epochs else set()

    kept = Checkpoints(weights) if weights else None
    provenance = {**code_version(), **library_versions()}
    (repeated,) = Pack(task, [request], device, data.path, None, provenance, kept).run(report)
    now = {**library_versions(), "device": task.device_name(device)}
    differing = [f"{key} {record.provenance.get(key, 'unknown')}, here {now[key]}" for key in SAME
                 if record.provenance.get(key) != now.get(key)]  # fmt: skip
    compared = {metric.name: metric for metric in task.metrics
                if None not in (metric.low, metric.high) or metric.name in (task.objective, task.shown)}  # fmt: skip
    layers = _same_layers(ledger.read_layers(record), repeated)
    return Reproduction(record, repeated, differing, tolerance, layers, compared)


def _described(out: Place, record: TrialRecord) -> Task:
    """Return the user's own training that a trial ran, from the sweep files of the output folder.

    Raises:
        UsageError: None of them describes it as it was then.
    """
    seen = []
    for sweep in sweeps(out):
        try:
            declaration = SweepFolder(out, sweep).read_declaration()
            if declaration.task != record.task.partition("@")[0]:
                continue
            task = load_spec(Path(declaration.path), declaration.profile or None, declaration.overrides).task
        except UsageError as error:
            seen.append(f"the sweep {sweep}: {error}")
            continue
        if task.stamp == record.task:
            return task
        seen.append(f"the code of the sweep {sweep} has changed since: {record.task} is now {task.stamp}")
    raise UsageError("; ".join(seen) or "no sweep of this folder has its code")


def _same_layers(recorded: pa.Table | None, repeated: TrialRecord) -> bool | None:
    if recorded is None:
        return None
    return same_layers(recorded, layers_table(repeated.layers))
