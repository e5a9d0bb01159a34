"""Writes a sweep with all that belongs to it to one file."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path

from ablate.bundle.archive import SWEEP_FILES, is_bundle, pack
from ablate.command_lines import Commands
from ablate.errors import UsageError
from ablate.places import Place
from ablate.storage import json_lines, read_file, write_atomically
from ablate.store.declaration import Proposal, SweepFolder
from ablate.store.ledger import Ledger


@dataclass(frozen=True)
class Exported:
    """What was written: the number of trials and the size of the file."""

    file: Path
    sweep: str
    num_trials: int
    num_bytes: int

    def lines(self) -> list[str]:
        """Return what was written and what to do with it, for people."""
        return [
            f"{self.file}: sweep '{self.sweep}', {num_text(self.num_trials)}, {self.num_bytes / 1000:.0f} kB",
            f"To put it into another folder: {Commands().line('merge', str(self.file))} --out FOLDER",
        ]


def num_text(num_trials: int) -> str:
    """Return a number of trials in words."""
    return "1 trial" if num_trials == 1 else f"{num_trials} trials"


def export_sweep(out: Place, sweep: str, to: Path) -> Exported:
    """Write a sweep's declaration, its proposals and their records to a bundle.

    A damaged record or proposal is told and left out. The shared records are those that the proposals name; of pruned
    and failed ones, those of this sweep.

    Raises:
        UsageError: There is no such sweep, or `to` is a file that is no bundle.
        LedgerError: A newer program wrote a record.
        OSError: Something cannot be read or written.
    """
    folder, ledger = SweepFolder(out, sweep), Ledger(out, is_read_only=True)
    declaration = folder.read_declaration()
    # A link that leads nowhere is somebody's, too.
    if os.path.lexists(to) and not (to.exists() and is_bundle(to)):
        raise UsageError(f"{to} is there already and is no bundle: give --to another name")
    proposals, files, keys = folder.read_proposals(), dict[str, bytes](), set[str]()
    num_misfits = -1
    while num_misfits != len(ledger.misfits):
        num_misfits = len(ledger.misfits)
        proposals = [proposal for proposal in proposals if proposal not in ledger.misfits]
        files, keys = _files(proposals, ledger, sweep)
    folder.tell_passed_over(num_misfits)
    contents = (
        _declaration(folder),
        read_file(folder.path / "resolved.yaml"),
        json_lines(map(dataclasses.asdict, proposals)),
    )
    members = {f"{sweep}/{name}": content for name, content in zip(SWEEP_FILES, contents, strict=True)} | files
    content = pack(sweep, declaration.history[-1] if declaration.history else "", members)
    write_atomically(to, content)
    return Exported(to, sweep, len(keys), len(content))


def _files(proposals: list[Proposal], ledger: Ledger, sweep: str) -> tuple[dict[str, bytes], set[str]]:
    """Return the ledger's files of all records that the proposals name, by their names in a bundle, and their keys."""
    trials = {(proposal.key, proposal.cell): proposal for proposal in proposals}
    files: dict[str, bytes] = {}
    keys = set()
    for (key, _), stored in ledger.stored(trials, sweep):
        for record in filter(None, stored):
            keys.add(key)
            if _member(ledger.path(record.key, record.sweep, record.cell)) not in files:
                files |= {_member(path): read_file(path) for path in ledger.files(record)}
    return files, keys


def _member(path: Place) -> str:
    """Return the name in a bundle of a file of the ledger."""
    return f"ledger/{path.parent.parent.name}/{path.parent.name}/{path.name}"


def _declaration(folder: SweepFolder) -> bytes:
    """Return the declaration; of the folder where the sweep file lay, nothing that only this machine has."""
    content = json.loads(read_file(folder.path / "declaration.json"))
    if Path(content.get("path") or "").is_absolute():
        content["path"] = Path(content["path"]).name
    return json.dumps(content, indent=1).encode()
