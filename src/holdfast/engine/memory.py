"""The peak of the memory that a run needs: of its process, and on a GPU of what it holds there."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")

MEANING = {
    "cpu": "resident memory of the process, Python and libraries with it",
    "cuda": "memory of tensors on the GPU",
}
"""What a peak is of, by the kind of device."""


def reset() -> None:
    """Begin a new peak. Where the system cannot (not Linux), it is that of the process's life."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        CLEAR.write_text("5")


def peak(device: torch.device) -> int:
    """Bytes at the highest since :func:`reset`, of what :data:`MEANING` says."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    with suppress(OSError):
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
