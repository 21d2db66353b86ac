"""Several tuned models of one base: checked before weights are read, then read one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from holdfast.anatomy import load_meta
from holdfast.changes.repair.ends import Ends, open_ends
from holdfast.changes.repair.stream import Made
from holdfast.errors import ModelError
from holdfast.models.loading import TOKENIZERS, load_config, load_processor
from holdfast.models.saving import find_base, read_delta
from holdfast.models.source import DELTA, fetch, resolve
from holdfast.pieces.merging import Merge


@dataclass(frozen=True)
class Many:
    """The base's weights and those of every model, no more than a tensor of each in memory."""

    ends: tuple[Ends, ...]
    """The base with each model."""
    changed: tuple[str, ...]
    """Parameters that some model changed, in the order of the base's files."""

    def read(self, name: str) -> tuple[Tensor, list[Tensor]]:
        """A parameter of the base and of each model, as they are stored."""
        pairs = [ends.read(name) for ends in self.ends]
        return pairs[0][0], [tuned for _, tuned in pairs]

    def made(self, merge: Merge, facts: Mapping[str, Any]) -> Made:
        """The merged model, to be written."""
        first = self.ends[0]
        known = merge.survey(self.changed, self.read)

        def like(name: str) -> tuple[torch.dtype, tuple[int, ...]]:
            base, models = self.read(name)
            dtype = base.dtype
            for tensor in models:
                dtype = torch.promote_types(dtype, tensor.dtype)
            return dtype, tuple(base.shape)

        def value(name: str, dtype: torch.dtype) -> Tensor:
            base, models = self.read(name)
            return known(name, base, models).to(dtype) if name in changed else base

        changed = frozenset(self.changed)
        return Made(
            root=first.root,
            root_name=first.root_name,
            moved=changed | first.carried,
            like=like,
            value=value,
            facts=facts,
        )


def open_many(base: str, models: Sequence[str], stack: ExitStack) -> Many:
    """Find the models and which of their weights differ from the base's.

    Args:
        stack: closes the files.

    Raises:
        ModelError: a model is of another architecture or vocabulary, or lacks weights.
    """
    ends = tuple(open_ends(base, model, stack, alike=True) for model in models)
    moved = {name for each in ends for name in each.changed}
    order = [name for name in dict.fromkeys(ends[0].pair.base.parameter.values()) if name in moved]
    return Many(ends, tuple(order))


def check(base: str, models: Sequence[str]) -> None:
    """Refuse models that are not of one kind, from their configurations and tokenizers alone.

    Raises:
        ModelError: it names the model and what differs.
    """
    folder = _folder(base)
    for model in models:
        other = _folder(model)
        if other == folder:
            continue
        _same_kind(base, folder, model, other)
        _same_shapes(base, folder, model, other)
        _same_vocabulary(base, folder, model, other)


def _folder(name: str) -> Path:
    """Of the full model: for a delta, that of what it is over."""
    folder = fetch(resolve(name))
    return find_base(read_delta(folder))[1] if (folder / DELTA).exists() else folder


def _same_kind(base: str, folder: Path, model: str, other: Path) -> None:
    one, two = (load_config(f).model_type for f in (folder, other))
    if one != two:
        raise ModelError(
            f"'{model}' is a '{two}' model and the base '{base}' a '{one}' one; only models of "
            "one architecture can be merged."
        )


def _same_shapes(base: str, folder: Path, model: str, other: Path) -> None:
    one, two = (
        {n: tuple(p.shape) for n, p in load_meta(str(f)).named_parameters()}
        for f in (folder, other)
    )
    lacking = sorted(one.keys() ^ two.keys())
    if lacking:
        has, lacks = (base, model) if lacking[0] in one else (model, base)
        raise ModelError(
            f"'{lacks}' has no weight '{lacking[0]}', which '{has}' has; {len(lacking)} weights "
            "have no counterpart. Merge models that were tuned from one base, with the same ties."
        )
    for name, shape in one.items():
        if shape != two[name]:
            raise ModelError(
                f"'{name}' has shape {list(shape)} in the base '{base}' and {list(two[name])} in "
                f"'{model}'; only models of the same sizes and vocabulary can be merged."
            )


def _same_vocabulary(base: str, folder: Path, model: str, other: Path) -> None:
    if not all(any((f / name).exists() for name in TOKENIZERS) for f in (folder, other)):
        return
    one, two = (_vocabulary(f) for f in (folder, other))
    if one != two:
        differing = sorted(one.items() ^ two.items(), key=lambda item: (item[1], item[0]))
        token = differing[0][0]
        raise ModelError(
            f"'{model}' and the base '{base}' have different vocabularies: {token!r} is token "
            f"{one.get(token, 'none')} of the base and {two.get(token, 'none')} of the model "
            f"({len({t for t, _ in differing})} tokens differ). Their embeddings do not mean the "
            "same and cannot be merged."
        )


def _vocabulary(folder: Path) -> dict[str, int]:
    processor: Any = load_processor(folder)
    tokenizer: Any = getattr(processor, "tokenizer", processor)
    found: dict[str, int] = tokenizer.get_vocab()
    return found
