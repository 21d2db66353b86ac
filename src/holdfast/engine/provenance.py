"""Where a run's numbers come from, and what they cost."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import torch

from holdfast.engine import memory

if TYPE_CHECKING:
    from holdfast.engine.preflight import Preflight
    from holdfast.runs import Run

PACKAGES = ("holdfast", "torch", "transformers", "accelerate", "peft", "safetensors", "numpy")


def provenance(
    run: Run, checked: Preflight, base_hash: str, device: torch.device
) -> dict[str, Any]:
    """What a run was made of, and what it took so far."""
    return {
        "base": checked.base.name,
        "base_hash": base_hash,
        "parameters": checked.found.count,
        "plan": checked.plan.name,
        "learning_rate": checked.train.learning_rate,
        "data": {s.label: s.format for s in checked.skills},
        "seed": run.config.seed,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "measured": measured(run, len(checked.skills), device),
    }


def measured(run: Run, stages: int, device: torch.device) -> dict[str, Any]:
    """Seconds and bytes so far, over all processes that worked on the run: what a dry run's
    estimates are to be compared with."""
    done = [run.stage_done(stage) or {} for stage in range(1, stages + 1)]
    training = sum(float(d.get("seconds", 0)) for d in done)
    asking = sum(float(r["seconds"]) for r in run.scores())
    before = run.facts().get("measured", {}).get("peak_memory_bytes", 0)
    return {
        "seconds": round(training + asking, 3),
        "seconds_training": round(training, 3),
        "seconds_asking": round(asking, 3),
        "peak_memory_bytes": max(before, memory.peak(device)),
        "peak_memory_of": memory.MEANING[device.type],
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
