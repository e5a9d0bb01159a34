"""Reads a finished or half-finished sweep and writes its report."""

from __future__ import annotations

import contextlib
import functools
import gc
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from ablate.command_lines import Commands
from ablate.errors import UsageError
from ablate.metrics import label
from ablate.places import Place
from ablate.processes import map_in_two
from ablate.report import curves, drawing, figures, importance, latex, sufficiency, tables, tidy, tuning
from ablate.report.claim_results import ClaimResult, claim_results, claims_text
from ablate.report.combine import combine, laid_out_as
from ablate.report.entries import check_metric, entries, finished
from ablate.report.heatmaps import heat_maps
from ablate.report.layout import Grid, grid
from ablate.report.links import Links, link_server, read_links
from ablate.report.notices import floor_notices, notices
from ablate.report.page import Picture, page
from ablate.report.verdicts import judged
from ablate.storage import write_atomically
from ablate.store.declaration import CellTrials, Declaration, SweepFolder, collect
from ablate.store.ledger import Ledger

MAX_PAGE_BYTES = 10_000_000
MAX_ALONE = 40
"""The figures of more cells take longer than the start of a second process."""
NO_LINKS = (
    "the entries of the page have no links: MLFLOW_TRACKING_URI names another machine, which the page tells only if "
    "it is asked to: "
)


class NothingToReportError(UsageError):
    """No confirm trial has ended yet."""


