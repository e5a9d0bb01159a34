"""Puts bundles into an output folder: what is missing there is added, and what is there stays as it is.

Everything is checked first: a bundle that is damaged, or that contradicts the folder or another bundle, ends the
command before anything is written. Then a sweep's records are written before its declaration, and its proposals last,
each file whole or not at all. So a merge that was cut off leaves nothing wrong, and the same command completes it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from ablate.bundle.archive import unpack
from ablate.bundle.conflicts import declared_otherwise, other_numbers, other_settings
from ablate.bundle.export import num_text
from ablate.command_lines import Commands
from ablate.errors import LedgerError, UsageError
from ablate.places import Place
from ablate.storage import is_locked, locked, read_file, write_atomically
from ablate.store.declaration import Declaration, Proposal, Slot, SweepFolder, collect
from ablate.store.ledger import Ledger, Stored, differing_numbers, same_layers
from ablate.store.record import TrialRecord


@dataclass(frozen=True)
class Side:
    """A sweep as it lies in an output folder, or in a bundle that was unpacked: `name` is how the user named that."""

    name: str
    folder: SweepFolder
    ledger: Ledger
    declaration: Declaration | None
    proposals: list[Proposal]

    @property
    def trials(self) -> dict[tuple[str, str], Proposal]:
        """The proposals by the keys of their trial and their cell."""
        return {(proposal.key, proposal.cell): proposal for proposal in self.proposals}

    @property
    def by_place(self) -> dict[Slot, list[Proposal]]:
        """All proposals for each place, the one that counts last."""
        found: dict[Slot, list[Proposal]] = {}
        for proposal in self.proposals:
            found.setdefault(proposal.slot, []).append(proposal)
        return found


@dataclass
class Additions:
    """What a folder lacks of a bundle, and where the two contradict each other. Records come without curves, items."""

    proposals: list[Proposal] = field(default_factory=list)
    records: list[TrialRecord] = field(default_factory=list)
    layers: list[TrialRecord] = field(default_factory=list)
    known: set[str] = field(default_factory=set)
    conflicts: list[str] = field(default_factory=list)
    is_declared: bool = True
    is_late_margin: bool = False
    """Whether the bundle knows of trials before the report's margin, and the folder does not."""

    def is_empty(self) -> bool:
        """Whether everything is there."""
        return self.is_declared and not (self.proposals or self.records or self.layers or self.is_late_margin)


@dataclass(frozen=True)
class Merged:
    """What one bundle brought: numbers of trials that were added, and that were there before."""

    file: Path
    sweep: str
    num_added: int
    num_known: int
    is_changed: bool

    def line(self) -> str:
        """Return it as one line for people."""
        if not self.is_changed:
            return f"{self.file}: sweep '{self.sweep}': nothing to add, {num_text(self.num_known)} are there already"
        there = f"{self.num_known} were there already"
        return f"{self.file}: sweep '{self.sweep}': {num_text(self.num_added)} added, {there}"


def merge(files: Sequence[Path], out: Place) -> list[Merged]:
    """Put the sweeps of bundles into an output folder; return what each of them brought.

    Raises:
        UsageError: A bundle cannot be read, is damaged or of a newer program, or contradicts the folder or another
            bundle; or its sweep is running in the folder. Nothing was written then.
        LedgerError: A newer program wrote a file of the folder's ledger.
        OSError: Something cannot be read or written; the same command goes on.
    """
    with contextlib.ExitStack() as stack:
        bundles = {}
        for file in dict.fromkeys(files):
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ablate-merge-"))
            bundles[file] = _read_bundle(file, Path(folder))
        lacking = {}
        conflicts = []
        for number, (file, bundle) in enumerate(bundles.items()):
            _check_idle(out, bundle.folder.sweep)
            lacking[file] = _additions(bundle, _read_folder(out, bundle.folder.sweep))
            conflicts += lacking[file].conflicts
            for other in list(bundles.values())[:number]:
                conflicts += _additions(bundle, _seen_by(bundle.folder.sweep, other)).conflicts
        _refuse(list(dict.fromkeys(conflicts)))
        return [_write(file, bundle, out, lacking[file]) for file, bundle in bundles.items()]


def next_line(out: Place, sweep: str) -> str:
    """Return how far a sweep is and what to run next."""
    folder, commands = SweepFolder(out, sweep), Commands(out)
    declaration = folder.read_declaration()
    cells = collect(declaration, folder.read_proposals(), Ledger(out, is_read_only=True))
    table = [record for cell in cells for _, record in (*cell.tune, *cell.confirm)]
    beside = [record for cell in cells for _, record in cell.extra]
    num_ended = sum(record is not None and record.state != "failed" for record in table)
    if num_ended < declaration.num_trials or any(record is None or record.state == "failed" for record in beside):
        how_far = f"{num_ended} of {declaration.num_trials} trials have ended"
        return f"{sweep}: {how_far}. To run what is missing: {declaration.command('sweep', commands)}"
    return f"{sweep}: all {declaration.num_trials} trials have ended. Next: {commands.line('report', sweep)}"


