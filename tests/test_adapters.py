"""What Ray Tune asks of the schedule, without Ray: a made-up pack ends."""

import dataclasses
from types import SimpleNamespace

from made_up import Sweep

from ablate.run.launch.adapters import Packs, ScheduleSearcher
from ablate.store.record import TrialRecord


def test_what_ray_tune_keeps_of_a_trial_that_has_ended_has_no_records(tmp_path):
    sweep = Sweep(tmp_path)
    packs = Packs(sweep.schedule, lambda pack: {})
    searcher = ScheduleSearcher(packs, SimpleNamespace())
    searcher.suggest("t")
    (request,) = packs.running["t"].requests
    record = TrialRecord(**dataclasses.asdict(request), state="failed", reason="error", rows={})
    result = {"epoch": 0, "records": [dataclasses.asdict(record)], "done": True}
    searcher.on_trial_complete("t", result)
    assert packs.error is None
    assert [record.key for _, _, record in sweep.ended] == [request.key]
    assert result["records"] == []
