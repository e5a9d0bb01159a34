"""Measures how often the report's intervals cover a known truth, and how often a table without effects shows a mark.

    python benchmarks/coverage.py

The last line is JSON: {"coverage": {truth: {n: share}}, "false_marks": {n: share}}. Takes about two minutes.
"""

import gc
import json

import numpy as np

from ablate.metrics import Metric
from ablate.report.inference import ALPHA, MIN_BOOTSTRAP, estimate, holm, paired_test

ACCURACY = Metric(name="test_accuracy", unit="percent", low=0.0, high=1.0, floor=0.1, floor_name="chance")
NUM_SAMPLES = 20_000
NUM_BOOTSTRAP_SAMPLES = 1_000
NUM_TABLES = 4_000
SEEDS = (3, 5, 10, 20)
# Values far from the ends of [0, 1], so that clipping plays no part. "mixture": nine seeds of ten do well.
TRUTHS = {
    "gaussian": (0.7, lambda rng, shape: rng.normal(0.7, 0.01, shape)),
    "skewed (exponential)": (0.69, lambda rng, shape: 0.7 - rng.exponential(0.01, shape)),
    "bimodal (half and half)": (
        0.65, lambda rng, shape: 0.7 - 0.1 * (rng.random(shape) < 0.5) + rng.normal(0, 0.005, shape)
    ),
    "bimodal (one in ten low)": (
        0.69, lambda rng, shape: 0.7 - 0.1 * (rng.random(shape) < 0.1) + rng.normal(0, 0.005, shape)
    ),
}  # fmt: skip


def coverage(truth, draw, n):
    num_samples = NUM_BOOTSTRAP_SAMPLES if n >= MIN_BOOTSTRAP else NUM_SAMPLES
    samples = draw(np.random.default_rng(n), (num_samples, n))
    found = [estimate(row, 0, ACCURACY) for row in samples.tolist()]
    return float(np.mean([each.low <= truth <= each.high for each in found]))


def false_marks(n, num_rows=4, num_arms=3):
    """Share of tables with a mark although all arms are equal: Gaussian seeds that share half of their variance."""
    rng = np.random.default_rng(n)
    marked = 0
    for _ in range(NUM_TABLES):
        seeds = rng.normal(0, 0.01, (num_rows, 1, n))
        values = 0.7 + seeds + rng.normal(0, 0.01, (num_rows, num_arms + 1, n))
        differences = (values[:, 1:] - values[:, :1]).reshape(-1, n)
        marked += min(holm([paired_test(row).p for row in differences.tolist()])) <= ALPHA
    return marked / NUM_TABLES


def main():
    # statsmodels collects garbage in every call, which takes 60 ms in a process of this size.
    gc.collect = lambda *_: 0
    found = {"coverage": {}, "false_marks": {}}
    for name, (truth, draw) in TRUTHS.items():
        found["coverage"][name] = {n: coverage(truth, draw, n) for n in SEEDS}
        print(name, found["coverage"][name], flush=True)
    found["false_marks"] = {n: false_marks(n) for n in SEEDS[:3]}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
