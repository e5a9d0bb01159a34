"""The output folder that version 0.1.0 wrote, and its sweep as this version goes on with it."""

from __future__ import annotations

from pathlib import Path

from ablate.run.plan import make_plan
from ablate.run.runner import study_runs
from ablate.run.schedule import Schedule
from ablate.store.ledger import Ledger

WRITTEN = Path(__file__).parent / "written_by_0_1_0"
AS_THEN = "fixed.statistics=running"
"""How 0.1.0 evaluated batch norm."""


def schedule(out: Path, *overrides: str) -> Schedule:
    plan = make_plan(WRITTEN / "small.yaml", None, overrides, out)
    plan.declare()
    return Schedule(plan.declaration, study_runs(plan), plan.folder, Ledger(out), plan.spec.budget.batch)
