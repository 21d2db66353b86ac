"""The peak of the memory that a run needs: of its process, and on a GPU of what it holds there."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

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


SPARE = 0.9
"""Share of the free memory that a stage is planned to take."""
_KEPT = 34
"""Numbers that autograd keeps of a token in a block, in units of the block's width
(Korthikanti et al. 2022, arXiv 2205.05198, eq. 1, without the attention scores)."""


def free(device: torch.device) -> int | None:
    """Bytes that can still be taken, or None if the system does not say."""
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + held)
    with suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def is_short(config: Any, trained: int, tokens: int, device: torch.device, *, half: bool) -> bool:
    """Whether a stage would not fit unless activations are computed twice.

    Args:
        config: of the model, which is in memory already.
        trained: weights that train; each takes a gradient, two moments and, in 16-bit
            arithmetic, a copy in 32 bits.
        tokens: of the largest forward pass.
        half: whether the arithmetic is in 16 bits.
    """
    room = free(device)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    try:
        width, blocks = int(text.hidden_size), int(text.num_hidden_layers)
    except (AttributeError, TypeError):
        return False
    states = trained * (16 if half else 12)
    activations = _KEPT * width * blocks * tokens * (1 if half else 2)
    return room is not None and states + activations > SPARE * room
