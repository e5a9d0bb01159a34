"""The commands: parse, call, print. Everything heavy is imported inside the command that needs it."""

from __future__ import annotations

import io
import json
import logging
import math
import select
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ablate import starters
from ablate.command_lines import DEFAULT_OUT, Commands
from ablate.errors import AblateError, SweepStoppedError, UsageError, is_out_of_memory, printable
from ablate.places import ObjectPath, Place, local_view, to_place
from ablate.signals import graceful_signals, interrupts_noted, outputs_outlast_readers
from ablate.version import __version__

if TYPE_CHECKING:
    from ablate.report.build import Report
    from ablate.run.runner import Outcome


class Group(click.Group):
    """Turns every error of ours into one clear message and its exit code; no character makes its output fail."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run the command line; what the terminal's encoding lacks is printed as an escape such as \\u25b2."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        return super().main(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            with interrupts_noted():
                return super().invoke(ctx)
        except AblateError as error:
            click.echo(str(error), err=True)
            ctx.exit(error.exit_code)
        except OSError as error:
            if isinstance(error, BrokenPipeError) and _is_reader_gone():
                raise  # click ends quietly, as after `| head`
            from ablate.storage import cause

            click.echo(cause(error), err=True)
            ctx.exit(1)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            click.echo(f"out of memory: {str(error).partition(chr(10))[0]}", err=True)
            ctx.exit(1)
        except KeyboardInterrupt:
            click.echo("stopped", err=True)
            ctx.exit(1)


def _say(text: str) -> None:
    """Print lines, in which what files say steers no terminal."""
    click.echo("\n".join(map(printable, text.split("\n"))))


class _Warnings(logging.Formatter):
    """Writes a warning for a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the warning without control characters."""
        return "\n".join(map(printable, super().format(record).split("\n")))


def _is_reader_gone() -> bool:
    """Say whether nobody reads what this command prints any more."""
    output = select.poll()
    output.register(sys.stdout, 0)  # errors are told all the same
    return bool(output.poll(0))


class OutFolder(click.Path):
    """A folder, or s3://BUCKET/PREFIX."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, file_okay=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the place that the text names."""
        if isinstance(value, str) and isinstance(place := to_place(value), ObjectPath):
            return place
        return super().convert(value, param, ctx)


class LocalPath(click.Path):
    """A file or folder of this machine."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path; of a URL, which would become one, no folder is made."""
        if isinstance(value, str) and "://" in value:
            # Not shown whole: it may hold a password.
            self.fail(f"must be a path on this machine; got {value.partition('://')[0]}://…", param, ctx)
        return super().convert(value, param, ctx)


out_option = click.option(
    "--out", type=OutFolder(), default=DEFAULT_OUT, show_default=True, metavar="FOLDER|s3://BUCKET/PREFIX",
    help="Where sweeps, ledger and MLflow store lie.",
)  # fmt: skip
device_option = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]), default="auto", show_default=True,
    help="Where trials train.",
)  # fmt: skip