def _read_bundle(file: Path, folder: Path) -> Side:
    """Unpack a bundle and check all of it: every file of the ledger must be of a trial that the sweep proposed."""
    manifest = unpack(file, folder)
    try:
        side = _side(str(file), folder, manifest.sweep, Ledger(folder, is_read_only=True, is_strict=True))
        hashes = side.declaration.history[-1:] if side.declaration else []
        if side.declaration is None or side.declaration.sweep != manifest.sweep:
            raise UsageError("the declaration is another sweep's")
        if "".join(hashes) != manifest.declaration:
            raise UsageError("the declaration has another hash than the manifest")
        if len(side.proposals) != read_file(folder / manifest.sweep / "proposals.jsonl").count(b"\n"):
            raise UsageError("a line of proposals.jsonl is no proposal")
        files = {str(path) for record in _records(side) for path in side.ledger.files(record)}
        names = {name for name in manifest.members if name.startswith("ledger/")}
        if odd := sorted(names - {name.removeprefix(f"{folder}/") for name in files}):
            raise UsageError(f"{odd[0]} is of no trial that the sweep proposed")
    except (UsageError, LedgerError) as error:
        raise UsageError(
            f"{file} is damaged, or not for this program: {str(error).replace(f'{folder}/', '')}"
        ) from None
    return side


def _read_folder(out: Place, sweep: str, *, is_read_only: bool = True) -> Side:
    return _side(str(out), out, sweep, Ledger(out, is_read_only=is_read_only))


def _side(name: str, out: Place, sweep: str, ledger: Ledger) -> Side:
    folder = SweepFolder(out, sweep)
    declaration = folder.read_declaration() if folder.has_declaration() else None
    return Side(name, folder, ledger, declaration, folder.read_proposals())


def _seen_by(sweep: str, side: Side) -> Side:
    """Return what a sweep sees of a bundle: of another sweep's, the shared records only."""
    return side if side.folder.sweep == sweep else dataclasses.replace(side, declaration=None, proposals=[])


def _records(side: Side) -> Iterator[TrialRecord]:
    for _, stored in side.ledger.stored(side.trials, side.folder.sweep):
        yield from filter(None, stored)


def _check_idle(out: Place, sweep: str) -> None:
    if is_locked(out / sweep / "lock"):
        raise _running(out, sweep)


def _running(out: Place, sweep: str) -> UsageError:
    hint = Commands(out).line("status", sweep)
    return UsageError(f"the sweep '{sweep}' is running in {out}: merge when it has ended; how far it is says: {hint}")


def _refuse(conflicts: Sequence[str]) -> None:
    if conflicts:
        raise UsageError("\n".join([*conflicts, "nothing was merged"]))


def _write(file: Path, bundle: Side, out: Place, found: Additions) -> Merged:
    """Write what an output folder lacks of a bundle, under the lock of its sweep."""
    sweep = bundle.folder.sweep
    if not found.is_empty():
        with locked(out / sweep / "lock") as is_ours:
            if not is_ours:
                raise _running(out, sweep)
            # Asked again: another command may have written since. Damaged records are set aside now.
            side = _read_folder(out, sweep, is_read_only=False)
            found = _additions(bundle, side)
            _refuse(found.conflicts)
            _write_all(found, bundle, side)
    added = {record.key for record in found.records}
    return Merged(file, sweep, len(added), len(found.known - added), not found.is_empty())


def _write_all(found: Additions, bundle: Side, side: Side) -> None:
    for record in found.layers:
        _copy(bundle.ledger.files(record)[0], side.ledger)
    for record in found.records:
        # A table of layers that is there without its record is of a trial that was cut off.
        *tables, file = bundle.ledger.files(record)
        for table in tables:
            _copy(table, side.ledger)
        is_new = not side.ledger.path(record.key, record.sweep, record.cell).exists()
        if is_new or not record.is_shared:  # Another sweep can have written a shared one meanwhile.
            _copy(file, side.ledger)
    if not found.is_declared:
        for name in ("resolved.yaml", "declaration.json"):
            write_atomically(side.folder.path / name, read_file(bundle.folder.path / name))
    elif found.is_late_margin and side.declaration:
        side.folder.amend_declaration(dataclasses.replace(side.declaration, is_late_margin=True))
    if found.proposals:
        side.folder.append_proposal(*found.proposals)


def _copy(file: Place, ledger: Ledger) -> None:
    """Write a file of a bundle's ledger, as it is, where it lies in another one."""
    write_atomically(ledger.root / file.parent.parent.name / file.parent.name / file.name, read_file(file))


