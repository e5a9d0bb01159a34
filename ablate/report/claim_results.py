"""What became of a sweep's claims: supported, refuted or undecided."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from ablate.report.entries import Entry, compared, entry
from ablate.report.inference import ALPHA, Estimate, equivalence_p, holm, paired_test
from ablate.report.text import difference_text, p_text
from ablate.store.declaration import MIN_EQUIVALENCE, Declaration, DeclaredClaim


@dataclass(frozen=True, kw_only=True)
class ClaimResult:
    """A claim's verdict at the frozen number of replicates: `word` is supported, refuted or undecided.

    `reason` tells the numbers behind it. `extended` is the verdict with all replicates where later declarations added
    some.
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

    A claim is supported if the paired t test puts the mean difference above its margin at 5%, refuted if below; one of
    equality is supported if the test of equivalence puts it within the margin, refuted if the paired t test puts it
    beyond. It stays undecided while replicates of the frozen number are missing, and where seeds mix success and
    collapse.
    """
    present = [claim for claim in declaration.claims if not claim.is_withdrawn]
    frozen = [_measure(declaration, claim, entries, claim.num_replicates) for claim in present]
    declared = [declaration.of(claim.levels).num_replicates for claim in present]
    extended = [
        _measure(declaration, claim, entries, num) if num > claim.num_replicates else None
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
    num = len(declaration.claims) - num_withdrawn
    return (
        f"{num} claim{'s' * (num != 1)}, {num_exploratory} of them exploratory, {num_withdrawn} "
        f"withdrawn; the sweep was declared {number} {'time' if number == 1 else 'times'}"
    )


@dataclass(frozen=True)
class _Measured:
    difference: Estimate | None
    p: float | None
    problem: str


def _measure(declaration: Declaration, claim: DeclaredClaim, entries: list[Entry], num: int) -> _Measured:
    found = [_side(declaration, claim, entries, level, num) for level in (claim.better, claim.worse)]
    sides = [side for side in found if side is not None]
    num_paired = len(sides[0].ended & sides[1].ended) if len(sides) == 2 else 0
    replicates = declaration.of(claim.levels).replicates
    if num_paired < num:
        return _Measured(None, None, f"{num_paired} of {num} paired {replicates(num)} are finished")
    if num < 2:
        return _Measured(None, None, "one seed proves nothing: confirm.seeds must be at least 2")
    if any(not side.estimate.has_all_values for side in sides):
        return _Measured(None, None, "seeds diverged, which have no number")
    difference = compared(*sides)
    if difference.is_mixed:
        return _Measured(difference, None, "seeds mix success and collapse")
    sign = declaration.metric.sign
    if claim.kind == "beats":
        return _Measured(difference, _gain_p(difference, sign, claim.margin), "")
    p = equivalence_p(difference, claim.margin)
    if p is None:
        return _Measured(difference, None, f"equality needs at least {MIN_EQUIVALENCE} {replicates(MIN_EQUIVALENCE)}")
    is_beyond = difference.mean is not None and abs(difference.mean) >= claim.margin
    return _Measured(difference, _gain_p(difference, _side_of(difference), claim.margin) if is_beyond else p, "")


def _gain_p(difference: Estimate, sign: int, margin: float) -> float | None:
    """Return the two-sided p of the differences, with this sign, against a margin."""
    test = paired_test(difference.values, sign * margin, difference.crossed)
    return None if test is None else test.p


def _side_of(difference: Estimate) -> int:
    return 1 if (difference.mean or 0.0) > 0 else -1


def _side(declaration: Declaration, claim: DeclaredClaim, entries: list[Entry], level: str, num: int) -> Entry | None:
    """Return the entry of one side as its first replicates make it: these are the frozen ones."""
    levels = {**claim.levels, claim.axis: level}
    whole = next((each for each in entries if each.levels == levels), None)
    if whole is None:
        return None
    by_study = declaration.of(levels).num_studies > 1
    first = [(p, r) for p, r in whole.trials.confirm if (p.study if by_study else p.number) < num]
    return entry(declaration, dataclasses.replace(whole.trials, confirm=first, extra=[]))


def _words(
    declaration: Declaration, claims: list[DeclaredClaim], found: Sequence[_Measured | None]
) -> list[tuple[str, float | None]]:
    """Return each claim's word and adjusted p."""
    tested = [index for index, each in enumerate(found) if each is not None and each.p is not None]
    # A claim that cannot be tested yet counts as a test all the same: the correction must not grow later.
    p_values = [each.p if each is not None and each.p is not None else 1.0 for each in found]
    adjusted = holm(p_values)
    words: list[tuple[str, float | None]] = []
    for index, (claim, each) in enumerate(zip(claims, found, strict=True)):
        if index not in tested or each is None or each.difference is None or each.difference.mean is None:
            words.append(("undecided", None))
        elif not adjusted[index] <= ALPHA:
            words.append(("undecided", adjusted[index]))
        else:
            gain = declaration.metric.sign * each.difference.mean
            is_met = gain > claim.margin if claim.kind == "beats" else abs(gain) < claim.margin
            words.append(("supported" if is_met else "refuted", adjusted[index]))
    return words


def _reason(declaration: Declaration, found: _Measured, p: float | None) -> str:
    if found.problem:
        return found.problem
    num = found.difference.n if found.difference else 0
    tested = f"{p_text(p)} after Holm" if p is not None else "not tested"
    difference = difference_text(found.difference, declaration.metric)
    return f"difference {difference} over {num} {declaration.replicates(num)}, {tested}"
