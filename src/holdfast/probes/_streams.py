"""Weights of two models side by side, one tensor at a time, from wherever they are.

A model larger than memory is compared shard by shard: each tensor is read when its turn comes
and let go. Names of a checkpoint's tensors are brought to the names that the model gives its
parameters, by transformers' own table of renamings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from holdfast.anatomy import anatomy, load_meta
from holdfast.anatomy.parts import Part
from holdfast.errors import ModelError
from holdfast.models.saving import TENSORS, find_base, read_delta
from holdfast.models.source import DELTA, fetch, fingerprint, resolve, weight_files

Place = nn.Module | str | Path


@dataclass(frozen=True)
class Weights:
    """A model's tensors by name, each read when asked for."""

    read: Mapping[str, Callable[[], Tensor]]
    """By key: a checkpoint's tensor, or a parameter."""
    parameter: Mapping[str, str]
    """The parameter that a key's tensor is, or is a piece of."""


@dataclass(frozen=True)
class PairOfWeights:
    """Two models' tensors, matched."""

    base: Weights
    tuned: Weights
    keys: tuple[str, ...]
    """Of the base; in both models."""
    tuned_key: Mapping[str, str]
    parts: Mapping[str, tuple[Part, ...]]
    """By parameter."""
    transposed: frozenset[str]
    """Parameters that are stored as [inputs, outputs] (GPT-2's Conv1D)."""
    unmatched: int
    """Tensors that only one of the two models has."""

    def __iter__(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """A parameter's name, and the tensor (or a piece) of it of base and tuned model.

        Raises :class:`ModelError` if the shapes differ.
        """
        for key in self.keys:
            one, two = self.base.read[key](), self.tuned.read[self.tuned_key[key]]()
            if one.shape != two.shape:
                raise ModelError(
                    f"'{key}' has shape {list(one.shape)} in the base and {list(two.shape)} in the "
                    "tuned model: the second was not tuned from the first."
                )
            yield self.base.parameter[key], one, two


def paired(base: Place, tuned: Place, stack: ExitStack) -> PairOfWeights:
    """Two models given as modules, folders, names, or deltas.

    Folders and their deltas are read tensor by tensor; only where the two do not name their
    tensors alike (experts that one of them packs) are the models loaded whole.

    Args:
        stack: closes the files.

    Raises:
        ModelError: a model cannot be used, or the two share no tensor.
    """
    one, anatomy_of = _open(base, stack)
    two, _ = _open(tuned, stack)
    names = _matches(one, two)
    if names is None:
        return paired(_loaded(base), _loaded(tuned), stack)
    if not names:
        raise ModelError("the two models have no tensor in common: they are not base and tuned.")
    parts: dict[str, list[Part]] = {}
    for part in anatomy(anatomy_of).parts:
        parts.setdefault(part.parameter, []).append(part)
    unmatched = len(one.read) + len(two.read) - 2 * len(names)
    roles = {name: tuple(found) for name, found in parts.items()}
    turned = frozenset(
        f"{name}.weight" for name, m in anatomy_of.named_modules() if type(m).__name__ == "Conv1D"
    )
    return PairOfWeights(one, two, tuple(names), names, roles, turned, unmatched)


def _matches(one: Weights, two: Weights) -> dict[str, str] | None:
    """Each key of ``one`` in ``two``, by the key itself or by a parameter that is one tensor.

    None if a tensor is whole in one of the models and in pieces in the other.
    """
    pieces = [Counter(w.parameter.values()) for w in (one, two)]
    whole = {p: k for k, p in two.parameter.items() if pieces[1][p] == 1}
    found = {}
    for key, parameter in one.parameter.items():
        if key in two.read and two.parameter[key] == parameter:
            found[key] = key
        elif pieces[0][parameter] == 1 and parameter in whole:
            found[key] = whole[parameter]
        elif parameter in pieces[1]:
            return None
    return found


def _open(place: Place, stack: ExitStack) -> tuple[Weights, Any]:
    """The weights, and what their anatomy is made of."""
    if isinstance(place, nn.Module):
        return _module(place), place
    source = resolve(str(place))
    folder = fetch(source)
    if not (folder / DELTA).exists():
        meta = load_meta(folder)
        return _folder(folder, meta, stack), meta
    facts = read_delta(folder)
    if facts["structure"]:
        return _open(_loaded(place), stack)
    base = find_base(facts)[1]
    if fingerprint(base) != facts["base_hash"]:
        raise ModelError(
            f"{folder} holds changes to '{facts['base']}', but the weights in {base} are not the "
            "ones that it was tuned from. Put the original weights back, or tune again."
        )
    meta = load_meta(base)
    below, above = _folder(base, meta, stack), _files([folder / TENSORS], stack)
    home = {p: k for k, p in below.parameter.items()}
    pieces = Counter(below.parameter.values())
    if any(pieces[name] != 1 for name in above):
        return _open(_loaded(place), stack)
    changed = {home[name]: read for name, read in above.items()}
    return Weights({**below.read, **changed}, below.parameter), meta


def _module(model: nn.Module) -> Weights:
    parameters = {n: p.detach() for n, p in model.named_parameters()}
    return Weights(
        {n: partial(_same, p) for n, p in parameters.items()}, {n: n for n in parameters}
    )


def _folder(folder: Path, meta: nn.Module, stack: ExitStack) -> Weights:
    files = _files(weight_files(folder), stack)
    known = {n for n, _ in meta.named_parameters(remove_duplicate=False)}
    tied = {n: first for first, n in tied_names(meta)}
    names = parameter_names(files, meta)
    there = set(names.values())
    parameter = {k: p for k, p in names.items() if p in known and p not in tied}
    # a tied weight that the checkpoint holds under its other name only
    parameter |= {k: tied[p] for k, p in names.items() if p in tied and tied[p] not in there}
    return Weights({k: files[k] for k in parameter}, parameter)


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _files(files: list[Path], stack: ExitStack) -> dict[str, Callable[[], Tensor]]:
    """Raises :class:`ModelError` for a file that is not one."""
    from safetensors import SafetensorError, safe_open

    found: dict[str, Callable[[], Tensor]] = {}
    for file in files:
        try:
            handle = stack.enter_context(safe_open(file, framework="pt"))
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{file} cannot be read: {error}") from None
        for key in handle.keys():  # noqa: SIM118 - not a mapping
            found[key] = partial(handle.get_tensor, key)
    return found


def tied_names(meta: nn.Module) -> list[tuple[str, str]]:
    """(name that ``named_parameters`` gives, other name) of every tied weight."""
    first: dict[int, str] = {}
    pairs = []
    for name, parameter in meta.named_parameters(remove_duplicate=False):
        if id(parameter) in first:
            pairs.append((first[id(parameter)], name))
        first.setdefault(id(parameter), name)
    return pairs


def parameter_names(keys: Mapping[str, Any], meta: Any) -> dict[str, str]:
    """Each key of a checkpoint with the parameter that it is loaded into."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    changes = get_model_conversion_mapping(meta)
    renamings = [c for c in changes if isinstance(c, WeightRenaming)]
    converters = [c for c in changes if isinstance(c, WeightConverter)]
    state = meta.state_dict()
    prefix = meta.base_model_prefix
    return {key: rename_source_key(key, renamings, converters, prefix, state)[0] for key in keys}


def _loaded(place: Place) -> nn.Module:
    if isinstance(place, nn.Module):
        return place
    import torch

    from holdfast.models.loading import load_all, load_model

    folder = fetch(resolve(str(place)))
    model: nn.Module
    if (folder / DELTA).exists():
        model = load_all(str(place), device="cpu").model
    else:
        model = load_model(folder, torch.float32)
    return model
