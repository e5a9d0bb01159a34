"""The Python face: sweeps from scripts and notebooks, by the same engine and ledger as the command line."""

from __future__ import annotations

import ast
import inspect
import io
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablate.errors import SweepStoppedError, UsageError, choices_text, shown
from ablate.places import Place, local_view, to_place

if TYPE_CHECKING:
    import pandas as pd

    from ablate.report.layout import Grid
    from ablate.store.declaration import CellTrials, Declaration

Json = dict[str, Any]
log = logging.getLogger(__name__)
MADE = "# Written by ablate.sweep; it writes this file anew.\n"
MAPPINGS = ("axes", "fixed", "tune", "budget", "confirm", "report", "resources")


def between(low: float, high: float, *, step: float | None = None) -> Json:
    """Return a range to search, both ends included; whole numbers where both ends are."""
    return {"low": low, "high": high, **({} if step is None else {"step": step})}


def log_between(low: float, high: float) -> Json:
    """Return a range whose logarithm is searched, both ends included; `ablate.log` is this."""
    return {"low": low, "high": high, "log": True}


def sweep(
    train: Callable[..., Any] | Sequence[str],
    *,
    axes: Mapping[str, Any],
    objective: str | Mapping[str, Any],
    direction: str | None = None,
    metric: str | Mapping[str, Any] | None = None,
    tune: Mapping[str, Any] | None = None,
    fixed: Mapping[str, Any] | None = None,
    studies: int | None = None,
    trials: int = 6,
    seeds: int | None = None,
    baseline: Any = None,
    name: str | None = None,
    question: str = "",
    out: str | Path = "runs",
    jobs: int | None = None,
    device: str = "auto",
    address: str = "local",
    version: int | str | None = None,
    unread: str = "error",
    trial_timeout: float | None = None,
    quiet: bool = False,
    **sections: Any,
) -> Result:
    """Tune every cell in studies of as many trials each, confirm their winners on fresh seeds, and return the result.

    What has ended before is in the ledger below `out` and does not run again. The sweep is written as a sweep file,
    `out`/`name`.yaml, with which the command line goes on.

    Args:
        train: A function of (config, trial), or a command: a list of arguments with {parameter} places.
        axes: {parameter: [levels]} or {axis: {arm: {parameter: value}}}.
        objective: The metric that tuning optimises, reported in every step; a name, or a mapping as in a sweep file.
        direction: "max" or "min", where the objective is a name.
        metric: What the table shows, from confirm trials only; the objective if left out.
        tune: {parameter: what is searched}: `ablate.log(low, high)`, `ablate.between(low, high)` or a list of choices.
        fixed: {parameter: value} for all trials.
        studies: Independent studies of each cell, >= 1; if left out 5, or 1 where nothing is tuned.
        trials: Tune trials of each study, >= 1.
        seeds: Confirm seeds of each study, >= 0; if left out 1, or 3 where there is one study.
        baseline: The level of the column axis that the others are compared with.
        name: The sweep's; the function's if left out.
        out: The output folder, or "s3://BUCKET/PREFIX".
        jobs: Trials at a time; as many as fit if left out.
        version: Pins the code by hand: files that change keep their trials.
        unread: "allow" lets parameters be that the function never reads.
        trial_timeout: Seconds after which a trial fails.
        quiet: Whether to print no progress.
        sections: Further entries of a sweep file: budget, confirm, report, resources, seed, claims.

    Raises:
        UsageError: An argument is unknown or of another kind.
        SpecError: Something that was asked for is wrong; it names the place in the sweep file that was written.
        SweepStoppedError: Trials failed or are missing; the same call goes on.
    """
    _check_arguments(sections, studies=(studies, 1), trials=(trials, 1), seeds=(seeds, 0))
    place = to_place(str(out))
    chosen = name or (_name_of(train) if callable(train) else "command")
    for section, given in [*sections.items(), ("axes", axes), ("fixed", fixed or {}), ("tune", tune or {})]:
        if section in MAPPINGS and not isinstance(given, Mapping):
            raise UsageError(f"{section} must be a mapping, but got {shown(given)}")
    folder = local_view(place)
    entry: Json = {"objective": _objective(objective, direction)}
    if metric is not None:
        entry["metrics"] = [dict(metric) if isinstance(metric, Mapping) else metric]
    entry |= {"version": version} if version is not None else {}
    entry |= {"unread": unread} if unread != "error" else {}
    entry |= {"trial_timeout": trial_timeout} if trial_timeout is not None else {}
    function = None
    if callable(train):
        file = _file_of(train)
        if file:
            _check_guarded(file)
        where = os.path.relpath(file, folder) if file else "<notebook>"
        entry = {"function": f"{where}:{_name_of(train)}", **entry}
        function = None if file else train
        if function is not None and version is None:
            log.warning(
                "%s was defined in this session: code that it calls can change unseen. Give version=, and raise it "
                "with every change", _name_of(train),
            )  # fmt: skip
    else:
        if isinstance(train, str) or not isinstance(train, Sequence):
            raise UsageError(f"train must be a function or a list of arguments, but got {shown(train)}")
        # As in a shell: where the call is made, wherever the sweep file lies.
        entry = {"command": list(map(str, train)), "folder": os.path.relpath(Path.cwd(), folder), **entry}
    content: Json = {"name": chosen, **({"question": question} if question else {}), "task": entry}
    content |= {key: _plain(value) for key, value in (("fixed", fixed), ("axes", axes), ("tune", tune)) if value}
    budget = {"trials": trials} | ({} if studies is None else {"studies": studies})
    content["budget"] = {**_plain(budget), **_plain(sections.pop("budget", {}))}
    confirm = {**({} if seeds is None else {"seeds": _plain(seeds)}), **_plain(sections.pop("confirm", {}))}
    content |= {"confirm": confirm} if confirm else {}
    report = _plain(sections.pop("report", {}))
    if baseline is not None:
        report["baseline"] = _plain(baseline)
    content |= {"report": report} if report else {}
    content |= _plain(sections)
    path = _written(folder, chosen, content)
    return run_file(path, out=place, jobs=jobs, device=device, address=address, quiet=quiet, function=function)


