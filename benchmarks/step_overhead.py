"""What a training step with the paper's two ingredients costs, against a step without and against each rival.

Every variant is a real trainer on the same images. The variants take turns, step by step, so that whatever else the
machine does falls on all of them; medians are compared. On the CPU the time is CPU time of this process, one thread.
Memory is the peak of live bytes that one step allocates, weights and optimizer left out: from torch's profiler on the
CPU, from the allocator on CUDA.

    python benchmarks/step_overhead.py [--rounds 15] [--cases plain-44/8x8 ...] [--rivals] [--device auto]

Targets: both ingredients at most 1.20 on 8x8 and 1.05 on 32x32, memory 1.05. The last line is JSON: `ratios` are those
of both ingredients, `rivals` those of each rival. By single steps all four cases take some three minutes on a CPU, with
rivals a quarter of an hour.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch

from ablate.tasks.image_classification.config import resolve
from ablate.tasks.image_classification.data.dataset import Dataset, Split
from ablate.tasks.image_classification.training.device import choose_device, prepare_process
from ablate.tasks.image_classification.training.trainer import Trainer

# Image size and channels, width, batch size, rounds as a share of --rounds.
SIZES = {"8x8": (8, 1, 8, 64, 1.0), "32x32": (32, 3, 16, 128, 0.34)}
CASES = [f"plain-{depth}/{size}" for size in SIZES for depth in (44, 110)]
PLAIN = "plain"
BOTH = "both"
VARIANTS = {
    PLAIN: {},
    "+regularizer": {"regularizer": "orthonormal"},
    "+modulation": {"modulation": "anchor"},
    BOTH: {"regularizer": "orthonormal", "modulation": "anchor"},
    "both, backward form": {"regularizer": "orthonormal", "modulation": "anchor", "modulation_form": "backward"},
}
RIVALS = {
    **{name: {"regularizer": name} for name in (
        "orthonormal_semi_implicit", "double_sided", "mutual_coherence", "srip", "ocnn", "diagonal", "off_diagonal",
        "norm_projection", "retraction",
    )},
    **{name: {"modulation": name} for name in ("layer_clip", "layer_normalize", "layer_profile")},
    "modulation, tolerance 4": {"modulation": "anchor", "modulation_tolerance": 4.0},
    "modulation, ema": {"modulation": "anchor", "modulation_ema": 0.9},
    **{name: {"optimizer": name, "lr": 1e-3} for name in ("adam", "lars", "novograd", "muon")},
}  # fmt: skip


def dataset(size: int, channels: int, batch: int) -> Dataset:
    generator = torch.Generator().manual_seed(0)

    def split(num: int) -> Split:
        images = torch.randint(0, 256, (num, channels, size, size), generator=generator, dtype=torch.uint8)
        return Split(images, torch.arange(num) % 10)

    half = torch.full((channels,), 0.5)
    return Dataset(
        name="noise", train=split(batch), val=split(10), test=split(10), num_classes=10, mean=half, std=half, digest=""
    )


def stepper(case: str, settings: dict, device: torch.device) -> Callable[[], None]:
    net, size_name = case.split("/")
    size, channels, width, batch, _ = SIZES[size_name]
    config = resolve(
        {
            "depth": int(net.removeprefix("plain-")), "width": width, "batch_size": batch, "lr": 1e-3, "epochs": 1000,
            "init": "orthonormal", **settings,
        }
    )  # fmt: skip
    trainer = Trainer(config, dataset(size, channels, batch), 0, device)
    images, labels = next(trainer.batches())
    trainer.net.train()

    def step() -> None:
        trainer.step(images.to(device), labels.to(device), 0)

    return step


def timed(step: Callable[[], None], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
        start = time.perf_counter()
        step()
        torch.cuda.synchronize()
        return time.perf_counter() - start
    start = time.process_time()
    step()
    return time.process_time() - start


def peak_bytes(step: Callable[[], None], device: torch.device) -> int:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def measure(case: str, variants: dict[str, dict], rounds: int, device: torch.device) -> dict[str, list[float]]:
    steppers = {name: stepper(case, settings, device) for name, settings in variants.items()}
    times: dict[str, list[float]] = {name: [] for name in variants}
    for index in range(max(3, round(rounds * SIZES[case.split("/")[1]][4])) + 2):
        for name, step in steppers.items():
            elapsed = timed(step, device)
            if index >= 2:
                times[name].append(elapsed)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="steps of each variant on 8x8; a third on 32x32")
    parser.add_argument("--cases", nargs="+", default=CASES, choices=CASES)
    parser.add_argument("--rivals", action="store_true", help="measure the rivals too, in the same cases")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    device = choose_device(arguments.device)
    prepare_process(device)
    variants = {**VARIANTS, **(RIVALS if arguments.rivals else {})}
    ratios, memory = {}, {}
    rivals: dict[str, dict[str, float]] = {}
    for case in arguments.cases:
        times = measure(case, variants, arguments.rounds, device)
        plain = statistics.median(times[PLAIN])
        print(f"\n{case}, {len(times[PLAIN])} rounds\n{'variant':28} {'median ms':>9} {'ratio':>6}  quartiles")
        for name, values in times.items():
            # Ratios within a round: what disturbs a round disturbs both.
            pairs = sorted(value / base for value, base in zip(values, times[PLAIN], strict=True))
            low, _, high = statistics.quantiles(pairs, n=4)
            median = statistics.median(values)
            print(f"{name:28} {1e3 * median:9.1f} {median / plain:6.3f}  {low:.3f} – {high:.3f}")
        found = {name: round(statistics.median(values) / plain, 3) for name, values in times.items()}
        ratios[case] = found[BOTH]
        rivals[case] = {name: ratio for name, ratio in found.items() if name in RIVALS}
        peaks = [peak_bytes(stepper(case, VARIANTS[name], device), device) for name in (PLAIN, BOTH)]
        memory[case] = peaks[1] / peaks[0]
        print(f"peak memory of a step: plain {peaks[0] / 2**20:.1f} MiB, both {peaks[1] / 2**20:.1f} MiB")
    memory_ratio = round(max(memory.values()), 3)
    print(json.dumps({"ratios": ratios, "memory_ratio": memory_ratio, "rivals": rivals, "device": device.type}))


if __name__ == "__main__":
    main()
