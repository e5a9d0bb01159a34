"""What became of a sweep's claims: supported, refuted or undecided."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from ablate.report.entries import Entry, entry
from ablate.report.inference import ALPHA, Estimate, PairedTest, holm, paired_difference, paired_test
from ablate.report.text import difference_text, p_text
from ablate.store.declaration import Declaration, DeclaredClaim


@dataclass(frozen=True, kw_only=True)
class ClaimResult:
    """A claim's verdict at the frozen number of seeds: `word` is supported, refuted or undecided.

    `reason` tells the numbers behind it. `extended` is the verdict with all seeds where later declarations added some.
    """

    claim: DeclaredClaim
    word: str
    reason: str
    extended: str = ""

    @property
    def marks(self) -> str:
        """What a reader must know of how the claim came about."""
        late = "exploratory: written or redesigned after the first trial"
        return late if self.claim.is_exploratory else "frozen before the first trial"


def claim_results(declaration: Declaration, entries: list[Entry]) -> list[ClaimResult]:
    """Return the present claims' verdicts, Holm-adjusted over all of them, in the file's order.

    A claim is supported if the paired t test puts the mean difference above its margin at 5%, refuted if below.
    It stays undecided while seeds of the frozen number are missing, and where seeds mix success and collapse.
    """
    present = [claim for claim in declaration.claims if not claim.is_withdrawn]
    frozen = [_measure(declaration, claim, entries, claim.num_seeds) for claim in present]
    declared = [declaration.seeds_of(claim.levels) for claim in present]
    extended = [
        _measure(declaration, claim, entries, num) if num > claim.num_seeds else None
        for claim, num in zip(present, declared, strict=True)
    ]
    words, later = _words(declaration, present, frozen), _words(declaration, present, extended)
    results = []
    for claim, measured, word, more, last in zip(present, frozen, words, extended, later, strict=True):
        text = ""
        if more is not None:
            text = f"extended ({len(claim.looks)} looks): {last[0]}, {_reason(declaration, more, last[1])}"
        results.append(
            ClaimResult(claim=claim, word=word[0], reason=_reason(declaration, measured, word[1]), extended=text)
        )
    return results


def claims_text(results: list[ClaimResult]) -> list[list[str]]:
    """Return the claims as a table, the header first."""
    rows = [
        [each.claim.text, each.word, "; ".join(part for part in (each.reason, each.extended) if part), each.marks,
         each.claim.hash]
        for each in results
    ]  # fmt: skip
    return [["claim", "verdict", "measured", "written", "hash"], *rows]


def claims_footer(declaration: Declaration) -> str:
    """Return how many claims there were and how often the sweep was declared; empty without claims."""
    if not declaration.claims:
        return ""
    num_withdrawn = sum(claim.is_withdrawn for claim in declaration.claims)
    num_exploratory = sum(claim.is_exploratory and not claim.is_withdrawn for claim in declaration.claims)
    number = max(1, len(declaration.history))
    return (
        f"{len(declaration.claims) - num_withdrawn} claims, {num_exploratory} of them exploratory, {num_withdrawn} "
        f"withdrawn; the sweep was declared {number} {'time' if number == 1 else 'times'}"
    )


@dataclass(frozen=True)
class _Measured:
    difference: Estimate | None
    test: PairedTest | None
    problem: str


def _measure(declaration: Declaration, claim: DeclaredClaim, entries: list[Entry], num_seeds: int) -> _Measured:
    found = [_side(declaration, claim, entries, level, num_seeds) for level in (claim.better, claim.worse)]
    sides = [side for side in found if side is not None]
    num_paired = len(_ended(sides[0]) & _ended(sides[1])) if len(sides) == 2 else 0
    if num_paired < num_seeds:
        return _Measured(None, None, f"{num_paired} of {num_seeds} paired seeds are finished")
    if num_seeds < 2:
        return _Measured(None, None, "one seed proves nothing: confirm.seeds must be at least 2")
    if any(not side.estimate.has_all_values for side in sides):
        return _Measured(None, None, "seeds diverged, which have no number")
    is_mixed = any(side.estimate.is_mixed for side in sides)
    difference = paired_difference(sides[0].by_seed, sides[1].by_seed, declaration.metric, is_mixed=is_mixed)
    if is_mixed:
        return _Measured(difference, None, "seeds mix success and collapse")
    gains = [declaration.metric.sign * value for value in difference.values]
    return _Measured(difference, paired_test(gains, claim.margin), "")


def _ended(side: Entry) -> set[int]:
    """Return the confirm seeds that came to a result."""
    return {record.seed for _, record in side.trials.confirm if record is not None and record.is_shared}


def _side(
    declaration: Declaration, claim: DeclaredClaim, entries: list[Entry], level: str, num_seeds: int
) -> Entry | None:
    """Return the entry of one side as its first replicates make it: these are the frozen ones."""
    levels = {**claim.levels, claim.axis: level}
    whole = next((each for each in entries if each.levels == levels), None)
    if whole is None:
        return None
    first = [pair for pair in whole.trials.confirm if pair[0].number < num_seeds]
    return entry(declaration, dataclasses.replace(whole.trials, confirm=first, extra=[]))


def _words(
    declaration: Declaration, claims: list[DeclaredClaim], found: Sequence[_Measured | None]
) -> list[tuple[str, float | None]]:
    """Return each claim's word and adjusted p."""
    tested = [index for index, each in enumerate(found) if each is not None and each.test is not None]
    # A claim that cannot be tested yet counts as a test all the same: the correction must not grow later.
    p_values = [each.test.p if each is not None and each.test is not None else 1.0 for each in found]
    adjusted = holm(p_values)
    words: list[tuple[str, float | None]] = []
    for index, (claim, each) in enumerate(zip(claims, found, strict=True)):
        if index not in tested or each is None or each.difference is None or each.difference.mean is None:
            words.append(("undecided", None))
        elif not adjusted[index] <= ALPHA:
            words.append(("undecided", adjusted[index]))
        else:
            is_met = declaration.metric.sign * each.difference.mean > claim.margin
            words.append(("supported" if is_met else "refuted", adjusted[index]))
    return words


def _reason(declaration: Declaration, found: _Measured, p: float | None) -> str:
    if found.problem:
        return found.problem
    num_seeds = found.difference.n if found.difference else 0
    tested = f"{p_text(p)} after Holm" if p is not None else "not tested"
    return f"difference {difference_text(found.difference, declaration.metric)} over {num_seeds} seeds, {tested}"
