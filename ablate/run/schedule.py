"""Decides what a sweep runs next: tune trials cell by cell, then the confirm trials of each cell's winner.

Nothing here knows Ray. The launcher asks `next_pack`, passes on what packs report, and hands back their records.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ablate.errors import SweepStoppedError, UsageError
from ablate.run.checkpoints import Checkpoints
from ablate.run.pack import Request
from ablate.search.cell_search import CellSearch
from ablate.seeds import derive_seed
from ablate.storage import listed
from ablate.store.declaration import (
    EXTRA_PHASES,
    CellTrials,
    Declaration,
    DeclaredCell,
    Proposal,
    Slot,
    StudyTrials,
    SweepFolder,
    cell_trials,
)
from ablate.store.ledger import Ledger
from ablate.store.record import TrialRecord
from ablate.sweepfile.cells import Cell
from ablate.tasks.base import Task
from ablate.tasks.parameters import trial_key

# Told of every record that comes after the schedule was made: cell, proposal, record, and whether the trial ran here
# (another sweep can have written the record since).
Listener = Callable[[DeclaredCell, Proposal, TrialRecord, bool], None]


ALIKE = 3
"""So many cells whose first trials fail alike, and nothing else so far, stop a sweep; all where it has fewer."""


@dataclass(frozen=True)
class PackAssignment:
    """Trials of one cell that one worker trains together."""

    study: int
    requests: list[Request]
    proposals: list[Proposal]


@dataclass
class StudyRun:
    """One study of a cell on its way: what was proposed and what has ended; `num_tuned` tune trials among it."""

    cell: Cell
    declared: DeclaredCell
    data_digest: str
    search: CellSearch
    study: int = 0
    tune: dict[int, Proposal] = field(default_factory=dict)
    confirm: dict[int, Proposal] = field(default_factory=dict)
    records: dict[str, TrialRecord] = field(default_factory=dict)
    extra: dict[tuple[str, int], Proposal] = field(default_factory=dict)
    extra_records: dict[tuple[str, int], TrialRecord] = field(default_factory=dict)
    waiting: list[Proposal] = field(default_factory=list)
    running: dict[str, Proposal] = field(default_factory=dict)
    unstoppable: set[str] = field(default_factory=set)
    num_tuned: int = 0

    @property
    def seed(self) -> int:
        """What all random streams of the study derive from."""
        return self.search.seed

    @functools.cached_property
    def work(self) -> float:
        """How much work one of its trials is."""
        return self.cell.task.work(self.declared.settings)

    def slot(self, phase: str, number: int) -> Slot:
        """Return what identifies a proposal of the study."""
        return (self.cell.key, self.study, phase, number)

    def keep(self, proposal: Proposal, record: TrialRecord) -> None:
        """Note how a trial ended."""
        if proposal.phase in EXTRA_PHASES:
            self.extra_records[proposal.phase, proposal.number] = record
            return
        self.num_tuned += proposal.phase == "tune" and proposal.key not in self.records
        self.records[proposal.key] = record

    def trials(self) -> StudyTrials:
        """Return the study's trials as the report sees them."""
        tune = [(p, self.records.get(p.key)) for _, p in sorted(self.tune.items())]
        confirm = [(p, self.records.get(p.key)) for _, p in sorted(self.confirm.items())]
        extra = [(p, self.extra_records.get(where)) for where, p in sorted(self.extra.items())]
        return StudyTrials(
            cell=self.declared,
            number=self.study,
            objective=self.search.objective,
            tune=tune,
            confirm=confirm,
            extra=extra,
        )