def file_options(function: Any) -> Any:
    """Add the argument FILE and the options that change what is in it."""
    for decorator in (
        out_option,
        click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE",
                     help="Replace one entry, for example --set budget.studies=10."),
        click.option("--profile", metavar="NAME", help="Apply one of the file's profiles."),
        click.argument("file", type=LocalPath(path_type=Path)),
    ):  # fmt: skip
        function = decorator(function)
    return function


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
def main() -> None:
    """Fair ablations of deep networks.

    Write a question down as a sweep file, run it with `sweep`, read the table with `report`.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Warnings("warning: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


@main.command()
@click.argument("kind", type=click.Choice(starters.kinds()), default=starters.DEFAULT)
@click.option("--to", type=LocalPath(path_type=Path, file_okay=False), default=".", help="Default: this folder.")
def init(kind: str, to: Path) -> None:
    """Write a small example that runs, to begin your own ablation from.

    Its trials are a function of your own (the default) or a script, a transformer, a function in a notebook, or the
    nets that come with Ablate. No file is overwritten.
    """
    written = starters.write(kind, to)
    for path in written:
        _say(f"wrote {path}")
    _say(f"Next: {starters.next_line(written)}")


@main.command()
@file_options
@click.option("--jobs", type=click.IntRange(min=1),
              help="Trials at a time; as many as fit on the machine or the cluster if left out.")  # fmt: skip
@device_option
@click.option(
    "--address", default="local", show_default=True, metavar="local|auto|HOST:PORT",
    help="Start Ray on this machine, or use a Ray cluster that runs.",
)  # fmt: skip
@click.option(
    "--time-limit", type=click.FloatRange(min=0, min_open=True), metavar="MIN",
    help="Stop after so many minutes as Ctrl-C does; the same command goes on.",
)  # fmt: skip
def sweep(
    file: Path,
    profile: str | None,
    overrides: tuple[str, ...],
    out: Place,
    jobs: int | None,
    device: str,
    address: str,
    time_limit: float | None,
) -> None:
    """Run a sweep file: tune every cell, confirm its winner, print the table.

    Run it again after an interruption: it goes on where it was cut off.
    """
    if time_limit is not None and math.isnan(time_limit):
        raise UsageError("--time-limit must be a number of minutes > 0, but got nan")
    deadline = math.inf if time_limit is None else time.monotonic() + 60 * time_limit
    click.get_current_context().with_resource(outputs_outlast_readers())
    click.get_current_context().with_resource(graceful_signals())
    from rich.console import Console

    from ablate.run.launch.access import check_address
    from ablate.run.plan import make_plan

    check_address(address)
    plan = make_plan(file, profile, overrides, out)
    if address == "local":  # A cluster's head may have no GPU while its nodes have.
        plan.spec.task.device_name(device)
    console = Console()
    for line in plan.lines():
        _say(line)

    from ablate.run.runner import run_plan, where_options

    sweep_id = plan.spec.sweep_id
    where = where_options(device, address, jobs)
    unwritten: list[Exception] = []
    try:
        outcome = run_plan(
            plan,
            jobs=jobs,
            device=device,
            address=address,
            console=console,
            write_report=lambda: _write_report(out, sweep_id, local_view(out) / sweep_id / "report", unwritten),
            deadline=deadline,
        )
    except KeyboardInterrupt:  # Before or after the trials; between them Ray Tune stops by itself.
        raise SweepStoppedError(
            f"stopped; what had ended is in the ledger. To go on:\n  {plan.command('sweep', where)}"
        ) from None
    if outcome.not_mirrored:
        click.echo(outcome.not_mirrored, err=True)
    if outcome.num_missing or outcome.num_failed:
        reached = f"The time limit of {time_limit:g} min was reached. " if outcome.is_out_of_time else ""
        click.echo(
            f"{reached}{outcome.num_finished} of {plan.declaration.num_trials} trials have ended, "
            f"{outcome.num_failed} of them failed.{_advice(outcome)}\n  {plan.command('sweep', where)}",
            err=True,
        )
        sys.exit(1)
    if unwritten:
        raise SweepStoppedError(
            "All trials have ended, but there is no report of them. When this is mended, write it with:\n"
            f"  {Commands(out).line('report', sweep_id)}"
        )
    click.echo(f"Next: {Commands(out).line('report')}   or browse: {Commands(out).line('ui')}")


@main.command()
@file_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--probe/--no-probe", "with_probe", default=True, help="Time a few steps of each distinct net.")
@click.option("--jobs", type=click.IntRange(min=1), help="Trials at a time; as many as fit if left out.")
@device_option
def plan(
    file: Path,
    profile: str | None,
    overrides: tuple[str, ...],
    out: Place,
    as_json: bool,
    with_probe: bool,
    jobs: int | None,
    device: str,
) -> None:
    """Check a sweep file and say what it asks for and what it will cost; trains nothing."""
    from ablate.run.estimate import estimate, lines
    from ablate.run.plan import default_jobs, make_plan

    made = make_plan(file, profile, overrides, out)
    cost = estimate(made, jobs=jobs or default_jobs(made), device=device, with_probe=with_probe)
    if as_json:
        click.echo(json.dumps({**made.summary(), "estimate": cost}, indent=1))
        return
    for line in [*made.lines(), *lines(cost, made), "tuned in each cell:", *made.cell_lines()]:
        _say(line)


@main.command()
@click.argument("sweep", required=False)
@out_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(sweep: str | None, out: Place, as_json: bool) -> None:
    """Say what is waiting, running, complete, pruned, diverged and failed."""
    from ablate.report.summary import status, status_lines
    from ablate.storage import is_locked
    from ablate.store.declaration import SweepFolder, collect
    from ablate.store.ledger import Ledger

    folder = SweepFolder(out, find_sweep(sweep, out))
    declaration = folder.read_declaration()
    running = folder.read_running() if is_locked(folder.path / "lock") else set()
    ledger = Ledger(out, is_read_only=True)
    cells = collect(declaration, folder.read_proposals(), ledger, items=[str(declaration.report["metric"])])
    folder.tell_passed_over(len(ledger.misfits))
    content = status(declaration, cells, running=running)
    if as_json:
        click.echo(json.dumps(content, indent=1))
        return
    for line in status_lines(content):
        _say(line)


@main.command()
@click.argument("sweeps", metavar="[SWEEP]...", nargs=-1)
@out_option
@click.option("--to", type=LocalPath(path_type=Path, file_okay=False), help="Default: reports/<sweep>.")
@click.option("--rows", metavar="AXIS", help="Another row axis than the sweep file's.")
@click.option("--columns", metavar="AXIS", help="Another column axis than the sweep file's.")
@click.option("--metric", metavar="NAME", help="Another metric than the sweep file's.")
@click.option("--mlflow-url", metavar="URL", help="Where the page's links to MLflow lead, if not to this machine.")
@click.option("--check", is_flag=True, help="Exit with 1 unless all claims of the sweep are supported.")
def report(
    sweeps: tuple[str, ...], out: Place, to: Path | None, rows: str | None, columns: str | None, metric: str | None,
    mlflow_url: str | None, check: bool,
) -> None:  # fmt: skip
    """Write the tables, the figures and report.html of a sweep, and print its table.

    Several sweeps with the same axes share one table. Nothing runs again.
    """
    from ablate.report.build import build_report

    found = [find_sweep(sweep, out) for sweep in sweeps or (None,)]
    made = build_report(
        out, found, to or Path("reports") / "+".join(dict.fromkeys(found)),
        rows=rows, columns=columns, metric=metric, mlflow_url=mlflow_url,
    )  # fmt: skip
    _print_report(made)
    if not check:
        return
    if not made.claims:
        raise UsageError("there is nothing to check: the sweep file has no 'claims'")
    for result in made.claims:
        _say(f"{result.word}: {result.claim.text} ({result.marks}; {result.reason})")
    if any(result.word != "supported" for result in made.claims):
        sys.exit(1)


@main.command()
@click.argument("sweep")
@out_option
@click.option("--to", type=LocalPath(path_type=Path, dir_okay=False), required=True, help="The file to write.")
def export(sweep: str, out: Place, to: Path) -> None:
    """Write a sweep with its trials to one file, for `merge` on another machine.

    The same trials give the same bytes. Nothing under --out changes.
    """
    from ablate.bundle.export import export_sweep

    for line in export_sweep(out, find_sweep(sweep, out), to).lines():
        _say(line)


@main.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=LocalPath(path_type=Path))
@out_option
def merge(files: tuple[Path, ...], out: Place) -> None:
    """Put what `export` wrote into an output folder.

    What is missing there is added, and what is there stays as it is. If a file is damaged or contradicts the folder,
    nothing changes.
    """
    from ablate.bundle.merge import merge as merge_files
    from ablate.bundle.merge import next_line

    merged = merge_files(files, out)
    for each in merged:
        _say(each.line())
    for name in dict.fromkeys(each.sweep for each in merged):
        click.echo(next_line(out, name))


@main.command()
@click.argument("sweep", required=False)
@out_option
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True, help="Port on loopback.")
def ui(sweep: str | None, out: Place, port: int) -> None:
    """Open the MLflow UI at a sweep's experiment, on loopback; Ctrl-C ends it."""
    from ablate.tracking.ui import open_ui

    open_ui(out, find_sweep(sweep, out), port, click.echo)


