"""The device that trials run on, and the process-wide switches that make them repeatable."""

from __future__ import annotations

import torch

from ablate.errors import UsageError

DEVICES = ("auto", "cpu", "cuda", "mps")


def choose_device(name: str) -> torch.device:
    """Return the torch device; "auto" takes cuda, else mps, else cpu.

    Raises:
        UsageError: The device is not there.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(device for device in ("cuda", "mps", "cpu") if available[device])
    if not available.get(name, False):
        there = ", ".join(device for device, is_there in available.items() if is_there)
        raise UsageError(f"there is no device '{name}' on this machine. Available: {there}")
    return torch.device(name)


def num_gpus() -> int:
    """Return the number of CUDA devices of this machine."""
    return torch.cuda.device_count()


def prepare_process(device: torch.device) -> None:
    """Set one CPU thread a trial and full float32 precision: the same numbers in every process of one machine."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(False)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False


def device_name(device: torch.device) -> str:
    """Return the class of device, for example "cpu" or "cuda: NVIDIA A100"."""
    return f"cuda: {torch.cuda.get_device_name(device)}" if device.type == "cuda" else device.type