class Schedule:
    """The state of a sweep. It is made from the ledger and the proposals, so a sweep that was cut off goes on."""

    def __init__(
        self,
        declaration: Declaration,
        studies: Sequence[StudyRun],
        folder: SweepFolder,
        ledger: Ledger,
        batch: int,
    ) -> None:
        self.declaration = declaration
        self.studies = list(studies)
        self.folder = folder
        self.ledger = ledger
        self.checkpoints = Checkpoints(folder.out / "checkpoints")
        self.batch = batch
        self.listener: Listener = lambda *_: None
        self._of_cell: dict[str, list[StudyRun]] = {}
        for run in self.studies:
            self._of_cell.setdefault(run.cell.key, []).append(run)
        self._errors: dict[str, str] = {}  # Of the first trial of each cell, by its key.
        self._has_ended = False  # Any trial, and not as failed.
        self._completed: set[str] = set()
        self._num_finished = 0
        self._num_done = 0
        self._running: set[tuple[str, str]] = set()
        self.work_left = math.fsum(self._work_left(run) for run in self.studies)
        """Of all trials without a record, as `Task.work` measures it."""
        # Studies that may have something to run; one that had nothing has it only after a trial of its own has ended.
        self._idle = set(range(len(self.studies)))
        self.folder.write_running(())
        proposals = folder.read_proposals()
        keys = {run.cell.key for run in self.studies}
        self.num_of_other_code = sum(p.cell in keys and p.task != self.task.stamp for p in proposals)
        self.restored = self._restore(proposals)

    def _restore(self, proposals: list[Proposal]) -> int:
        """Take over what earlier runs proposed and finished; return the number of finished trials."""
        runs = {(run.cell.key, run.study): run for run in self.studies}
        proposals = [p for p in proposals if (p.cell, p.study) in runs]
        last = {p.slot: p for p in proposals}
        latest = {p.slot: p for p in proposals if _is_whole(runs[p.cell, p.study], p)}
        # One that was made again counts no more; where a cell has no whole one, its data changed since.
        cells = {p.cell for p in latest.values()}
        self.folder.tell_passed_over(sum(p.cell in cells and latest.get(at) is not p for at, p in last.items()))
        for run in self.studies:
            while run.slot("tune", len(run.tune)) in latest and self._ask_batch(run, latest):
                pass
            if self._is_tuned(run):
                self._propose_confirm(run, latest)
        # Of trials whose record was written just before a crash.
        ended = {key for run in self.studies for key in run.records}
        for file in listed(self.checkpoints.folder, "*.pt"):
            if file.stem in ended:
                self.checkpoints.remove(file.stem)
        return sum(len(run.records) for run in self.studies)

    def _take_over(self, run: StudyRun, proposal: Proposal) -> None:
        """Use the ledger's record of a proposal, or let it wait for a worker."""
        if not self._find(run, proposal):
            run.waiting.append(proposal)

    def _find(self, run: StudyRun, proposal: Proposal) -> bool:
        """Return whether the ledger has a record of a proposal, which is used then; a failed trial is tried again."""
        is_extra = proposal.phase in EXTRA_PHASES
        record = self.ledger.read(proposal.key, "" if is_extra else self.declaration.sweep, run.cell.key, proposal)
        if record is None or record.state == "failed":
            return False
        self._keep(run, proposal, record, is_new=False)
        return True

    def _keep(self, run: StudyRun, proposal: Proposal, record: TrialRecord, *, is_new: bool) -> None:
        before = len(run.records)
        run.keep(proposal, _shortened(proposal, record) if is_new else record)
        self._num_finished += len(run.records) - before
        self.work_left -= (len(run.records) - before) * run.work
        if proposal.phase == "tune":
            run.search.tell(proposal.number, record)
        self.listener(run.declared, proposal, record, is_new)
        self._check_trial(run, record)

    def _check_trial(self, run: StudyRun, record: TrialRecord) -> None:
        """Stop a sweep whose trials are not what was asked for, or all fail alike."""
        key = run.cell.key
        if record.state != "failed":
            self._has_ended = True
            if record.state == "complete" and key not in self._completed:
                self._completed.add(key)
                if wrong := self.task.wrong_trial(record.unread):
                    raise SweepStoppedError(f"the sweep stopped: in {_cell_name(run)}, {wrong}")
        elif record.reason == "error" and not self._has_ended:
            self._errors.setdefault(key, _alike(record.message))
            self._check_errors(record)

    def _check_errors(self, record: TrialRecord) -> None:
        num_alike = sum(error == _alike(record.message) for error in self._errors.values())
        if num_alike == min(len(self.declaration.cells), ALIKE):
            first_trials = f"the first trials of {num_alike} cells" if num_alike > 1 else "its first trial"
            raise SweepStoppedError(f"the sweep stopped: {first_trials} failed alike\n{record.message.rstrip()}")

    def cells(self) -> list[CellTrials]:
        """Return the trials of every cell as the report sees them."""
        return [self.cell(cell.key) for cell in self.declaration.cells]

    def cell(self, key: str) -> CellTrials:
        """Return the trials of one cell as the report sees them."""
        return cell_trials([run.trials() for run in self._of_cell[key]])

    @property
    def task(self) -> Task:
        """What the trials do."""
        return self.studies[0].cell.task

    def is_finished(self) -> bool:
        """Whether every trial that the sweep asks for has ended, in whatever state."""
        # A study that is done stays done: the first that is not is looked at again.
        while self._num_done < len(self.studies) and self._is_done(self.studies[self._num_done]):
            self._num_done += 1
        return self._num_done == len(self.studies)

    def _is_done(self, run: StudyRun) -> bool:
        return self._is_tuned(run) and not run.waiting and not run.running

    def num_finished(self) -> int:
        """How many trials have ended, those of earlier runs included."""
        return self._num_finished

    def next_pack(self) -> PackAssignment | None:
        """Return what to run next, or None while every study waits for its running trials.

        The study with the most work left goes first, so that the longest chains of trials do not end last.
        """
        for index in sorted(self._idle, key=lambda index: (-self._work_left(self.studies[index]), index)):
            run = self.studies[index]
            proposal = self._next_proposal(run)
            if proposal is None:
                self._idle.discard(index)
            if proposal is not None:
                if proposal.phase == "tune":
                    self._keep_decision(run, proposal)
                run.running[proposal.key] = proposal
                self._running.add((run.cell.key, proposal.key))
                self._tell_running()
                return PackAssignment(index, [_request(run, proposal)], [proposal])
        return None

    def _next_proposal(self, run: StudyRun) -> Proposal | None:
        """Return the study's next proposal that has no record; another sweep can have run one since it was proposed."""
        while run.waiting or self._propose(run):
            if run.waiting and self._is_too_early(run, run.waiting[0]):
                return None
            if run.waiting and not self._find(run, proposal := run.waiting.pop(0)):
                return proposal
        return None

    def _is_too_early(self, run: StudyRun, proposal: Proposal) -> bool:
        """Whether trials of an earlier batch are under way: only a batch whose records were lost can wait then."""
        batch = proposal.number // self.batch
        return proposal.phase == "tune" and any(
            other.phase == "tune" and other.number // self.batch < batch for other in run.running.values()
        )

    def _keep_decision(self, run: StudyRun, proposal: Proposal) -> None:
        """Have a trial whose record was lost end as it did: the trials that came after it must not decide on it."""
        if self.ledger.ran_to_its_end(proposal.key):
            run.unstoppable.add(proposal.key)
        elif (len(run.tune) - 1) // self.batch > proposal.number // self.batch:
            run.search.judge_as_before(proposal.number)

    def on_values(self, pack: PackAssignment, epoch: int, values: Sequence[float | None]) -> list[int]:
        """Take the members' objectives after an epoch; return the members to stop."""
        run = self.studies[pack.study]
        return [
            member
            for member, (proposal, value) in enumerate(zip(pack.proposals, values, strict=True))
            if value is not None
            and proposal.phase == "tune"
            and run.search.report(proposal.number, epoch, value)
            and proposal.key not in run.unstoppable
            and epoch < run.cell.task.num_epochs(proposal.settings)
        ]

    def on_finished(self, pack: PackAssignment, records: Sequence[TrialRecord]) -> None:
        """Write the records of a pack to the ledger and learn from them."""
        run = self.studies[pack.study]
        for proposal, record in zip(pack.proposals, records, strict=True):
            record = dataclasses.replace(record, study=run.study)
            if not record.is_shared:
                record = dataclasses.replace(record, sweep=self.declaration.sweep, cell=run.cell.key)
            if record.is_shared or proposal.phase != "audit":
                # An audit that failed must not replace the record of the trial as it was stopped.
                self.ledger.write(record)
            self.checkpoints.remove(record.key)
            run.running.pop(proposal.key, None)
            self._running.discard((run.cell.key, proposal.key))
            # The ledger has the layers and the items.
            self._keep(run, proposal, dataclasses.replace(record, layers={}, items={}), is_new=True)
        self._idle.add(pack.study)
        self._tell_running()
        if self._is_tuned(run) and not run.confirm:
            self._propose_confirm(run, {})

    def _tell_running(self) -> None:
        self.folder.write_running(self._running)

    def _is_tuned(self, run: StudyRun) -> bool:
        return run.num_tuned == self.declaration.num_tune

    def _propose(self, run: StudyRun) -> bool:
        """Propose the next batch, or the confirm trials, when what was proposed has ended; return whether it did."""
        had_confirm = bool(run.confirm)
        if run.num_tuned < len(run.tune):
            return False
        was_asked = self._ask_batch(run, {})
        if self._is_tuned(run) and not run.confirm:
            self._propose_confirm(run, {})
        return was_asked or bool(run.confirm) > had_confirm

    def _ask_batch(self, run: StudyRun, latest: dict[Slot, Proposal]) -> bool:
        """Ask for the next batch, as far as `latest` does not have it; return whether the budget left any.

        The whole batch is asked before the ledger is, so that what is proposed does not depend on what lies there.
        """
        first = len(run.tune)
        numbers = range(first, min(first + self.batch, self.declaration.num_tune))
        for number in numbers:
            known = latest.get(run.slot("tune", number))
            if known is not None:
                run.search.ask(number, known=known.params)
                run.tune[number] = known
                continue
            tuned, params = run.search.ask(number)
            seed = derive_seed(run.seed, "tune", number)
            run.tune[number] = self._record(run, "tune", number, seed, run.cell.config(tuned), params)
        for number in numbers:
            self._take_over(run, run.tune[number])
        return len(numbers) > 0

    def _propose_confirm(self, run: StudyRun, latest: dict[Slot, Proposal]) -> None:
        winner = run.trials().winner()
        if winner is None:
            return
        for number in range(self.declaration.num_seeds):
            proposal = latest.get(run.slot("confirm", number))
            if proposal is None or proposal.settings != winner.settings:
                seed = derive_seed(run.seed, "confirm", number)
                proposal = self._record(run, "confirm", number, seed, winner.settings, {})
            run.confirm[number] = proposal
            self._take_over(run, proposal)
        self._propose_extra(run, latest)

    def _propose_extra(self, run: StudyRun, latest: dict[Slot, Proposal]) -> None:
        """Propose what goes beside the table, after the confirm trials: the runner-up's, and stopped trials."""
        trials, seed = run.trials(), run.seed
        second = trials.runner_up() if self.declaration.runner_up else None
        asked: list[tuple[str, int, int, Proposal]] = []
        if second is not None:
            asked += [
                ("runner_up", number, derive_seed(seed, "confirm", number), second)
                for number in range(self.declaration.num_seeds)
            ]
        chosen = sorted(trials.stopped(), key=lambda p: derive_seed(seed, "audit", run.cell.key, p.number))
        asked += [("audit", p.number, p.seed, p) for p in chosen[: self.declaration.audit]]
        for phase, number, trial_seed, source in asked:
            if (phase, number) in run.extra:
                continue
            proposal = latest.get(run.slot(phase, number))
            if proposal is None or proposal.settings != source.settings:
                proposal = self._record(run, phase, number, trial_seed, source.settings, {})
            run.extra[phase, number] = proposal
            self._take_over(run, proposal)

    def _record(self, run: StudyRun, phase: str, number: int, seed: int, settings: object, params: object) -> Proposal:
        plain = json.loads(json.dumps({"settings": settings, "params": params}))
        task = run.cell.task
        key = _key(task, plain["settings"], run.data_digest, seed)
        proposal = Proposal(
            cell=run.cell.key, study=run.study, phase=phase, number=number, key=key, seed=seed, task=task.stamp, **plain
        )
        self.folder.append_proposal(proposal)
        return proposal

    def _work_left(self, run: StudyRun) -> float:
        left = self.declaration.num_tune + self.declaration.num_seeds - len(run.records) - len(run.running)
        return left * run.work


