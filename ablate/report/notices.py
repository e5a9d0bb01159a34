"""What a reader must know before believing the table, and the answer in a few sentences."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container

from ablate.command_lines import Commands
from ablate.redaction import redact
from ablate.report.combine import Combined, unlike
from ablate.report.entries import Entry, finished, tune_counts
from ablate.report.layout import Grid, Levels
from ablate.report.text import entry_text, floor_text, listed, shared_n
from ablate.store.declaration import CellTrials, Declaration, DeclaredCell, tie_notices, twin_notices

UNDEFINED = "cannot be tested"


def floor_notices(declaration: Declaration, grid: Grid) -> list[str]:
    """Return at most one paragraph: the entries that are near the metric's floor, or whose interval includes it."""
    near, wide = [], []
    for row, column in _places(grid):
        entry = grid.at[row, column]
        if entry.is_near_floor:
            near.append(f"{grid.place(row, column)} ({entry.metric.with_unit(entry.estimate.mean or 0.0)})")
        elif entry.includes_floor:
            wide.append(grid.place(row, column))
    sentences = []
    floor, number = declaration.metric.floor_name, floor_text(declaration)
    if near:
        verb, pronoun = ("is", "it") if len(near) == 1 else ("are", "they")
        sentences.append(f"{listed(near)} {verb} near {floor} ({floor} is {number}): {pronoun} did not train.")
    if wide:
        sentences.append(f"The interval of {listed(wide)} includes {floor} ({number}).")
    text = " ".join(sentences)
    return [text[0].upper() + text[1:] if text.startswith("the ") else text] if text else []


def notices(declaration: Declaration, grid: Grid, cells: list[CellTrials], commands: Commands) -> list[str]:
    """Return all notices, the most important first."""
    found = [*floor_notices(declaration, grid), *unlike(declaration), *_unfinished(declaration, grid, commands)]
    found += [*_failed(declaration, cells), *_diverged(declaration, cells), *_changed_code(cells)]
    found += _too_little_data(declaration, cells)
    return found + _unequal_tuning(declaration, grid)


def answer(declaration: Declaration, grid: Grid) -> str:
    """Return one paragraph made from the verdicts: for each arm where it is better or worse, and where neither."""
    settled = [entry for entry in grid.entries if entry.is_settled]
    if not settled:
        return "No entry is settled yet."
    sentences = [_arm_answer(grid, column) for column in grid.compared()]
    if grid.verdicts and all(verdict.word == "not shown" for verdict in grid.verdicts.values()):
        number = len(grid.verdicts)
        n = shared_n([entry.estimate for entry in settled])
        with_n = f"With {n} {declaration.replicates(n)} a cell, no" if n else "No"
        sentences = [
            f"{with_n} arm is shown to be better or worse than {grid.baseline}: none of the {number} paired tests "
            "is significant after correction, which is no proof that the arms are equal."
        ]
    if reasons := dict.fromkeys(reason for verdict in grid.verdicts.values() for reason in verdict.doubts):
        sentences.append(f"Perhaps, because a rerun may change it: {'; '.join(reasons)}.")
    winners = [f"{column} at {grid.phrase(row)}" if row else column for row, column in _places(grid, grid.best)]
    if winners:
        sentences.append(f"All others of the row are beaten by {listed(winners)}.")
    return " ".join([*(sentence for sentence in sentences if sentence), *_best(declaration, grid)])


def _arm_answer(grid: Grid, column: str) -> str:
    """For example "The arm residual is better than plain at width 64 (+5.0); neither is shown at width 16 (+0.1)."."""
    words = ("better", "perhaps better", "worse", "perhaps worse")
    groups: dict[str, list[str]] = {word: [] for word in (*words, "equivalent", "not shown", UNDEFINED)}
    for row in grid.rows:
        entry = grid.at.get((row, column))
        if entry is None or entry.difference is None or not entry.difference.values:
            continue
        verdict = grid.verdicts.get((row, column))
        number = (
            ""
            if verdict is None or entry.difference.mean is None
            else f" ({entry.metric.signed(entry.difference.mean)})"
        )
        groups[UNDEFINED if verdict is None else verdict.said].append(f"{grid.phrase(row) or 'all'}{number}")
    clauses = [f"{word} than {grid.baseline} at {listed(groups[word])}" for word in words if groups[word]]
    if groups["equivalent"]:
        clauses.append(f"equivalent to {grid.baseline} at {listed(groups['equivalent'])}")
    if groups["not shown"]:
        clauses.append(f"neither is shown at {listed(groups['not shown'])}")
    if groups[UNDEFINED]:
        clauses.append(f"nothing can be tested at {listed(groups[UNDEFINED])}, where seeds collapsed or are too few")
    if not clauses:
        return ""
    verb = "is " if any(groups[word] for word in (*words, "equivalent")) else ""
    return (
        f"The {grid.column_axis} {column} {verb}{'; '.join(clauses)}."
        if verb
        else f"For {column}, {'; '.join(clauses)}."
    )