def run_file(
    file: str | Path,
    *,
    profile: str | None = None,
    overrides: Sequence[str] = (),
    out: Place | str = "runs",
    jobs: int | None = None,
    device: str = "auto",
    address: str = "local",
    quiet: bool = False,
    function: Callable[..., Any] | None = None,
) -> Result:
    """Run a sweep file as `sweep` on the command line does, and return the result.

    Raises:
        SpecError: The file has mistakes.
        SweepStoppedError: Trials failed or are missing; the same call goes on.
    """
    from rich.console import Console

    from ablate.report.build import NothingToReportError, build_report
    from ablate.run.plan import make_plan
    from ablate.run.runner import run_plan
    from ablate.signals import graceful_signals

    place = to_place(str(out)) if isinstance(out, str) else out
    plan = make_plan(Path(file), profile, overrides, place, function)
    sweep_id = plan.spec.sweep_id
    for warning in plan.warnings():
        log.warning("%s", warning)

    def write_report() -> Path | None:
        try:
            return build_report(place, sweep_id, local_view(place) / sweep_id / "report", tells_lines=False).folder
        except NothingToReportError:
            return None

    console = Console(file=io.StringIO(), force_jupyter=False) if quiet else Console()
    with graceful_signals():
        outcome = run_plan(
            plan, jobs=jobs, device=device, address=address, console=console, write_report=write_report
        )  # fmt: skip
    if outcome.num_missing or outcome.num_failed:
        why = f": {outcome.error}" if outcome.error else ""
        raise SweepStoppedError(
            f"{outcome.num_finished} of {plan.declaration.num_trials} trials have ended, {outcome.num_failed} of them "
            f"failed{why}. The same call goes on"
        )
    return load(place, sweep_id)