@main.command()
@file_options
@click.option("--cell", "cell_name", required=True, metavar="LEVELS", help='For example "width=16, arm=plain".')
@click.option("--with", "tuned", multiple=True, metavar="PARAMETER=VALUE", help="A tuned parameter's value.")
@click.option("--seed", type=int, default=0, show_default=True, help="The trial's seed.")
@click.option("--test", "with_test", is_flag=True, help="Measure it on test data too.")
@device_option
def train(
    file: Path,
    profile: str | None,
    overrides: tuple[str, ...],
    out: Place,
    cell_name: str,
    tuned: tuple[str, ...],
    seed: int,
    with_test: bool,
    device: str,
) -> None:
    """Train one trial of a cell in this process, without Ray; nothing is recorded."""
    from ablate.run.single import train_one

    record = train_one(file, profile, overrides, out, cell_name, tuned, seed, device, _say, with_test=with_test)
    if record.state == "failed":
        raise AblateError(record.message.rstrip())
    finite = {name: value if math.isfinite(value) else None for name, value in record.metrics.items()}
    click.echo(json.dumps({"state": record.state, **finite}))


@main.command()
@click.argument("trial")
@out_option
@click.option("--import", "imports", multiple=True, type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="A Python file whose rows the trial uses.")  # fmt: skip
@click.option("--tolerance", type=click.FloatRange(min=0), default=0.05, show_default=True,
              help="Share of a metric's range that counts as agreement on other hardware or libraries.")  # fmt: skip
