"""Small mistakes in the engine, the statistics and the methods, each of which the tests must notice: `make mutants`.

Every line of MUTANTS is a change of one place in the package, and the tests that kill it. The script makes the change
in a copy of the project, runs those tests, and says which mutants survived.

    python tests/mutants.py [NAME ...]
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
IMAGES = "tasks/image_classification"
FAILED = re.compile(r"^(?:FAILED|ERROR) tests/(\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Mutant:
    """`old` stands once in the file below ablate/; `tests` are files below tests/, perhaps with ::NAME."""

    name: str
    file: str
    old: str
    new: str
    tests: str


MUTANTS = (
    # Methods.
    Mutant("ortho-sign", f"{IMAGES}/methods/regularizers.py",
           "torch.baddbmm(w, torch.bmm(w, w.mT), w, beta=-2, alpha=2)",
           "torch.baddbmm(w, torch.bmm(w, w.mT), w, beta=2, alpha=2)",
           "test_orthogonality.py::test_every_analytic_gradient_equals_autograd_for_all_shapes"),
    Mutant("ortho-factor", f"{IMAGES}/methods/regularizers.py",
           "torch.baddbmm(w, w, torch.bmm(w.mT, w), beta=-2, alpha=2)",
           "torch.baddbmm(w, w, torch.bmm(w.mT, w), beta=-1, alpha=1)",
           "test_orthogonality.py::test_every_analytic_gradient_equals_autograd_for_all_shapes"),
    Mutant("rho-inverted", f"{IMAGES}/methods/modulation_rule.py",
           "ratio = reference / r\n", "ratio = r / reference\n",
           "test_modulation.py::test_rho_is_the_root_of_upper_over_lower"),
    Mutant("window-shut", f"{IMAGES}/methods/modulation_base.py",
           "return start * num_steps <= step < end * num_steps",
           "return start * num_steps < step < end * num_steps",
           "test_training.py::test_modulation_acts_in_its_window_only"),
    Mutant("schedule-of-lambda", f"{IMAGES}/methods/regularizers.py",
           "return self.ortho_weight * self.schedule(moment.progress)", "return self.ortho_weight",
           "test_orthogonality.py::test_schedules_of_the_penalty"),
    Mutant("smoothing-of-labels", f"{IMAGES}/training/losses.py",
           'label_smoothing=config.number("label_smoothing")', "label_smoothing=0.0",
           "test_training.py::test_label_smoothing_is_its_formula_and_changes_the_training_loss_only"),
    # Training.
    Mutant("test-data-in-tuning", f"{IMAGES}/training/trainer.py",
           '**({"test": self.dataset.test} if is_confirmed else {})', '"test": self.dataset.test',
           "test_training.py::test_test_images_are_touched_in_the_confirm_phase_only"),
    Mutant("validation-is-test", f"{IMAGES}/training/trainer.py",
           "self.evaluate(self.dataset.val)", "self.evaluate(self.dataset.test)",
           "test_training.py::test_test_images_are_touched_in_the_confirm_phase_only"),
    Mutant("order-of-no-epoch", f"{IMAGES}/training/trainer.py",
           'derive_seed(self.seed, "order", epoch)', 'derive_seed(self.seed, "order", 0)',
           "test_training.py::test_every_epoch_has_an_order_of_its_own_that_the_seed_repeats"),
    Mutant("dropout-of-no-epoch", f"{IMAGES}/training/trainer.py",
           "derive_seed(self.seed, what, self.progress.epoch)", "derive_seed(self.seed, what, 0)",
           "test_own_nets.py::test_a_trial_that_goes_on_draws_the_same_numbers_and_every_epoch_draws_others"),
    Mutant("generators-not-put-back", f"{IMAGES}/training/randomness.py",
           "        torch.set_rng_state(torchs)\n", "",
           "test_own_nets.py::test_a_trial_leaves_the_generators_of_its_caller_as_they_were"),
    Mutant("own-init-overwritten", f"{IMAGES}/training/building.py",
           "if init is inits.own:", "if False:",
           "test_own_nets.py::test_gains_of_ones_own_model_stay_as_it_makes_them"),
    Mutant("hook-state-lost", f"{IMAGES}/training/hooks.py",
           "        self.modulation.load_state(state)\n", "        pass\n",
           "test_training.py::test_the_running_means_of_a_modulation_are_in_the_checkpoint"),
    # Running.
    Mutant("pruned-is-complete", "run/pack.py",
           'self._end(member, "pruned")', 'self._end(member, "complete")',
           "test_training.py::test_a_dropped_member_is_pruned_and_the_others_go_on"),
    Mutant("memory-is-an-error", "run/pack.py",
           'reason = "out_of_memory" if is_out_of_memory(cause) else "error"', 'reason = "error"',
           "test_training.py::test_running_out_of_memory_has_a_reason_of_its_own"),
    Mutant("audit-overwrites", "run/schedule.py",
           'if record.is_shared or proposal.phase != "audit":', "if True:",
           "test_beside_the_table.py::test_an_audit_that_failed_leaves_the_stopped_trial_as_it_was"),
    Mutant("unequal-budgets", "run/schedule.py",
           "return run.num_tuned == self.declaration.num_tune",
           "return run.num_tuned >= self.declaration.num_tune - 1",
           "test_schedule.py::test_the_last_trial_of_a_cell_can_be_the_one_that_is_confirmed"),
    Mutant("seeds-by-cell", "run/schedule.py",
           'seed = derive_seed(run.seed, "confirm", number)',
           'seed = derive_seed(run.seed, "confirm", run.cell.key, number)',
           "test_schedule.py::test_seeds_are_paired_across_cells_and_confirm_seeds_are_fresh"),
    Mutant("confirm-is-tuned", "run/schedule.py",
           'and proposal.phase == "tune"\n            and run', "and run",
           "test_schedule.py::test_a_confirm_trial_is_never_stopped_however_poor_it_is"),
    Mutant("proposal-not-written", "run/schedule.py",
           "        self.folder.append_proposal(proposal)\n", "",
           "test_schedule.py::test_every_cell_gets_the_same_trials_and_confirm_seeds"),
    # Search.
    Mutant("one-study-for-all", "search/cell_search.py",
           'derive_seed(self.seed, "sampler", self.cell.key, number)', 'derive_seed(self.seed, "sampler", 0)',
           "test_samplers.py::test_every_trial_of_every_cell_has_a_draw_of_its_own"),
    Mutant("points-by-cell", "search/cell_search.py",
           "shared_point(self.cell.space, self.seed, number, start)",
           "shared_point(self.cell.space, int(self.cell.key, 16), number, start)",
           "test_samplers.py::test_quasi_random_points_cover_the_range_more_evenly_than_chance"),
    Mutant("coordinate-by-position", "sweepfile/shared_points.py",
           'seed, "coordinate", name, choice', 'seed, "coordinate", names.index(name), choice',
           "test_samplers.py::test_a_parameter_keeps_its_values_when_another_one_is_added"),
    Mutant("point-comes-again", "search/cell_search.py",
           "if not self._num_tried[wanted]:", "if True:",
           "test_samplers.py::test_two_trials_of_two_choices_try_both"),
    Mutant("diverged-told-as-best", "metrics.py",
           'return self.low if self.direction == "max" else self.high',
           'return self.high if self.direction == "max" else self.low',
           "test_schedule.py::test_diverged_trials_are_results_and_count_as_accuracy_zero"),
    Mutant("tpe-never-acts", "store/declaration.py",
           '"auto": min(num_tune, max(MIN_SHARED, -(-2 * num_tune // 3)))', '"auto": num_tune',
           "test_samplers.py::test_the_last_third_of_auto_follows_the_results_and_the_rest_does_not"),
    # Studies.
    Mutant("study-not-in-the-seed", "seeds.py",
           'derive_seed(root, "study", study)', 'derive_seed(root, "study")',
           "test_studies.py::test_studies_differ_in_all_seeds_and_points_and_cells_share_the_seeds_study_by_study"),
    Mutant("paired-by-seed", "store/declaration.py",
           "return proposal.study if self.num_studies > 1 else proposal.seed",
           "return proposal.number if self.num_studies > 1 else proposal.seed",
           "test_studies.py::test_the_seeds_of_a_study_are_averaged"),
    Mutant("one-more-study-reruns-all", "sweepfile/cells.py",
           '"seed": spec.seed,', '"seed": [spec.seed, spec.budget.num_studies],',
           "test_studies.py::test_one_more_study_runs_only_its_own_trials"),
    # Ledger.
    Mutant("first-come-loses", "store/ledger.py",
           "if record.is_shared and path.exists() and self._read_file(path) is not None:", "if False:",
           "test_ledger.py::test_a_shared_record_is_never_written_again"),
    Mutant("stopped-elsewhere", "store/ledger.py",
           'if own is not None and own.state == "pruned":', "if False:",
           "test_ledger.py::test_a_trial_that_was_pruned_here_and_run_to_its_end_elsewhere_stays_pruned_here"),
    Mutant("nan-is-a-number", "store/ledger.py",
           "if value is None or not math.isfinite(value):", "if value is None:",
           "test_ledger.py::test_a_record_that_is_none_is_set_aside"),
    Mutant("data-not-in-the-key", "tasks/parameters.py",
           '"rows": rows, "data": data_digest}', '"rows": rows}', "test_written_by_0_1_0.py"),
    Mutant("default-in-the-key", "tasks/parameters.py",
           "if n not in core or value not in core[n].unwritten}", "}", "test_written_by_0_1_0.py"),
    # Statistics and table.
    Mutant("knob-that-does-nothing", "run/schedule.py",
           "if wrong := self.task.wrong_trial(record.unread):", "if wrong := \"\":",
           "test_own_sweep.py::test_a_parameter_that_is_never_read_stops_the_sweep_now_and_the_next_time"),
    Mutant("one-wall-hundreds-of-times", "run/schedule.py",
           "elif record.reason == \"error\" and not self._has_ended:", "elif False:",
           "test_own_sweep.py::test_an_error_of_all_first_trials_stops_the_sweep"),
    Mutant("steps-without-seeds", "tasks/own/trial.py",
           "seed_all(derive_seed(self.seed, \"step\", self._step))", "pass",
           "test_own_training.py::TestFunction::test_a_trial_that_goes_on_after_an_interruption_gives_the_same_numbers"),
    Mutant("code-of-another-time", "tasks/own/task.py",
           "if self.entry.get(\"digest\", \"\") not in (\"\", self.code_digest):", "if False:",
           "test_own_training.py::TestFunction::test_files_that_change_while_they_are_in_use_are_refused"),
    Mutant("test-data-in-curves", "run/pack.py",
           "if request.phase == \"confirm\" or not self._is_held_back(name)", "if True",
           "test_own_training.py::TestFunction::test_curves_on_test_data_are_dropped_while_tuning"),
    Mutant("mean-of-collapse", "report/inference.py",
           "mean = math.fsum(values) / n if n and not is_mixed else None",
           "mean = math.fsum(values) / n if n else None",
           "test_statistics.py::test_a_mix_of_success_and_collapse_has_neither_mean_nor_interval"),
    Mutant("no-holm", "report/inference.py", 'method="holm"', 'method="fdr_bh"',
           "test_statistics.py::test_holm_is_the_textbooks"),
    Mutant("one-sided", "report/inference.py", "else 2 * float(stdtr(", "else float(stdtr(",
           "test_statistics.py::test_the_paired_test_is_scipys"),
    Mutant("normal-interval", "report/inference.py",
           "return float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * sd", "return 1.96 * sd",
           "test_statistics.py::test_interval_is_the_t_interval_of_scipy"),
    Mutant("never-hollow", "report/verdicts.py",
           'doubts(declaration, entry, baseline) if word in ("better", "worse") else ()', "()",
           "test_studies.py::test_a_mark_that_a_rerun_may_change_is_hollow_and_never_bold"),
    Mutant("margin-from-the-wrong-side", "report/crossed.py",
           "left = d - abs(mean)", "left = d + abs(mean)",
           "test_studies.py::test_a_verdict_says_how_large_the_difference_can_be"),
    Mutant("items-ignored", "report/inference.py",
           "p = max(p, over.p(margin))", "p = min(p, over.p(margin))",
           "test_studies.py::test_equal_differences_of_all_studies_are_tested_over_items_too"),
    Mutant("items-ignored-in-equivalence", "report/inference.py",
           "else max(p, difference.crossed.equivalence_p(margin))",
           "else min(p, difference.crossed.equivalence_p(margin))",
           "test_studies.py::test_equal_differences_of_all_studies_are_tested_over_items_too"),
    Mutant("less-is-better", "report/verdicts.py",
           "_word(entry.metric.sign * (found.mean or 0.0)", "_word((found.mean or 0.0)",
           "test_metrics.py::test_the_winner_the_verdicts_and_the_answer_go_by_the_direction"),
    Mutant("winner-is-worst", "store/declaration.py",
           "sign = self.objective.sign", "sign = -self.objective.sign",
           "test_schedule.py::test_confirm_trials_repeat_the_validation_winner_of_their_cell"),
)  # fmt: skip


def applies(mutant: Mutant) -> bool:
    """Whether the place that it changes is there, once."""
    return (ROOT / "ablate" / mutant.file).read_text(encoding="utf-8").count(mutant.old) == 1


def killer(mutant: Mutant) -> str:
    """Run the mutant's tests on a copy with its change; return the first that fails, or "".

    A run that fails otherwise than by a test is an error.
    """
    with tempfile.TemporaryDirectory(prefix="ablate-mutant-") as name:
        copy = Path(name)
        for part in ("ablate", "tests", "docs", "search_spaces"):
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        for part in ("README.md", "cli.py", "pyproject.toml"):
            shutil.copy(ROOT / part, copy)
        file = copy / "ablate" / mutant.file
        file.write_text(file.read_text(encoding="utf-8").replace(mutant.old, mutant.new), encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not slow", "-p", "no:cacheprovider"]
        tests = [f"tests/{each}" for each in mutant.tests.split()]
        environment = {**os.environ, "PYTHONPATH": str(copy)}
        done = subprocess.run([*command, *tests], cwd=copy, env=environment, capture_output=True, text=True)
    failed = FAILED.search(done.stdout)
    if done.returncode not in (0, 1) or (done.returncode == 1) != (failed is not None):
        raise RuntimeError(f"the tests of {mutant.name} could not run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return failed[1] if failed else ""


def main(names: list[str]) -> int:
    """Say of each mutant whether it was killed; return how many survived."""
    chosen = [mutant for mutant in MUTANTS if not names or mutant.name in names]
    survived = []
    for mutant in chosen:
        started = time.monotonic()
        by = killer(mutant)
        if not by:
            survived.append(mutant.name)
        verdict = f"killed by {by}" if by else f"SURVIVED {mutant.tests}"
        print(f"{mutant.name}: {verdict} ({time.monotonic() - started:.0f} s)", flush=True)
    print(f"{len(chosen) - len(survived)} of {len(chosen)} mutants killed")
    return len(survived)


if __name__ == "__main__":
    sys.exit(min(1, main(sys.argv[1:])))