def _shortened(proposal: Proposal, record: TrialRecord) -> TrialRecord:
    """Return what a schedule needs of a record that the ledger has in whole."""
    return dataclasses.replace(record, settings=proposal.settings, curves={}, provenance={}, rows={})


def _cell_name(run: StudyRun) -> str:
    return run.cell.name or "the cell"


def _alike(message: str) -> str:
    """Return what errors of one cause have in common: the place, if the last line begins with it, and the class."""
    last = message.strip().splitlines()[-1] if message.strip() else ""
    found = re.match(r"(?:\S+:\d+: )?[\w.]+", last)
    return found.group() if found else last


def _request(run: StudyRun, proposal: Proposal) -> Request:
    return Request(
        key=proposal.key,
        fingerprint=proposal.key.partition("-")[0],
        seed=proposal.seed,
        phase=proposal.recorded_phase,
        settings=proposal.settings,
        data_digest=run.data_digest,
    )


def _key(task: Task, settings: dict[str, Any], data_digest: str, seed: int) -> str:
    return trial_key(task.fingerprint(settings, data_digest), seed)


def _is_whole(run: StudyRun, proposal: Proposal) -> bool:
    """Whether a proposal has the key of its settings; one that was damaged must not condemn a record."""
    try:
        return _key(run.cell.task, proposal.settings, run.data_digest, proposal.seed) == proposal.key
    except UsageError:  # It names a row that there is not.
        return False
