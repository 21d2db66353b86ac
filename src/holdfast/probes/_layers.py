"""How far each layer's attention and MLP moved, measured in logits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from holdfast.anatomy import anatomy
from holdfast.anatomy.naming import unwrap
from holdfast.data import collate
from holdfast.data.records import Record
from holdfast.errors import UsageError
from holdfast.measures.interval import bootstrap_mean
from holdfast.probes._blocks import Blocks, Key, blocks_of, swapped_in, tapped
from holdfast.probes._contexts import Contexts, contexts, predicting
from holdfast.probes._gram import FinalNorm, Gram, final_norm, gram, unembedding
from holdfast.probes._reading import Head, read, same_vocabulary
from holdfast.probes._registry import probe
from holdfast.probes._rows import ProbeResult, ProbeRow
from holdfast.probes._token_bias import chosen_classes
from holdfast.probes._token_class import TokenClass
from holdfast.tasks.batches import asked, in_batches, to_model
from holdfast.tasks.room import BatchSize

NAME = "layers"
CAUSES = ("delta", "delta_by_weights", "delta_by_inputs")
NOTES = {
    "delta": "length of the change of what the layer writes, in logits",
    "delta_by_weights": "the part that its own weights (and the head's) make of the base's input",
    "delta_by_inputs": "the part that comes with what earlier layers hand it",
}


@dataclass(frozen=True)
class Lens:
    """One way to turn what a layer writes into logits."""

    prefix: str
    """Of the measures' names: '' as published, 'normed_' through the final norm."""
    token_class: str
    gram: Gram
    norm: FinalNorm | None = None


@dataclass(frozen=True)
class Written:
    """What one block's attention or MLP wrote at N positions, [N, d] float32 each."""

    base: Tensor
    swapped: Tensor
    """By the tuned weights, on the base's input."""
    tuned: Tensor

    def lengths(self, lens: Lens, rate: Tensor | None) -> Iterator[Tensor]:
        """[N] for each of :data:`CAUSES`."""
        y, w, x = self.base, self.swapped, self.tuned
        if lens.norm is not None and rate is not None:
            y, w, x = (lens.norm.direction(v) * rate for v in (y, w, x))
        yield lens.gram.length(x, y)
        yield lens.gram.length(w, y)
        yield lens.gram.tuned_length(x - w)


@probe(
    NAME,
    summary="how far each block's attention and MLP output moved, in logits, and why",
    paper="Zhu et al. 2025, arXiv 2510.08564 (layer-wise residual-to-logit change)",
)
def layers(
    base: nn.Module,
    tuned: nn.Module,
    processor: Any,
    prompts: Sequence[Record],
    *,
    classes: Sequence[str | TokenClass] = ("numbers",),
    task_answers: Sequence[str] = (),
    max_new_tokens: int = 32,
    batch_size: BatchSize = "auto",
) -> ProbeResult:
    """For every block, ``|| W1 x - W0 y ||`` of what attention and MLP add to the residual stream.

    x and y are the tuned model's and the base's output at the positions that predict an answer
    token, W1 and W0 the unembeddings; a mean over positions, then over examples (Zhu et al.
    2025, where the official code looks at other positions: it indexes sequences with images by
    token numbers without them, and is one off). ``normed_*``: through the final norm,
    linearised at the base. By token class: only the class's logits, or all others.

    A change has two causes that add up as vectors: ``delta_by_weights`` is that of the tuned
    block on the *base's* input; ``delta_by_inputs`` what is left, the tuned block's answer to
    its own input.

    Args:
        base, tuned: of one architecture, on devices between which tensors can be moved.
        processor: of both.
        prompts: see :data:`divergence`.
        classes: names of ``holdfast.probes.NAMED`` or :class:`TokenClass`.
        task_answers: answers of the task that was taught; their classes are added.

    Raises:
        UsageError: no prompts, other vocabularies, or blocks that do not correspond.
        ModelError: the models' blocks are not known.
    """
    fixed = contexts(base, processor, prompts, max_new_tokens=max_new_tokens, batch_size=batch_size)
    heads = _heads(base, tuned, fixed)
    here, theirs = blocks_of(base), blocks_of(tuned)
    if here.writers.keys() != theirs.writers.keys():
        raise UsageError(
            f"the base has {len(here.blocks)} blocks and the tuned model {len(theirs.blocks)}, or "
            "they are of other kinds; layers are compared one by one."
        )
    tokenizer = getattr(processor, "tokenizer", None) or processor
    chosen = [c.within(heads[0].size) for c in chosen_classes(classes, task_answers, tokenizer)]
    norms = _final_norm(base), _final_norm(tuned)
    lenses = _lenses(heads, norms, chosen)
    reader = _Reader(base, tuned, here, theirs, fixed, lenses, norms[0])
    lengths = [len(e["input_ids"]) for e in fixed.encoded]
    with asked(base), asked(tuned):
        found = in_batches(lengths, reader.read, batch_size=batch_size)
    rows = tuple(_rows(found, fixed.clusters))
    facts = {
        "answers": fixed.source,
        "positions": sum(fixed.counts),
        "classes": {c.name: c.texts(tokenizer) for c in chosen},
        "final_norm": norms[0] is not None,
    }
    return ProbeResult(NAME, rows, facts)


Sums = dict[tuple[str, str, Key], float]
"""By measure, token class, and block and kind: the mean over one example's positions."""


