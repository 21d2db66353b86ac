"""What exactly a run changed: the tensors of its model, by name and shape."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path

from holdfast.errors import ModelError
from holdfast.models.source import DELTA
from holdfast.report.tables import Grid

TENSORS = "delta.safetensors"


def trained_table(model: Path) -> Grid | None:
    """The changed tensors of a model folder, blocks under each other taken together; None where
    the folder holds no delta that can be read."""
    from safetensors import SafetensorError, safe_open

    if not (model / DELTA).exists():
        return None
    try:
        with safe_open(model / TENSORS, "np") as held:
            shapes = {name: tuple(held.get_slice(name).get_shape()) for name in held.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ModelError):
        return None
    return tensors_table(shapes.items())


def tensors_table(tensors: Iterable[tuple[str, tuple[int, ...]]]) -> Grid:
    """One line for each name and shape, whatever its block's number."""
    groups: dict[tuple[str, tuple[int, ...]], list[tuple[int, ...]]] = {}
    for name, shape in tensors:
        numbers = tuple(int(n) for n in re.findall(r"(?<=\.)\d+(?=\.)", name))
        pattern = re.sub(r"(?<=\.)\d+(?=\.)", "*", name)
        groups.setdefault((pattern, shape), []).append(numbers)
    rows = tuple(
        (
            pattern,
            _blocks(found),
            " x ".join(map(str, shape)) or "1",
            f"{len(found):,}",
            f"{len(found) * math.prod(shape):,}",
        )
        for (pattern, shape), found in groups.items()
    )
    total = sum(int(row[-1].replace(",", "")) for row in rows)
    count = sum(int(row[-2].replace(",", "")) for row in rows)
    rows += (("all", "", "", f"{count:,}", f"{total:,}"),) if len(rows) > 1 else ()
    header = ("weight", "blocks", "shape", "tensors", "numbers")
    return Grid("Weights that differ from the base", header, rows, words=(0, 1))


def _blocks(found: list[tuple[int, ...]]) -> str:
    """``0-3, 7``: the first number in each name."""
    numbers = sorted({n[0] for n in found if n})
    parts: list[list[int]] = []
    for n in numbers:
        if parts and parts[-1][1] == n - 1:
            parts[-1][1] = n
        else:
            parts.append([n, n])
    return ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in parts)
