"""One experiment in MLflow: its runs, found by what they stand for, and writes that may be repeated."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ablate.places import Place
from ablate.store.declaration import Declaration
from ablate.tracking.content import IDENTITY_TAGS, Identity, Point
from ablate.tracking.store import open_client, open_experiment

# The most that MLflow takes in one call: parameters, and everything together.
MAX_PARAMS = 100
MAX_BATCH = 1000
PAGE = 1000


@dataclass
class KnownRun:
    """A run that MLflow holds, as far as it matters for writing it again."""

    run_id: str
    status: str = "RUNNING"
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    updated_at: int = 0
    """Time of its latest metric, ms since 1970."""


class Experiment:
    """The runs of one sweep's experiment; deleted runs are none. Not for several threads.

    Every method raises whatever mlflow raises when the store does not answer or refuses.
    """

    def __init__(self, uri: str, out: Place, declaration: Declaration) -> None:
        self._client = open_client(uri)
        self._id = open_experiment(self._client, uri, out, declaration)
        self.runs: dict[Identity, KnownRun] = dict(self._read_runs())

    @property
    def experiment_id(self) -> str:
        """The experiment's id in MLflow."""
        return self._id

    def create(self, identity: Identity, name: str, tags: dict[str, str], start: int | None) -> KnownRun:
        """Return a new run, found again by its identity; `start` in ms since 1970, None for now."""
        tags = {**tags, **{tag: value for tag, value in zip(IDENTITY_TAGS, identity, strict=True) if value}}
        made = self._client.create_run(self._id, start_time=start, tags=tags, run_name=name)
        self.runs[identity] = KnownRun(made.info.run_id, tags=tags)
        return self.runs[identity]

    def delete(self, identity: Identity) -> None:
        """Delete a run, as the UI does it: it can be restored there."""
        self._client.delete_run(self.runs[identity].run_id)
        del self.runs[identity]

    def reopen(self, run: KnownRun) -> None:
        """Let an ended run count as running."""
        if run.status != "RUNNING":
            self._client.update_run(run.run_id, status="RUNNING")
            run.status = "RUNNING"

    def end(self, run: KnownRun, status: str, end: int | None = None) -> None:
        """End a run as FINISHED, KILLED or FAILED; `end` in ms since 1970, None for now."""
        if run.status != status:
            self._client.set_terminated(run.run_id, status, end_time=end)
            run.status = status

    def write(
        self,
        run: KnownRun,
        *,
        params: dict[str, str] | None = None,
        points: Sequence[Point] = (),
        tags: dict[str, str] | None = None,
    ) -> None:
        """Write parameters that the run lacks, points of metrics, and tags that differ; in one call if they fit.

        The tags are written last. A run's parameter can never take another value. A point that MLflow holds already is
        not held twice.
        """
        from mlflow.entities import Metric, Param, RunTag

        rows = {
            "params": [Param(name, value) for name, value in (params or {}).items() if name not in run.params],
            "metrics": [Metric(*point) for point in points],
            "tags": [RunTag(name, value) for name, value in (tags or {}).items() if run.tags.get(name) != value],
        }
        if len(rows["params"]) > MAX_PARAMS or sum(map(len, rows.values())) > MAX_BATCH:
            # mlflow cuts what is too much for one call, and would write the tags with the first part.
            self._client.log_batch(run.run_id, params=rows.pop("params"), metrics=rows.pop("metrics"))
        if any(rows.values()):
            self._client.log_batch(run.run_id, **rows)
        run.tags.update(tags or {})
        run.params.update(params or {})

    def update(self, run: KnownRun, metrics: dict[str, float], tags: dict[str, str]) -> None:
        """Make these the run's latest metrics, and write the tags.

        A metric cannot be deleted: one that holds no longer, such as that of an earlier winner, becomes NaN.
        """
        gone = {name: float("nan") for name, value in run.metrics.items() if name not in metrics and value == value}
        changed = {name: value for name, value in metrics.items() if run.metrics.get(name) != value} | gone
        # MLflow takes the point of the latest time for the present one, also after the clock was set back.
        run.updated_at = max(int(time.time() * 1000), run.updated_at + 1)
        self.write(run, points=[(name, value, run.updated_at, 0) for name, value in changed.items()], tags=tags)
        run.metrics.update(changed)

    def store_text(self, run: KnownRun, text: str, name: str) -> None:
        """Store a text as an artifact."""
        self._client.log_text(run.run_id, text, name)

    def upload(self, run: KnownRun, folder: Path, name: str) -> None:
        """Store a folder's files as artifacts below a name."""
        self._client.log_artifacts(run.run_id, str(folder), name)

    def _read_runs(self) -> Iterator[tuple[Identity, KnownRun]]:
        token = None
        while True:
            page = self._client.search_runs([self._id], max_results=PAGE, page_token=token)
            for run in page:
                tags = dict(run.data.tags)
                kind, cell, trial, phase, number = (tags.get(name, "") for name in IDENTITY_TAGS)
                if kind:
                    data, info = run.data, run.info
                    # Of the points themselves the client makes no public attribute.
                    updated_at = max((point.timestamp for point in data._metric_objs), default=0)
                    known = KnownRun(info.run_id, info.status, tags, dict(data.params), dict(data.metrics), updated_at)
                    yield (kind, cell, trial, phase, number), known
            token = page.token
            if not token:
                return
