"""Choosing the device, and describing the machine that a run was made on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import torch

from offbench import __version__
from offbench.errors import SpecError

_PACKAGES = ("torch", "numpy", "gymnasium", "mujoco", "pandas", "safetensors", "minari")


def select_device(name: str = "auto") -> torch.device:
    """The device for a name: "auto" (CUDA, else Apple's MPS, else the CPU), "cpu", "cuda", "cuda:1", "mps".

    Raises:
        SpecError: no such device here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", 0)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SpecError(f"unknown device {name!r}", "", "use auto, cpu, cuda, cuda:N or mps") from error
    if device.type == "cuda":
        if not torch.cuda.is_available():
            why = "this PyTorch was built without CUDA" if torch.version.cuda is None else "no GPU was found"
            raise SpecError(f"device {name!r} is not available", why, "use --device cpu, or auto")
        if (device.index or 0) >= torch.cuda.device_count():
            raise SpecError(f"device {name!r} does not exist", f"{torch.cuda.device_count()} GPUs were found")
        return torch.device("cuda", device.index or 0)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise SpecError("device 'mps' is not available", "it needs a Mac with an Apple GPU", "use --device cpu")
    if device.type not in ("cpu", "mps"):
        raise SpecError(f"device {name!r} is not supported", "", "use auto, cpu, cuda, cuda:N or mps")
    return device


def describe_machine(device: torch.device, matmul: str) -> dict[str, Any]:
    """What environment.json records: versions, platform, processor, device, threads, matmul setting."""
    packages = {}
    for package in _PACKAGES:
        try:
            packages[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            packages[package] = "not installed"
    return {
        "offbench": __version__,
        "python": platform.python_version(),
        "packages": packages,
        "platform": platform.platform(),
        "processor": _processor(),
        "processors": os.cpu_count(),
        "host": platform.node(),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "matmul": matmul,
    }


def _processor() -> str:
    """The processor's model name; Linux keeps it in /proc/cpuinfo."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
