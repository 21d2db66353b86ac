"""The two ends of a repair: every weight of the base and of the tuned model, read one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from holdfast.anatomy.parts import Part
from holdfast.errors import ModelError, UsageError
from holdfast.models.saving import TENSORS, find_base, read_delta
from holdfast.models.source import DELTA, fetch, fingerprint, resolve
from holdfast.probes._streams import PairOfWeights, paired


@dataclass(frozen=True)
class Ends:
    """Both models' weights. No more than a tensor of each is in memory at one time."""

    pair: PairOfWeights
    keys: Mapping[str, str]
    """For each parameter, the key that the base's files have it under."""
    changed: tuple[str, ...]
    """Parameters that differ, in the order of the base's files."""
    root: Path
    """The full model that a delta of the result is over: the base, or what the base is over."""
    root_name: str
    carried: frozenset[str]
    """Parameters in which the base itself, being a delta, differs from the root."""

    def read(self, name: str) -> tuple[Tensor, Tensor]:
        """A parameter of the base and of the tuned model, as they are stored."""
        key = self.keys[name]
        return self.pair.base.read[key](), self.pair.tuned.read[self.pair.tuned_key[key]]()

    def parts(self, name: str) -> tuple[Part, ...]:
        """A parameter's roles; more than one where several are fused in it."""
        return self.pair.parts.get(name, ())

    @property
    def changed_parts(self) -> tuple[Part, ...]:
        return tuple(p for name in self.changed for p in self.parts(name))


def open_ends(base: str, tuned: str, stack: ExitStack, *, alike: bool = False) -> Ends:
    """Find both models and which of their weights differ.

    Args:
        stack: closes the files.
        alike: take models that do not differ.

    Raises:
        ModelError: one of them cannot be used, or they have not the same weights.
        UsageError: they do not differ.
    """
    for name in (base, tuned):
        _refuse_structure(name)
    root_name, root, carried = _root(base)
    pair = paired(base, tuned, stack)
    if _in_pieces(pair):
        pair = paired(_in_memory(base), _in_memory(tuned), stack)
    _same_names(pair, base, tuned)
    changed = tuple(name for name, one, two in pair if not same_bits(one, two))
    if not changed and not alike:
        raise UsageError(f"'{tuned}' has the same weights as '{base}': there is nothing to repair.")
    keys = {parameter: key for key, parameter in pair.base.parameter.items()}
    return Ends(pair, keys, changed, root, root_name, carried)


def same_bits(one: Tensor, two: Tensor) -> bool:
    """Whether two tensors hold the same values, 0.0 and -0.0 being two of them."""
    wide = torch.promote_types(one.dtype, two.dtype)
    first, second = (t.to(wide).contiguous().reshape(-1) for t in (one, two))
    return torch.equal(first.view(torch.uint8), second.view(torch.uint8))


def _refuse_structure(name: str) -> None:
    folder = fetch(resolve(name))
    if not (folder / DELTA).exists():
        return
    structure = read_delta(folder)["structure"]
    if structure:
        raise ModelError(
            f"'{name}' has modules that its base lacks ({structure['kind']}): they have no value "
            "to go back to. Train it so that its adapters are merged, and take that."
        )


def _root(base: str) -> tuple[str, Path, frozenset[str]]:
    """Name and folder of the full model, and what the base changes in it."""
    from safetensors import SafetensorError, safe_open

    folder = fetch(resolve(base))
    if not (folder / DELTA).exists():
        return base, folder, frozenset()
    source, root = find_base(read_delta(folder))
    try:
        with safe_open(folder / TENSORS, "pt") as file:
            return source.name, root, frozenset(file.keys())
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{folder / TENSORS} cannot be read: {error}") from None


def root_hash(ends: Ends) -> str:
    """The hash by which a delta knows its base."""
    return fingerprint(ends.root)


def _in_pieces(pair: PairOfWeights) -> bool:
    """Whether some parameter is several tensors in a file (experts that the model packs)."""
    return max(Counter(pair.base.parameter.values()).values(), default=0) > 1


def _in_memory(name: str) -> torch.nn.Module:
    from holdfast.models.loading import load_all

    model: torch.nn.Module = load_all(name, device="cpu").model
    return model


def _same_names(pair: PairOfWeights, base: str, tuned: str) -> None:
    one, two = set(pair.base.parameter.values()), set(pair.tuned.parameter.values())
    if one == two:
        return
    name = sorted(one ^ two)[0]
    raise ModelError(
        f"'{name}' is a weight of {'the base' if name in one else 'the tuned model'} only: "
        f"'{base}' and '{tuned}' differ in {len(one ^ two)} names, so there is no path between "
        "them. Give the base that was tuned, with the same ties and modules."
    )