def load(out: str | Place = "runs", sweep: str | None = None) -> Result:
    """Return what a sweep has so far; the most recent one if none is named. Nothing runs.

    Raises:
        UsageError: There is no such sweep.
    """
    from ablate.store.declaration import SweepFolder, collect, sweeps
    from ablate.store.ledger import Ledger

    place = to_place(str(out)) if isinstance(out, str) else out
    known = sweeps(place)
    if sweep is None and not known:
        raise UsageError(f"no sweep in {place} yet")
    folder = SweepFolder(place, sweep or known[-1])
    declaration = folder.read_declaration()
    ledger, items = Ledger(place, is_read_only=True), [str(declaration.report["metric"])]
    return Result(place, declaration, collect(declaration, folder.read_proposals(), ledger, items=items))


@dataclass(frozen=True, repr=False)
class Result:
    """A sweep as pandas DataFrames, and its report.

    Columns of an axis have its levels as numbers where the axis is a parameter that has numbers, else as texts.
    """

    out: Place
    declaration: Declaration
    cells: list[CellTrials]

    @property
    def table(self) -> pd.DataFrame:
        """One row a cell, as table.csv: axes, entry, n, mean, sd, low, high, delta, verdict, adjusted_p, best_settings.

        low and high are the ends of the 95% interval over replicates; what is not defined is empty.
        """
        from ablate.report import tidy

        return self._typed(tidy.cells(self.declaration, self._grid()))

    @property
    def trials(self) -> pd.DataFrame:
        """One row a finished trial, as results.parquet: axes, phase, seed, state, metrics, config.*, provenance.*."""
        from ablate.report import tidy

        return self._typed(tidy.trials(self.declaration, self.cells))

    @property
    def curves(self) -> pd.DataFrame:
        """One row a report of a trial: axes, study, phase, number, seed, key, epoch (from 1), and a column a metric."""
        import pandas as pd

        rows = [
            {
                **cell.cell.levels, "study": proposal.study + 1, "phase": proposal.phase, "number": proposal.number,
                "seed": record.seed, "key": record.key, "epoch": epoch + 1,
                **{n: curve[epoch] for n, curve in record.curves.items() if epoch < len(curve) and n != "epoch"},
            }
            for cell in self.cells
            for proposal, record in (*cell.tune, *cell.confirm)
            if record is not None
            for epoch in range(max(map(len, record.curves.values()), default=0))
        ]  # fmt: skip
        return self._typed(pd.DataFrame(rows))

    @property
    def verdicts(self) -> pd.DataFrame:
        """One row a comparison with the baseline: axes, delta with its 95% interval, p values, verdict, its doubts."""
        numbers = ["delta", "delta_low", "delta_high", "adjusted_p", "equivalence_p", "permutation_p", "g"]
        columns = [*self.declaration.axes, *numbers, "verdict", "verdict_size", "verdict_doubts"]
        table = self.table
        return table[table["verdict"].notna()][columns].reset_index(drop=True)

    def report(self, to: str | Path) -> Path:
        """Write the report into a folder and return the path of its page."""
        from ablate.report.build import build_report

        return build_report(self.out, self.declaration.sweep, Path(to)).folder / "report.html"

    def __repr__(self) -> str:
        shown = [*self.declaration.axes, "entry", "mark", "verdict"]
        return f"{self.declaration.sweep}: {self.declaration.metric.label}\n{self.table[shown].to_string(index=False)}"

    def _repr_html_(self) -> str:
        """Show the table in a notebook."""
        from html import escape

        from ablate.report.tables import entries_table, html_table, notes

        grid = self._grid()
        title = f"<p><b>{escape(self.declaration.metric.label)}</b>: {escape(self.declaration.sweep)}</p>"
        shown = html_table(entries_table(grid), grid, self.declaration.sweep)
        return f"{title}{shown}<p><small>{escape(notes(self.declaration, grid))}</small></p>"

    def _grid(self) -> Grid:
        from ablate.report import sufficiency
        from ablate.report.entries import entries
        from ablate.report.layout import grid
        from ablate.report.verdicts import judged

        declared = self.declaration
        return judged(declared, grid(declared, sufficiency.marked(declared, entries(declared, self.cells))))

    def _typed(self, frame: pd.DataFrame) -> pd.DataFrame:
        for axis in self.declaration.axes:
            cells = [cell.cell for cell in self.cells]
            if axis in frame.columns and all(axis in cell.settings for cell in cells):
                values = {cell.levels[axis]: cell.settings[axis] for cell in cells}
                frame[axis] = frame[axis].map(values).infer_objects()
        return frame