def _additions(bundle: Side, side: Side) -> Additions:
    """Return what a side lacks of a bundle's sweep, and where the two contradict each other."""
    found = Additions(is_declared=side.declaration is not None)
    trials, sweep = bundle.trials, bundle.folder.sweep
    if bundle.declaration and side.declaration:
        found.is_late_margin = bundle.declaration.is_late_margin and not side.declaration.is_late_margin
        differing = declared_otherwise(side.declaration, bundle.declaration)
        if differing:
            found.conflicts.append(
                f"{bundle.name}: the sweep '{sweep}' is declared otherwise in {side.name}: {differing}"
            )
    _add_proposals(found, bundle, side)
    tuned = {(p.key, p.cell) for p in side.proposals if p.phase == "tune"}
    pairs = zip(*(each.ledger.stored(trials, sweep, items=None) for each in (side, bundle)), strict=True)
    for (pair, ours), (_, theirs) in pairs:
        _add_records(found, bundle, side, ours, theirs)
        if pair in tuned and _one_was_stopped(ours.used, theirs.used):
            _conflict_of_numbers(found, bundle, side, ours.used, theirs.used)
    found.conflicts[:] = dict.fromkeys(found.conflicts)  # Cells can share a trial.
    return found


def _one_was_stopped(first: TrialRecord | None, second: TrialRecord | None) -> bool:
    """Whether a cell saw a trial to its end on one side and stopped it on the other: its search learnt two things."""
    states = [record.state for record in (first, second) if record is not None and record.state != "failed"]
    return len(states) == 2 and (states[0] == "pruned") != (states[1] == "pruned")


def _add_proposals(found: Additions, bundle: Side, side: Side) -> None:
    known = side.by_place
    for at, theirs in bundle.by_place.items():
        ours = known.get(at, [])
        if not ours:
            found.proposals += theirs
        elif (newer := _position(ours[-1], theirs)) is not None:
            found.proposals += theirs[newer + 1 :]  # The bundle was written after the folder's last proposal.
        elif _position(theirs[-1], ours) is None:
            last = theirs[-1]
            study = f", study {last.study + 1}," if last.study else ""
            found.conflicts.append(
                f"{bundle.name}: the {last.phase} trial {last.number} of {_cell_name(bundle, last.cell)}{study} is "
                f"proposed otherwise in {side.name}: {other_settings(ours[-1], last)}"
            )


def _position(wanted: Proposal, among: Sequence[Proposal]) -> int | None:
    """Return where the trial of a proposal is proposed last, None where it is not."""
    places = [n for n, each in enumerate(among) if (each.key, each.settings) == (wanted.key, wanted.settings)]
    return places[-1] if places else None


def _cell_name(side: Side, key: str) -> str:
    cells = side.declaration.cells if side.declaration else []
    return next((cell.name for cell in cells if cell.key == key), "") or f"the cell {key}"


def _add_records(found: Additions, bundle: Side, side: Side, here: Stored, there: Stored) -> None:
    for ours, theirs in zip(here, there, strict=True):
        if theirs is None:
            continue
        if theirs.state == "failed":  # It has no numbers: it is there for as long as the trial has no other record.
            is_missing = here.used is None and there.shared is None
        else:
            # A failed record gives way to a result, as it does when `sweep` tries its trial again; not to one under the
            # older name, which it would hide.
            is_missing = ours is None or (ours.state == "failed" and bool(theirs.cell or not ours.cell))
        bare = dataclasses.replace(theirs, curves={}, items={})
        if is_missing:
            found.records.append(bare)
            continue
        found.known.add(theirs.key)
        if ours is None or "failed" in (ours.state, theirs.state):
            continue
        if differing_numbers(ours, theirs):
            _conflict_of_numbers(found, bundle, side, ours, theirs)
            continue
        table, other = side.ledger.read_layers(ours), bundle.ledger.read_layers(theirs)
        if table is None and other is not None and (ours.sweep, ours.cell) == (theirs.sweep, theirs.cell):
            found.layers.append(bare)
        elif table is not None and other is not None and not _agree(table, other):
            found.conflicts.append(f"{bundle.name}: the trial {ours.key} has another table of layers in {side.name}")


def _agree(first: pa.Table, second: pa.Table) -> bool:
    """Whether two tables of layers are equal in the measures that both have: an earlier version has fewer."""
    names = [name for name in first.column_names if name in second.column_names]
    return same_layers(first.select(names), second.select(names))


def _conflict_of_numbers(
    found: Additions, bundle: Side, side: Side, ours: TrialRecord | None, theirs: TrialRecord | None
) -> None:
    if ours and theirs:
        found.conflicts.append(
            f"{bundle.name}: the trial {ours.key} has other numbers in {side.name}: {other_numbers(ours, theirs)}"
        )
