"""Claims: how they are read, frozen, and judged."""

from __future__ import annotations

import dataclasses

import pytest
from synthetic import BASE, GAIN, Synthetic, declared_claim

from ablate.errors import SpecError
from ablate.report.claim_results import claim_results, claims_footer
from ablate.report.entries import entries
from ablate.run.plan import make_plan
from ablate.store.declaration import Proposal, SweepFolder, collect
from ablate.store.ledger import Ledger
from ablate.sweepfile.spec import load_spec

FILE = """
name: claimed
fixed: {width: 4, epochs: 1}
axes: {depth: [8, 14], arm: {plain: {shortcut: none}, residual: {shortcut: identity}}}
tune: {lr: {low: 0.01, high: 1, log: true}}
budget: {trials_per_cell: 2}
confirm: {seeds: 3}
claims:
  - residual beats plain by at least 5 points at depth 14
"""
CLAIM = "residual beats plain by at least 5 points at depth 14"


def plan(tmp_path, text=FILE, *overrides):
    (tmp_path / "claimed.yaml").write_text(text)
    return make_plan(tmp_path / "claimed.yaml", None, overrides, tmp_path / "runs")


def propose(made, out=None):
    cell = made.declaration.cells[0].key
    folder = made.folder if out is None else SweepFolder(made.out, out)
    folder.append_proposal(Proposal(cell=cell, phase="tune", number=0, key="k", seed=0, settings={}))


def test_a_sentence_becomes_a_claim(tmp_path):
    (claim,) = plan(tmp_path).declaration.claims
    assert (claim.better, claim.worse, claim.margin, claim.levels) == ("residual", "plain", 0.05, {"depth": "14"})
    assert (claim.num_seeds, claim.looks, claim.is_exploratory, len(claim.hash)) == (3, [3], False, 12)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("residual wins", r"claimed.yaml:9:5: a claim must read 'A beats B \[by at least 5 points\] at depth (8|14)'"),
        ("residul beats plain at depth 14", "no level 'residul' of arm. Did you mean 'residual'"),
        ("plain beats plain at depth 14", "must compare two levels of arm, but got 'plain' twice"),
        ("residual beats plain at depth 20", "no level '20' of depth. Available: 14, 8"),
        ("residual beats plain at dept 14", "no axis 'dept' that a row fixes. Did you mean 'depth'"),
        ("residual beats plain", "a claim must name one row: the level of depth is missing"),
    ],
)
def test_a_claim_that_cannot_be_tested_is_a_mistake_in_the_file(tmp_path, text, message):
    (tmp_path / "claimed.yaml").write_text(FILE.replace(CLAIM, text))
    with pytest.raises(SpecError, match=message):
        load_spec(tmp_path / "claimed.yaml")


def test_a_claim_is_frozen_by_the_first_declaration_and_later_seeds_are_looks(tmp_path):
    first = plan(tmp_path)
    first.declare()
    propose(first)
    later = plan(tmp_path, FILE, "confirm.seeds=5")
    (claim,) = later.declaration.claims
    assert claim == dataclasses.replace(first.declaration.claims[0], looks=[3, 5])
    later.declare()
    assert plan(tmp_path, FILE, "confirm.seeds=5").declaration.claims[0].looks == [3, 5]
    assert later.folder.read_declaration() == later.declaration


@pytest.mark.parametrize("where", [None, "another"])
def test_a_claim_written_after_a_trial_is_exploratory(tmp_path, where):
    before = plan(tmp_path, FILE.partition("claims:")[0])
    before.declare()
    if where:
        SweepFolder(before.out, where).write_declaration(before.declaration, "")
    propose(before, where)
    assert plan(tmp_path).declaration.claims[0].is_exploratory


def test_a_changed_design_makes_a_frozen_claim_exploratory_and_keeps_the_old_one_in_sight(tmp_path):
    first = plan(tmp_path)
    first.declare()
    propose(first)
    changed = plan(tmp_path, FILE, "budget.trials_per_cell=9").declaration
    assert [(claim.is_exploratory, claim.is_withdrawn) for claim in changed.claims] == [(True, False), (False, True)]
    assert claims_footer(changed) == "1 claim, 1 of them exploratory, 1 withdrawn; the sweep was declared 2 times"


def judge(tmp_path, *claims, **options):
    synthetic = Synthetic(tmp_path, **options)
    synthetic.write()
    folder = SweepFolder(tmp_path, synthetic.sweep)
    declaration = dataclasses.replace(folder.read_declaration(), claims=list(claims))
    cells = collect(declaration, folder.read_proposals(), Ledger(tmp_path))
    return claim_results(declaration, entries(declaration, cells))


@pytest.mark.parametrize(
    ("margin", "word"), [(0.05, "supported"), (0.0, "supported"), (0.101, "undecided"), (0.15, "refuted")]
)
def test_a_claim_is_judged_against_its_margin(tmp_path, margin, word):
    (result,) = judge(tmp_path, declared_claim(margin=margin), confirm=GAIN | BASE)
    assert result.word == word
    assert result.reason.startswith("difference +10.1 [+9.9, +10.3] over 3 seeds, p")


def test_claims_are_adjusted_for_each_other(tmp_path):
    # 0.00, 0.01, 0.02 above a margin of 0.05: p = 0.0099 alone.
    confirm = BASE | {("plain+ortho", "56", seed): 0.9 + 0.01 * seed for seed in range(3)}
    lone = judge(tmp_path / "a", declared_claim(), confirm=confirm)
    others = [
        declared_claim(f"residual beats plain at depth 20 {index}", levels={"depth": "none"}) for index in range(9)
    ]
    many = judge(tmp_path / "b", declared_claim(), *others, confirm=confirm)
    assert (lone[0].word, many[0].word) == ("supported", "undecided")
    assert many[1].reason == "0 of 3 paired seeds are finished"


def test_a_claim_waits_for_its_frozen_seeds_and_does_not_use_later_ones(tmp_path):
    missing = GAIN | BASE | {("plain", "56", 1): "waiting"}
    (result,) = judge(tmp_path / "a", declared_claim(), confirm=missing)
    assert (result.word, result.reason) == ("undecided", "2 of 3 paired seeds are finished")
    later = GAIN | BASE | {("plain+ortho", "56", seed): 0.5 for seed in (3, 4)} | {
        ("plain", "56", seed): 0.9 for seed in (3, 4)
    }  # fmt: skip
    (result,) = judge(tmp_path / "b", declared_claim(looks=[3, 5]), confirm=later, num_seeds=5)
    assert result.word == "supported"
    assert result.extended.startswith("extended (2 looks): undecided, difference")


def test_a_mix_of_success_and_collapse_decides_nothing(tmp_path):
    (result,) = judge(tmp_path, declared_claim(), confirm=GAIN | BASE | {("plain", "56", 1): "diverged"})
    assert (result.word, result.reason) == ("undecided", "seeds mix success and collapse")
