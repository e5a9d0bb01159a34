"""How the MLflow UI shows a sweep: first the cells, from the best confirmed number on, then the trials."""

from __future__ import annotations

import json

from ablate.store.declaration import Declaration
from ablate.tracking.content import metric_name

VIEW = "ablate"
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
MAX_STATE_LENGTH = 20_000
"""As much as MLflow takes in a tag of an experiment."""


def link(server: str, experiment: str) -> str:
    """Return the address of an experiment's run list as `view_state` arranges it.

    Without its last part the UI opens a page about language-model traces.
    """
    return (
        f"{server.rstrip('/')}/#/experiments/{experiment}/runs?viewStateShareKey={VIEW}&workflowType=machine_learning"
    )


def view_state(declaration: Declaration) -> str:
    """Return the value of the experiment tag in which the UI keeps a shared view.

    Left alone the UI shows no parameter and no metric. The order is by a metric that only cells have, because a page
    holds 100 runs and newer trials would push the cells off it. The UI nests trials below their cells when a user
    sorts by "Created".
    """
    confirmed, objective = f"confirmed_{declaration.metric.quantity}", declaration.objective
    metrics = (confirmed, "confirmed_n", f"best_{objective}", "num_diverged", objective)
    tuned = dict.fromkeys(name for cell in declaration.cells for name in cell.tuned)
    columns = [
        *_columns("metrics", *metrics),
        *_columns("params", *map(metric_name, declaration.axes), *tuned),
        *_columns("tags", "state"),
    ]
    state = {
        "searchFilter": "",
        "orderByKey": f"metrics.`{confirmed}`",
        "orderByAsc": declaration.metric.direction == "min",
        "selectedColumns": columns,
    }
    while len(json.dumps(state)) > MAX_STATE_LENGTH:
        columns.pop()
    return json.dumps(state)


def _columns(kind: str, *names: str) -> list[str]:
    return [f"{kind}.`{name}`" for name in names]