class _Reader:
    """Runs both models on a batch and measures every layer."""

    def __init__(
        self,
        base: nn.Module,
        tuned: nn.Module,
        here: Blocks,
        theirs: Blocks,
        contexts: Contexts,
        lenses: Sequence[Lens],
        norm: nn.Module | None,
    ) -> None:
        self.base, self.tuned, self.here, self.theirs = base, tuned, here, theirs
        self.contexts, self.lenses, self.norm = contexts, lenses, norm

    def read(self, rows: list[int]) -> list[Sums]:
        """For each example, its means."""
        encoded = [self.contexts.encoded[i] for i in rows]
        batch = collate(encoded, pad_id=self.contexts.pad_id, side="right")
        labels = batch.pop("labels")
        positions = torch.stack([predicting(row) for row in labels])
        written, rate = self._run(batch, positions)
        owners = torch.nonzero(positions)[:, 0]
        found: list[Sums] = [{} for _ in rows]
        for key, outputs in written.items():
            for lens in self.lenses:
                for name, values in zip(
                    CAUSES, outputs.lengths(lens, rate.get(lens.prefix)), strict=True
                ):
                    for i, one in enumerate(found):
                        mine = values[owners == i]
                        value = float(mine.double().mean()) if len(mine) else float("nan")
                        one[lens.prefix + name, lens.token_class, key] = value
        return found

    def _run(
        self, batch: Mapping[str, Tensor], positions: Tensor
    ) -> tuple[dict[Key, Written], dict[str, Tensor]]:
        base: dict[Key, Tensor] = {}
        swapped: dict[Key, Tensor] = {}
        tuned: dict[Key, Tensor] = {}
        device = self.lenses[0].gram.tuned.device

        def at(output: Tensor) -> Tensor:
            flat = output.reshape(-1, output.shape[-1])
            return flat[positions.flatten().to(flat.device)].float().to(device)

        stream: list[Tensor] = []
        with (
            tapped(self.here.writers, lambda k, out: base.__setitem__(k, at(out))),
            swapped_in(self.here, self.theirs, lambda k, out: swapped.__setitem__(k, at(out))),
            _watched(self.norm, lambda *pair: stream.extend(at(v) for v in pair)),
        ):
            self.base(**to_model(batch, self.base), use_cache=False)
        with tapped(self.theirs.writers, lambda k, out: tuned.__setitem__(k, at(out))):
            self.tuned(**to_model(batch, self.tuned), use_cache=False)
        rates = {
            lens.prefix: lens.norm.rate(stream[0], stream[1])
            for lens in self.lenses
            if lens.norm is not None
        }
        return {k: Written(base[k], swapped[k], tuned[k]) for k in base}, rates


@contextmanager
def _watched(norm: nn.Module | None, see: Any) -> Iterator[None]:
    if norm is None:
        yield
        return
    handle = norm.register_forward_hook(lambda _, inputs, output: see(inputs[0], output))
    try:
        yield
    finally:
        handle.remove()


def _heads(base: nn.Module, tuned: nn.Module, fixed: Contexts) -> tuple[Head, Head]:
    """Both heads, with what the models multiply their outputs by."""
    first = Contexts(fixed.encoded[:1], fixed.clusters[:1], fixed.pad_id, fixed.stops, fixed.source)
    heads = read(base, first).head, read(tuned, first).head
    same_vocabulary(*heads)
    return heads


def _final_norm(model: nn.Module) -> nn.Module | None:
    """The norm in front of the head, if there is one over the head's own input."""
    root, prefix = unwrap(model)
    names = {
        p.parameter.removeprefix(prefix).rpartition(".")[0]
        for p in anatomy(model).parts
        if p.tower == "language" and p.block is None and p.plays("norm") and not p.place
    }
    return root.get_submodule(names.pop()) if len(names) == 1 else None


def _lenses(
    heads: tuple[Head, Head],
    norms: tuple[nn.Module | None, nn.Module | None],
    classes: Sequence[TokenClass],
) -> list[Lens]:
    base, tuned = (unembedding(h.module) * h.scale for h in heads)
    size = base.shape[1]
    ways: list[tuple[str, FinalNorm | None, dict[str, Tensor]]] = [("", None, {})]
    if norms[0] is not None and norms[1] is not None:
        with torch.no_grad():
            maps = [final_norm(n, size, next(n.parameters())) for n in norms if n is not None]
        gains = {"base_scale": maps[0].gain, "tuned_scale": maps[1].gain}
        ways.append(("normed_", maps[0], {k: v.to(tuned.device) for k, v in gains.items()}))
    found = []
    for prefix, norm, scales in ways:
        whole = gram(tuned, base, **scales)
        found.append(Lens(prefix, "", whole, norm))
        for c in classes:
            part = gram(tuned, base, rows=c.index(tuned.device), **scales)
            found.append(Lens(prefix, c.name, part, norm))
            found.append(Lens(prefix, f"not {c.name}", whole.without(part), norm))
    return found


def _rows(found: Sequence[Sums], clusters: Sequence[str]) -> Iterator[ProbeRow]:
    for name, chosen, (block, kind) in sorted(found[0], key=lambda k: (k[0], k[1], k[2])):
        values = np.array([one[name, chosen, (block, kind)] for one in found])
        yield ProbeRow(
            NAME,
            name,
            "pair",
            bootstrap_mean(values, clusters),
            "logits",
            neutral=0.0,
            token_class=chosen,
            tower="language",
            block=block,
            part=kind,
            note=NOTES[name.removeprefix("normed_")],
        )