@click.option("--weights", type=LocalPath(path_type=Path, file_okay=False),
              help="Write the weights of a confirm trial to this folder.")  # fmt: skip
@device_option
def reproduce(
    trial: str, out: Place, imports: tuple[Path, ...], tolerance: float, weights: Path | None, device: str
) -> None:
    """Run a recorded trial again and say whether the numbers agree.

    TRIAL is its key or the beginning of it. With the same torch and class of device the numbers must be equal bit for
    bit. Nothing is recorded.
    """
    from ablate.run.reproduce import reproduce as run_again

    found = run_again(out, trial, imports, device, tolerance, weights, click.echo)
    for line in found.lines():
        _say(line)
    if not found.agrees:
        sys.exit(1)


@main.command()
def schema() -> None:
    """Print the JSON Schema of sweep files, for editors."""
    from ablate.sweepfile.schema import json_schema
    from ablate.tasks import catalog

    click.echo(json.dumps(json_schema(catalog.get(catalog.DEFAULT)), indent=1))


def find_sweep(sweep: str | None, out: Place) -> str:
    """Return a sweep's id: as given, the name in a sweep file, or the most recent one.

    Raises:
        UsageError: There is no sweep yet, or the file is wrong.
    """
    from ablate.store.declaration import sweeps

    if sweep is None:
        known = sweeps(out)
        if not known:
            raise UsageError(f"no sweep in {out} yet. Run: {Commands(out).line('sweep', 'FILE')}")
        return known[-1]
    if sweep.endswith((".yaml", ".yml")):
        from ablate.sweepfile.spec import load_spec

        return load_spec(Path(sweep)).sweep_id
    return sweep


def _advice(outcome: Outcome) -> str:
    """Return what to do before the command that goes on: it trains failed trials again as they were."""
    if outcome.error:
        return f" They would fail again: {outcome.error}\nWhen that is mended, go on with:"
    memory = " Where memory was short, take fewer --jobs." if outcome.is_short_of_memory else ""
    return f"{memory} To go on:"


def _write_report(out: Place, sweep_id: str, to: Path, unwritten: list[Exception]) -> Path | None:
    """Write a report and print its table; return its folder.

    Where there is none, return None, and leave in `unwritten` what went wrong unless there is nothing to report yet.
    """
    from ablate.report.build import NothingToReportError, build_report
    from ablate.storage import cause

    try:
        made = build_report(out, sweep_id, to, tells_lines=False)
    except NothingToReportError:
        return None
    except (UsageError, OSError) as error:
        click.echo(f"no report: {cause(error) if isinstance(error, OSError) else error}", err=True)
        unwritten.append(error)
        return None
    _print_report(made)
    return made.folder


def _print_report(made: Report) -> None:
    for notice in made.notices:
        if notice not in made.table:
            _say(f"note: {notice}")
    _say(made.table)
    click.echo(f"Report: {made.folder / 'report.html'}")