def _check_arguments(sections: Mapping[str, Any], **counts: tuple[Any, int]) -> None:
    """Refuse unknown arguments of `sweep`, and counts (value, least) that are none."""
    from ablate.sweepfile.merge import SECTIONS, WHOLE

    own = [name for name, each in inspect.signature(sweep).parameters.items() if each.kind is not each.VAR_KEYWORD]
    known = {*own, *SECTIONS, *WHOLE} - {"task"}
    for name in sections:
        if name not in known:
            raise UsageError(f"unknown argument '{name}' of ablate.sweep. {choices_text(name, known)}")
    for name, (given, least) in counts.items():
        value = _plain(given)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise UsageError(f"{name} must be a whole number >= {least}, but got {shown(value)}")


def _objective(objective: str | Mapping[str, Any], direction: str | None) -> Json:
    if not isinstance(objective, str | Mapping):
        raise UsageError(f"objective must be the name of a metric or a mapping, but got {shown(objective)}")
    given = {"name": objective} if isinstance(objective, str) else dict(objective)
    return {**given, **({} if direction is None else {"direction": direction})}


def _name_of(function: Callable[..., Any]) -> str:
    """Return a name for a function, or for an object that is called as one."""
    name = str(getattr(function, "__name__", type(function).__name__))
    return name if name.isidentifier() else "function"


def _file_of(function: Callable[..., Any]) -> Path | None:
    """Return the file that has a function on its top level; None where there is none that a worker can import."""
    try:
        file = Path(inspect.getsourcefile(function) or "")
    except TypeError:
        return None
    name = getattr(function, "__qualname__", "")
    if not file.is_file() or file.suffix != ".py" or not name.isidentifier() or "ipykernel" in file.as_posix():
        return None
    module = sys.modules.get(getattr(function, "__module__", ""))
    return file.resolve() if getattr(module, name, None) is function else None


def _check_guarded(file: Path) -> None:
    """Refuse a call on the top level of the function's own file: workers import it, and would make the call too."""
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "<module>" and Path(frame.f_code.co_filename).resolve() == file:
            for node in ast.parse(file.read_bytes()).body:
                is_here = node.lineno <= frame.f_lineno <= (node.end_lineno or node.lineno)
                if is_here and not (isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)):
                    raise UsageError(
                        f"{file}:{frame.f_lineno}: every worker imports this file for the function, and would make "
                        'this call too: put it below `if __name__ == "__main__":`'
                    )
        frame = frame.f_back


def _plain(value: Any) -> Any:
    """Return mappings and sequences as YAML has them."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset | range):
        return [_plain(each) for each in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # numpy's arrays and numbers.
        return _plain(value.tolist())
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise UsageError(f"a sweep file holds numbers, texts, lists and mappings, but got {shown(value)}")


def _written(folder: Path, name: str, content: Json) -> Path:
    """Write a sweep file and return its path."""
    from ruamel.yaml import YAML

    from ablate.storage import write_atomically

    if not isinstance(name, str) or not re.fullmatch(r"[\w.+-]{1,100}", name):
        raise UsageError(f"name must be letters, digits and . _ + -, but got {shown(name)}; give name=")
    yaml = YAML()
    yaml.default_flow_style = None
    yaml.width = 120
    stream = io.StringIO()
    yaml.dump(content, stream)
    path = folder / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.read_bytes().startswith(MADE.encode()):
        raise UsageError(f"{path} is there and was not written by ablate.sweep: choose another name= or out=")
    write_atomically(path, (MADE + stream.getvalue()).encode())
    return path
