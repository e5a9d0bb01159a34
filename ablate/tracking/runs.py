"""The runs of one sweep in MLflow: a summary, the cells, and the trials below their cells."""

from __future__ import annotations

import json
from pathlib import Path

from ablate.places import Place
from ablate.storage import write_atomically
from ablate.store.declaration import MLFLOW_RUNS, CellTrials, Declaration, DeclaredCell, Proposal, SweepFolder
from ablate.store.record import TrialRecord
from ablate.tracking import content
from ablate.tracking.client import Experiment, KnownRun

DONE = "ablate.mirrored"


class SweepRuns:
    """Writes the runs of a sweep; what MLflow holds already is not written twice. Not for several threads.

    Every method raises whatever mlflow raises when the store does not answer or refuses.
    """

    def __init__(self, uri: str, out: Place, declaration: Declaration, resolved: str) -> None:
        self._declaration = declaration
        self._ids = SweepFolder(out, declaration.sweep).path / MLFLOW_RUNS
        self._experiment = Experiment(uri, out, declaration)
        self._summary = self._open_summary(resolved)

    def trial(self, cell: DeclaredCell, proposal: Proposal, record: TrialRecord) -> None:
        """Write a finished trial below its cell, unless it is there in whole."""
        experiment = self._experiment
        identity = content.trial_identity(cell, proposal)
        version, params = content.version(record), content.trial_params(cell, record)
        name = content.trial_name(cell, proposal)
        run = experiment.runs.get(identity)
        if run is not None and run.tags.get(DONE, version) != version:
            # A failed trial ran again; a run would keep the old points beside the new ones.
            experiment.delete(identity)
            run = None
        if run is not None and DONE in run.tags and run.status != "RUNNING":
            self._add_axes(run, name, cell, params)
            return
        start = content.milliseconds(record.started_at)
        parent = self._cell(cell, start)
        if run is None:
            tags = content.trial_tags(cell, record) | {"mlflow.parentRunId": parent.run_id}
            run = experiment.create(identity, name, tags, start)
        # Three calls a trial, because each costs about 10 ms. A run that has no such tag or has not ended was cut off
        # and is written again.
        experiment.write(run, params=params, points=content.trial_points(record), tags={DONE: version})
        experiment.end(run, content.STATUS[record.state], content.milliseconds(record.finished_at))

    def cells(self, cells: list[CellTrials]) -> None:
        """Bring every cell's numbers and winner up to date, and end the cells whose trials are all there."""
        num_trials = self._declaration.num_trials // len(self._declaration.cells)
        for trials in cells:
            records = [record for _, record in [*trials.tune, *trials.confirm] if record is not None]
            if not records:
                continue
            starts = [moment for record in records if (moment := content.milliseconds(record.started_at))]
            run = self._cell(trials.cell, min(starts, default=None))
            note = {"mlflow.note.content": content.cell_note(trials, self._declaration)}
            metrics = content.cell_metrics(trials, self._declaration)
            self._experiment.update(run, metrics, content.winner_tags(trials) | note)
            if len(records) == num_trials:
                ends = [moment for record in records if (moment := content.milliseconds(record.finished_at))]
                self._experiment.end(run, "FINISHED", max(ends, default=None))

    def upload_report(self, folder: Path) -> None:
        """Upload a report's files to the summary run, below "report"."""
        self._experiment.upload(self._summary, folder, "report")

    def end(self) -> None:
        """End the summary; like every cell that is not complete it counts as KILLED until the sweep goes on."""
        self._write_ids()
        declared = [self._experiment.runs.get(content.cell_identity(cell)) for cell in self._declaration.cells]
        is_complete = all(run is not None and run.status == "FINISHED" for run in declared)
        for identity, run in self._experiment.runs.items():
            if identity[0] == "cell" and run.status == "RUNNING":
                self._experiment.end(run, "KILLED")
        self._experiment.end(self._summary, "FINISHED" if is_complete else "KILLED")

    def _write_ids(self) -> None:
        """Leave the ids of the cells' runs where the report, which knows no MLflow, finds them."""
        cells = {identity[1]: run.run_id for identity, run in self._experiment.runs.items() if identity[0] == "cell"}
        content = {"experiment": self._experiment.experiment_id, "cells": cells}
        write_atomically(self._ids, json.dumps(content, indent=1, sort_keys=True).encode())

    def _open_summary(self, resolved: str) -> KnownRun:
        experiment, asked = self._experiment, self._declaration
        run = experiment.runs.get(content.SUMMARY)
        if run is None:
            run = experiment.create(content.SUMMARY, "summary", {}, None)
        experiment.reopen(run)
        experiment.store_text(run, resolved, "resolved.yaml")
        experiment.write(run, tags=content.summary_tags(asked))
        declared = {cell.key for cell in asked.cells}
        for identity, cell in experiment.runs.items():
            if identity[0] == "cell":
                experiment.write(cell, tags={"ablate.declared": "yes" if identity[1] in declared else "no"})
        return run

    def _cell(self, cell: DeclaredCell, start: int | None) -> KnownRun:
        identity, name, params = content.cell_identity(cell), content.cell_name(cell), content.cell_params(cell)
        run = self._experiment.runs.get(identity)
        if run is None:
            tags = {**content.level_tags(cell), "ablate.declared": "yes"}
            run = self._experiment.create(identity, name, tags, start)
        if DONE not in run.tags:
            self._experiment.write(run, params=params, tags={DONE: "yes"})
            self._write_ids()
        self._add_axes(run, name, cell, params)
        if run.status == "KILLED":
            self._experiment.reopen(run)
        return run

    def _add_axes(self, run: KnownRun, name: str, cell: DeclaredCell, params: dict[str, str]) -> None:
        """Bring an old run of a sweep that got a new axis up to date; it writes nothing where all is known."""
        levels = content.level_tags(cell)
        if levels.items() - run.tags.items():
            self._experiment.write(run, params=params, tags={**levels, "mlflow.runName": name})
