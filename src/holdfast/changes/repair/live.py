"""One model in memory that turns from one candidate into the next."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from holdfast.changes.repair.blend import BASE, Blend
from holdfast.changes.repair.ends import Ends
from holdfast.errors import ModelError
from holdfast.models.loading import Loaded, default_dtype, load_all, pick_device
from holdfast.models.saving import read_delta, save_delta
from holdfast.models.source import DELTA, fetch, resolve

if TYPE_CHECKING:
    from collections.abc import Mapping


class Live:
    """The base, loaded once; a candidate is made by replacing the tensors that differ.

    Tensors are read from the files when they are needed, so that beside the model no more than
    one tensor of each end is in memory.
    """

    def __init__(self, ends: Ends, loaded: Loaded) -> None:
        self.ends, self.loaded = ends, loaded
        self.model: Any = loaded.model
        self.at: Blend = BASE
        self._parameters: Mapping[str, nn.Parameter] = dict(loaded.model.named_parameters())
        missing = [name for name in ends.changed if name not in self._parameters]
        if missing:
            raise ModelError(
                f"'{missing[0]}' is in the files and not in the model that they make "
                f"({type(loaded.model).__name__}); it cannot be rolled back."
            )
        self.model.requires_grad_(False)

    @property
    def device(self) -> torch.device:
        return next(iter(self._parameters.values())).device

    def parameter(self, name: str) -> nn.Parameter:
        return self._parameters[name]

    @torch.no_grad()
    def become(self, blend: Blend) -> int:
        """Turn the model into ``blend``; gives how many tensors had to be replaced."""
        moved = 0
        for name in self.ends.changed:
            parts, parameter = self.ends.parts(name), self._parameters[name]
            if blend.of(parts) == self.at.of(parts):
                continue
            base, tuned = self.ends.read(name)
            parameter.copy_(blend.value(base, tuned, parts, parameter.dtype))
            moved += 1
        self.at = blend
        return moved

    def save(self, folder: Path, facts: Mapping[str, Any]) -> None:
        """Write the model as it is now, as a delta that :func:`holdfast.load` reads."""
        ends = self.ends
        moved = {n for n in ends.changed if any(self.at.of(ends.parts(n)))}
        save_delta(
            folder,
            self.model,
            moved | ends.carried,
            base=ends.root_name,
            base_folder=ends.root,
            base_hash=self.loaded.hash,
            facts=facts,
        )


def go_live(ends: Ends, base: str, tuned: str, device: str | torch.device | None = None) -> Live:
    """Load the base in a dtype that holds what both models are asked in."""
    place = pick_device(device)
    dtypes = [_dtype(name, place) for name in (base, tuned)]
    return Live(ends, load_all(base, device=place, dtype=torch.promote_types(dtypes[0], dtypes[1])))


def _dtype(name: str, device: torch.device) -> torch.dtype:
    folder = fetch(resolve(name))
    if (folder / DELTA).exists():
        said: torch.dtype = getattr(torch, str(read_delta(folder)["base_dtype"]))
        return said
    return default_dtype(folder, device)