def _best(declaration: Declaration, grid: Grid) -> list[str]:
    """Return a sentence for each column that has the best mean somewhere; nothing is tested in it."""
    sign, extreme = declaration.metric.sign, "highest" if declaration.metric.direction == "max" else "lowest"
    found: dict[str, list[str]] = {}
    for row in grid.rows:
        settled = {c: grid.at[row, c] for c in grid.columns if (row, c) in grid.at and grid.at[row, c].is_settled}
        # A mean of success and collapse would describe no seed.
        steady = [column for column, entry in settled.items() if not entry.estimate.is_mixed]
        if steady:
            best = max(steady, key=lambda column: _mean(settled[column], sign))
            found.setdefault(best, []).append(f"{grid.phrase(row) or 'all'}, {entry_text(settled[best])}")
    if len(grid.columns) == 1:
        return [f"{column} at {'; '.join(places)}." for column, places in found.items()]
    # A name is verbatim and begins no sentence.
    return [f"The {grid.column_axis} {name} has the {extreme} mean at {'; '.join(at)}." for name, at in found.items()]


def _mean(entry: Entry, sign: int) -> float:
    """Return a mean, more of it better; one that there is not is the worst."""
    return -math.inf if entry.estimate.mean is None else sign * entry.estimate.mean


def _unfinished(declaration: Declaration, grid: Grid, commands: Commands) -> list[str]:
    waiting = [grid.place(row, column) for row, column in _places(grid) if grid.at[row, column].num_waiting > 0]
    if not waiting:
        return []
    verb = "is" if len(waiting) == 1 else "are"
    return [
        f"{len(waiting)} of {len(grid.at)} cells {verb} unfinished: {listed(waiting)}. "
        f"To go on, run: {declaration.command('sweep', commands)}"
    ]


def _failed(declaration: Declaration, cells: list[CellTrials]) -> list[str]:
    failed = [record for record in finished(cells) if record.state == "failed"]
    if not failed:
        return []
    reasons = Counter(record.reason or "error" for record in failed)
    kinds = listed([f"{reason.replace('_', ' ')}: {count}" for reason, count in sorted(reasons.items())])
    trials = "trial" if len(failed) == 1 else "trials"
    return [f"{len(failed)} {trials} failed ({kinds}): no number in the tables comes from them."]


def _diverged(declaration: Declaration, cells: list[CellTrials]) -> list[str]:
    diverged = [record for record in finished(cells) if record.state == "diverged"]
    if not diverged:
        return []
    confirm = sum(record.phase == "confirm" for record in diverged)
    text = f"{len(diverged)} of {len(finished(cells))} trials diverged, {confirm} of them while confirming."
    counted = f"counts as {declaration.metric.floor_name} ({floor_text(declaration)}) in its entry"
    if not declaration.floors:
        counted = "has no number, so its entry has no mean and no verdict"
    return [f"{text} A diverged seed {counted}." if confirm else text]


def _unequal_tuning(declaration: Declaration, grid: Grid) -> list[str]:
    found = []
    dimensions = {place: len(grid.at[place].trials.cell.tuned) for place in _places(grid)}
    fewer = sorted(
        {
            column
            for row, column in dimensions
            if (row, grid.baseline) in dimensions and dimensions[row, column] > dimensions[row, grid.baseline or ""]
        },
        key=grid.columns.index,
    )
    if fewer:
        found.append(
            f"The baseline {grid.baseline} has fewer tuned parameters than {listed(fewer)}, "
            f"with the same {declaration.num_tune} tune trials a {declaration.searched}."
        )
    allowed = {place: _max_epochs(grid.at[place].trials.cell, declaration.length) for place in dimensions}
    uneven = [row for row in grid.rows if len({n for (r, _), n in allowed.items() if r == row and n}) > 1]
    if uneven:
        numbers = sorted({n for (row, _), n in allowed.items() if row in uneven and n})
        found.append(
            f"Training was not equal: cells of one row allow a trial between {numbers[0]} and {numbers[-1]} "
            f"{declaration.length}."
        )
    finished = {place: _num_useful(grid, place) for place in dimensions if grid.at[place].is_settled}
    if len(set(finished.values())) > 1:
        low, high = min(finished.values()), max(finished.values())
        found.append(f"Tuning was not equal: cells have between {low} and {high} tune trials that did not fail.")
    return found


def _changed_code(cells: list[CellTrials]) -> list[str]:
    """Say that files of the user's training changed while its version stayed: numbers of both stand side by side."""
    codes = (record.provenance.get("code", "") for record in finished(cells))
    counts = Counter(code for code in codes if code)
    if len(counts) < 2:
        return []
    parts = listed([f"{count} trials of {code}" for code, count in counts.most_common()])
    return [f"The training's files changed under one version: {parts}."]


def _too_little_data(declaration: Declaration, cells: list[CellTrials]) -> list[str]:
    parts = declaration.parts if isinstance(declaration, Combined) else [declaration]
    found = [*dict.fromkeys(text for part in parts for text in part.notices), *tie_notices(cells), *twin_notices(cells)]
    return [redact(f"{text[0].upper()}{text[1:]}.") for text in found]


def _max_epochs(cell: DeclaredCell, length: str) -> int | None:
    """Return the most epochs that a trial of a cell can have; None where the declaration does not say."""
    parts = cell.space.get(length, [])
    values = [v for part in parts for v in (part.get("choices") or [part.get("high")])] or [cell.settings.get(length)]
    return max((value for value in values if isinstance(value, int)), default=None)


def _num_useful(grid: Grid, place: tuple[Levels, str]) -> int:
    counts = tune_counts(grid.at[place].trials)
    return counts["complete"] + counts["pruned"] + counts["diverged"]


def _places(grid: Grid, among: Container[tuple[Levels, str]] | None = None) -> list[tuple[Levels, str]]:
    chosen = grid.at if among is None else among
    return [(row, column) for row in grid.rows for column in grid.columns if (row, column) in chosen]
