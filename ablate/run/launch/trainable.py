"""What runs in a Ray worker: one pack."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import traceback
from pathlib import Path
from typing import Any

import ray
from ray import tune

from ablate.errors import AblateError
from ablate.places import to_place
from ablate.run.checkpoints import Checkpoints
from ablate.run.launch.shipping import CODE, import_path
from ablate.run.pack import Pack, Request, failed
from ablate.store.record import TrialRecord
from ablate.tasks import base, catalog
from ablate.tasks.base import Task
from ablate.tasks.registry import load_imports

MAILBOX = "ablate-mailbox"


class Mailbox:
    """Holds the members that the driver wants stopped after an epoch, until their pack has ended.

    A pack that is restarted after the loss of its worker reports its epochs once more and is stopped at the same one.
    """

    def __init__(self) -> None:
        self.letters: dict[str, dict[int, list[int]]] = {}

    def put(self, pack: str, epoch: int, members: list[int]) -> None:
        """Leave a letter for a pack."""
        self.letters.setdefault(pack, {})[epoch] = members

    def read(self, pack: str, epoch: int) -> list[int]:
        """Return the members to stop after this epoch."""
        return self.letters.get(pack, {}).get(epoch, [])

    def clear(self, pack: str) -> None:
        """Forget a pack that has ended."""
        self.letters.pop(pack, None)


def _task(config: dict[str, Any]) -> Task:
    """Return the task of a pack, with the user's files as Ray brought them here or where they lie."""
    if any(thread.is_alive() for thread in base.lingering):
        os._exit(1)  # Ray starts the pack again in another worker.
    reference = config["task"]
    if config["is_shipped"]:
        reference = {**reference, "folder": str(import_path(CODE))}
    with contextlib.suppress(OSError):  # Of another machine.
        os.chdir(config["cwd"])  # A user's training finds its data as it would without Ray.
    return catalog.from_reference(reference)


def run_pack(config: dict[str, Any]) -> None:
    """Run the pack that the driver describes; report a vector an epoch and the records at the end.

    What keeps it from beginning (a file that changed or is gone, a device that is not there) would do so everywhere:
    its trials fail with it.
    """
    requests = [Request(**request) for request in config["requests"]]
    try:
        pack = _pack(config, requests)
    except Exception as error:
        message = str(error.args[0]) if isinstance(error, AblateError) and error.args else traceback.format_exc()
        _end([failed(request, config["stamp"], "error", message) for request in requests])
        return
    mailbox = ray.get_actor(MAILBOX)
    name = tune.get_context().get_trial_id()

    def report(epoch: int, values: list[float | None]) -> set[int]:
        tune.report({"epoch": epoch, "values": values})
        return set(ray.get(mailbox.read.remote(name, epoch)))

    _end(pack.run(report))


def _pack(config: dict[str, Any], requests: list[Request]) -> Pack:
    load_imports([import_path(name) for name in config["imports"]])
    return Pack(
        _task(config),
        requests,
        config["device"],
        to_place(config["data"]) if config["data"] else None,
        Checkpoints(to_place(config["checkpoints"])),
        config["provenance"],
        Checkpoints(to_place(config["weights"])) if config["weights"] else None,
        Path(config["folder"]) if config["folder"] else None,
    )


def _end(records: list[TrialRecord]) -> None:
    # Ray Tune asks for the searcher's metric in every result. "done" ends the trial with this one: else Ray Tune asks
    # for one more, and a worker that is lost in between would train the pack again.
    tune.report({"epoch": 0, "records": [dataclasses.asdict(record) for record in records], "done": True})