@dataclass(frozen=True)
class Report:
    """What was written: `table` is table.md for printing, `files` are in the order of writing.

    The commands in `table` and `notices` are for this machine's terminal: they show every folder.
    """

    folder: Path
    table: str
    notices: list[str]
    files: list[Path]
    claims: list[ClaimResult]


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Keep Python's collector from going through all records again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@_without_collector()
def build_report(
    out: Place,
    sweep: str | Sequence[str],
    to: Path,
    *,
    rows: str | None = None,
    columns: str | None = None,
    metric: str | None = None,
    mlflow_url: str | None = None,
    tells_lines: bool = True,
) -> Report:
    """Write the report of one sweep or several into a folder; the same trials give the same bytes.

    Args:
        out: The output folder with the ledger and the sweeps.
        sweep: The sweep's id, or several that share a table.
        to: Where report.html, table.*, results.parquet and figures/ go.
        rows: Another row axis than the sweep file's; so with `columns` and `metric`.
        mlflow_url: The server that the page's links lead to; see `link_server` for what holds without.
        tells_lines: Whether to warn of damaged proposals; a sweep that writes its report has done so.

    Raises:
        UsageError: There is no such sweep or axis, no confirm trial is finished, none recorded the metric, the
            server's address cannot be shown, or the folder cannot be one.
        OSError: The disk is full, or fails.
    """
    ledger, commands, to_print = Ledger(out, is_read_only=True), Commands(out, in_public=True), Commands(out)
    server = link_server(mlflow_url)
    found = []
    links: Links = {}
    sweep_ids = list(dict.fromkeys([sweep] if isinstance(sweep, str) else sweep))
    for sweep_id in sweep_ids:
        folder = SweepFolder(out, sweep_id)
        declaration = folder.read_declaration()
        num_misfits = len(ledger.misfits)
        cells = collect(
            declaration, folder.read_proposals(), ledger, items={str(declaration.report["metric"]), metric or ""}
        )
        if tells_lines:
            folder.tell_passed_over(len(ledger.misfits) - num_misfits)
        _check_confirmed(declaration, cells, to_print)
        found.append((declaration, cells))
        many = len(sweep_ids) > 1
        if server:
            links |= {((sweep_id, *levels) if many else levels): address
                      for levels, address in read_links(out, declaration, server).items()}  # fmt: skip
    declared, cells = combine(found)
    # A claim is about what was declared, whatever is laid out.
    claims = claim_results(declared, entries(declared, cells)) if declared.claims else []
    declaration = laid_out_as(declared, rows, columns, metric)
    check_metric(declaration, cells)
    laid_out = judged(declaration, grid(declaration, sufficiency.marked(declaration, entries(declaration, cells))))
    layout = {"rows": rows, "columns": columns, "metric": metric}
    write = functools.partial(
        page, declaration, laid_out, cells, claims=claims, links=links, layout=layout, commands=commands
    )
    tables_for = functools.partial(_markdown, declaration, laid_out, claims)
    contents = _contents(declaration, laid_out, cells, tables_for(commands), ledger, write)
    no_links = NO_LINKS + to_print.line("report", *sweep_ids, options={**layout, "mlflow-url": "URL"})
    try:
        for name, content in contents.items():
            write_atomically(to / name, content)
    # A full disk or one that fails is no mistake of who asked for the report.
    except (FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        raise UsageError(f"cannot write the report to {to}: {error.strerror}") from None
    return Report(
        folder=to,
        table=tables_for(to_print),
        notices=[*notices(declaration, laid_out, cells, to_print), *([] if server else [no_links])],
        files=[to / name for name in contents],
        claims=claims,
    )


def _markdown(declaration: Declaration, laid_out: Grid, claims: list[ClaimResult], commands: Commands) -> str:
    warnings = floor_notices(declaration, laid_out)
    return tables.markdown(declaration, laid_out, warnings, claims_text(claims) if claims else None, commands)


def _contents(
    declaration: Declaration,
    laid_out: Grid,
    cells: list[CellTrials],
    table: str,
    ledger: Ledger,
    write: Callable[..., str],
) -> dict[str, bytes]:
    """Return every file of the report by its path within the folder; the page last, as it shows the rest."""
    contents = {
        "table.md": table.encode(),
        "table.tex": latex.latex(declaration, laid_out).encode(),
        "table.csv": tidy.cells(declaration, laid_out).to_csv(index=False, lineterminator="\n").encode(),
        "results.parquet": tidy.to_parquet(tidy.trials(declaration, cells), declaration),
    }
    titles: dict[str, dict[str, str]] = {}

    def documents() -> Iterator[list[Figure]]:
        for document, drawn in _documents(declaration, laid_out, cells, ledger):
            titles[document] = {name: title for name, (title, _) in drawn.items()}
            yield [figure for _, figure in drawn.values()]

    draw = map_in_two if len(cells) > MAX_ALONE else map
    rendered = list(draw(drawing.render_pages, documents()))
    pictures = []
    for (document, named), (svgs, pdf) in zip(titles.items(), rendered, strict=True):
        contents[f"figures/{document}.pdf"] = pdf
        for (name, title), svg in zip(named.items(), svgs, strict=True):
            contents[f"figures/{name}.svg"] = svg
            pictures.append(Picture(name, title, svg))
    left_out: list[Picture] = []
    html = write(pictures=pictures, left_out=left_out).encode()
    while len(html) > MAX_PAGE_BYTES and pictures:
        # A page must open on a phone; the figure stays in figures/.
        left_out.append(max(pictures, key=lambda picture: len(picture.svg)))
        pictures.remove(left_out[-1])
        html = write(pictures=pictures, left_out=left_out).encode()
    return {**contents, "report.html": html}


def _documents(
    declaration: Declaration, laid_out: Grid, cells: list[CellTrials], ledger: Ledger
) -> Iterator[tuple[str, dict[str, tuple[str, Figure]]]]:
    """Make one after the other what becomes a PDF: its name and its figures, as {name: (title, figure)}."""
    over = laid_out.row_axes[-1] if laid_out.row_axes else "cell"
    metric, objective, single = declaration.metric, declaration.tuned_metric, declaration.replicates(2)
    by_row = re.sub(r"\W+", "_", f"{metric.quantity}_by_{over}")
    found: dict[str, tuple[str, Callable[[Declaration, Grid], Figure | None]]] = {
        by_row: (
            f"Means with 95% intervals by {over}; small marks are single {single}. Hollow marks are those of a cell "
            "in which some trained and some collapsed: no mean is drawn for it",
            figures.metric_by_row,
        ),
        **{
            name: (
                f"{label(curve)} after each epoch, one line a confirm seed; a cross marks divergence",
                functools.partial(curves.learning_curves, curve=curve),
            )
            for name, curve in (("learning_curves", objective.name), ("train_curves", f"train_{objective.quantity}"))
        },
        "degradation": (
            f"Training {figures.loss_name(metric)} beside test {figures.loss_name(metric)} after the last epoch, means "
            "over confirm seeds; small and hollow marks are single seeds as above. What fails to train is bad at both",
            figures.degradation,
        ),
        "expected_best": (
            f"Expected best {objective.label.lower()} against the number of tune trials of a {declaration.searched}, "
            "as if they had been drawn in random order from all of the cell: a curve that is not flat yet asks for "
            "more tuning",
            tuning.expected_best_figure,
        ),
        "importance": (
            f"Importance of the tuned parameters for the {objective.label.lower()}, in cells with at least 20 complete "
            "tune trials (PED-ANOVA); – where a parameter is not in every trial",
            importance.importance_figure,
        ),
        "slices": (
            "Complete tune trials over each tuned parameter, in cells with at least 20 of them",
            importance.slices_figure,
        ),
        "cost": (
            f"{metric.label} with its 95% interval against the device-hours of all trials of the cell, tuning "
            "included. The marks grow from the first row of the table to the last; cells in which some seeds trained "
            "and some collapsed are left out",
            figures.metric_by_cost,
        ),
    }
    for name, (title, make) in found.items():
        figure = make(declaration, laid_out)
        if figure is not None:
            yield name, {name: (title, figure)}
    maps = heat_maps(declaration.known_task, cells, ledger)
    if maps:
        yield "layers", maps


def _check_confirmed(declaration: Declaration, cells: list[CellTrials], commands: Commands) -> None:
    if any(record and record.state in ("complete", "diverged") for cell in cells for _, record in cell.confirm):
        return
    raise NothingToReportError(
        f"sweep '{declaration.sweep}' has no finished confirm trial yet: {len(finished(cells))} of "
        f"{declaration.num_trials} trials are finished. To go on, run: {declaration.command('sweep', commands)}"
    )
