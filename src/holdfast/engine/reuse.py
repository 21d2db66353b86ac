"""What a training step looks up instead of computing.

Two kinds of values never change while a stage trains: the hidden states at the freeze line
(:mod:`holdfast.engine.line`) and what a reference model's head reads. Both are kept row by row
in a :class:`holdfast.cache.Store`, keyed by the row's content, by the weights, code and precision
that made them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from holdfast.cache.keys import code, digest, tensors
from holdfast.cache.place import open_store
from holdfast.cache.store import Store
from holdfast.engine.forward import Reference, logits_at
from holdfast.engine.line import Line, NoReuse, blocks_of, changing, find_line
from holdfast.engine.prefix import (
    noting_returns,
    pad,
    passing,
    states_at,
    watching,
    without_pixels,
)
from holdfast.engine.recall import last_states, logits_of
from holdfast.engine.rowkeys import row_keys, spans
from holdfast.errors import ModelError
from holdfast.plan import TAGS

if TYPE_CHECKING:
    from holdfast.engine.drawn import Drawn

log = logging.getLogger(__name__)

TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4}
"""Largest difference of logits, as a share of their largest size, that rounding may make."""
COARSE = 5e-2
"""The same in half precision."""
SMALL = 60_000_000
"""Parameters below which a model's states are not worth a file."""

Positions = Callable[[Mapping[str, Any]], Tensor]
"""Batch -> [B, T] bool: the positions at which reference logits are wanted."""


@dataclass
class Recalled:
    """A reference whose last hidden states are kept."""

    reference: Reference
    scope: str
    checked: bool = field(default=False)


class Reuse:
    """Looks up what is the same in every epoch.

    A looked-up value comes from a batch of another composition and padding than the one it is
    put in, so it equals what a plain run would compute up to the rounding of the kernels: bit
    for bit in a batch of the same rows, and to about 1e-6 of its size in float32. With
    ``drawn``, each value is computed in one batch only, which follows from the data, and numbers
    do not depend on what the cache held before. Before the first use a plain forward pass is
    compared with one that looks up; if they differ by more than :data:`TOLERANCE`, nothing is
    looked up.

    Args:
        model: inside its wrappers, with ``requires_grad`` set as it will train, in training mode.
        store: where values are kept.
        mode: the precision that the model computes in, where its weights do not say so.
        drawn: the examples that will be read, if that is known.
        positions: where reference logits are wanted.
        references: reference models by name.
    """

    def __init__(
        self,
        model: nn.Module,
        store: Store,
        *,
        mode: str = "",
        drawn: Drawn | None = None,
        positions: Positions | None = None,
        references: Mapping[str, Reference] | None = None,
    ) -> None:
        self.model, self.store, self.drawn, self.positions = model, store, drawn, positions
        self.why: str | None = None
        """Why hidden states at the line are not looked up, once that is known."""
        self.hits = self.misses = 0
        self._checked = False
        self._line: Line | None = None
        self._recalled: dict[str, Recalled] = {}
        self._setting = f"{next(model.parameters()).device.type} {mode}"
        try:
            self._line = _usable(model)
        except (NoReuse, ModelError) as error:
            self._give_up(str(error))
        if self._line is not None:
            below = tensors(self._line.weights())
            self._scope = digest(code(model), below, f"{self._setting} {self._line.index}")
        for name, reference in (references or {}).items():
            self._recall(name, reference)

    def _give_up(self, why: str) -> None:
        self.why = why
        log.info("hidden states are computed in every step: %s", why)

    def _recall(self, name: str, reference: Reference) -> None:
        try:
            blocks_of(self.model)
            _whole(self.model)
        except (NoReuse, ModelError) as error:
            log.info("the reference '%s' runs in every step: %s", name, error)
            return
        known = reference.weights
        every = ((n, known.get(n, p)) for n, p in self.model.named_parameters())
        named = (*every, *self.model.named_buffers())
        scope = digest(code(self.model), tensors(named), f"{self._setting} head")
        self._recalled[name] = Recalled(reference, scope)

    def close(self) -> None:
        """Write what is not on disk yet."""
        self.store.flush()

    # Hidden states at the line

    @contextmanager
    def around(
        self,
        batch: Mapping[str, Any],
        call: Callable[..., Any] | None = None,
        tags: Mapping[str, Any] | None = None,
        packed: bool = False,
    ) -> Iterator[dict[str, Any]]:
        """Within, a forward pass over the inputs that are yielded looks up or keeps the states.

        Args:
            batch: a padded batch, with or without labels.
            call: how the model is called to compare; by default ``model(**inputs)``.
            tags: what :data:`holdfast.plan.TAGS` names, where the feed gave it.
            packed: the forward pass will read the rows behind each other.
        """
        inputs = {k: v for k, v in batch.items() if k not in TAGS}
        keys = self._keys(inputs, tags or batch)
        if keys is None:
            yield inputs
            return
        rows = self._rows(keys, self._draws(tags or batch))
        if rows is None:
            self.misses += 1
            with self._keeping(keys, inputs) if not packed else nullcontext():
                yield inputs
            return
        device, length = inputs["input_ids"].device, inputs["input_ids"].shape[1]
        starts = [start for start, _ in spans(inputs)]
        states = pad(rows, length, starts).to(device)
        if not self._checked:
            self._compare(inputs, states, call or self.model)
        if self.why is not None:
            yield inputs
            return
        self.hits += 1
        assert self._line is not None
        given = torch.cat(rows).unsqueeze(0).to(device) if packed else states
        with passing(self._line, given):
            yield without_pixels(inputs)

    def _keys(self, inputs: Mapping[str, Any], tags: Mapping[str, Any]) -> list[str] | None:
        if self.why is not None or self._line is None:
            return None
        if self._line.index == 0 and inputs.get("pixel_values") is None:
            return None
        draws = self._draws(tags)
        if draws is not None and self.drawn is not None:
            keys: list[str] | str = self.drawn.keys(draws)
        else:
            keys = row_keys(inputs, self.model.config)
        if isinstance(keys, str):
            self._give_up(keys)
            return None
        return [digest(self._scope, key) for key in keys]

    def _draws(self, tags: Mapping[str, Any]) -> list[Any] | None:
        if self.drawn is None or any(tag not in tags for tag in TAGS):
            return None
        return self.drawn.draws(tags)

    def _rows(self, keys: Sequence[str], draws: Sequence[Any] | None) -> list[Tensor] | None:
        """The values of ``keys``, those that were lost computed anew; None if one is unknown."""
        rows = [self.store.get(k) for k in keys]
        if draws is not None and self.drawn is not None:
            for group in sorted(
                {self.drawn.group_of(d) for d, r in zip(draws, rows, strict=True) if r is None}
            ):
                self._fill_group(group)
            rows = [self.store.get(k) for k in keys]
        found = [row for row in rows if row is not None]
        return found if len(found) == len(rows) else None

    @contextmanager
    def _keeping(self, keys: Sequence[str], inputs: Mapping[str, Any]) -> Iterator[None]:
        assert self._line is not None
        seen: list[Tensor] = []
        with watching(self._line, lambda hidden: seen.append(hidden.detach())):
            yield
        if seen:
            self._keep(keys, seen[0], inputs)

    def _keep(self, keys: Sequence[str], hidden: Tensor, inputs: Mapping[str, Any]) -> None:
        """Keep each row of ``hidden`` [B, T, D] without its padding."""
        for key, row, (start, stop) in zip(keys, hidden.cpu(), spans(inputs), strict=True):
            self.store.put(key, row[start:stop])

    @torch.no_grad()
    def _compare(self, inputs: Mapping[str, Any], states: Tensor, call: Callable[..., Any]) -> None:
        """Compare a pass that looks up with a plain one, at the later half of every row."""
        self._checked = True
        assert self._line is not None
        ids = inputs["input_ids"]
        at = torch.zeros(ids.shape, dtype=torch.bool, device=ids.device)
        for row, (start, stop) in enumerate(spans(inputs)):
            at[row, (start + stop) // 2 : stop] = True
        features = {k: v for k, v in inputs.items() if k not in ("labels", "use_cache")}
        with _evaluating(self.model):
            with noting_returns(self._line):
                plain = logits_at(self.model, self.model, features, at, call)
            with passing(self._line, states):
                quick = logits_at(self.model, self.model, without_pixels(features), at, call)
        off = _off(plain, quick)
        if off is not None:
            self._give_up(f"looking up the states below block {self._line.index} {off}")

    # A reference's logits

    def reference_logits(
        self,
        name: str,
        inputs: Mapping[str, Any],
        positions: Tensor,
        tags: Mapping[str, Any],
    ) -> Tensor | None:
        """[N, V] of reference ``name`` at ``positions`` [B, T] of a padded batch.

        None if it has to be computed.
        """
        kept = self._recalled.get(name)
        if kept is None:
            return None
        draws = self._draws(tags)
        if draws is not None and self.drawn is not None:
            each: list[str] | str = self.drawn.keys(draws)
        else:
            each = row_keys(inputs, self.model.config)
        if isinstance(each, str):
            del self._recalled[name]
            return None
        keys = _at(kept.scope, each, positions, inputs)
        rows = self._rows(keys, draws)
        if rows is None:
            states = last_states(kept.reference, self.model, inputs, positions)
            self._keep_parts(keys, states, positions)
        else:
            states = torch.cat(rows).to(positions.device)
        line = Line(self.model, blocks_of(self.model), 0, ())
        if not kept.checked:
            with noting_returns(line):
                plain = kept.reference.logits(self.model, inputs, positions)
            logits = logits_of(kept.reference, line, states)
            kept.checked = True
            off = _off(plain, logits)
            if off is not None:
                log.info("the reference '%s' runs in every step: looking it up %s", name, off)
                del self._recalled[name]
                return None
            self._returns = line.returns
            return logits
        line.returns.update(self._returns)
        return logits_of(kept.reference, line, states)

    def _keep_parts(self, keys: Sequence[str], states: Tensor, positions: Tensor) -> None:
        counts = positions.sum(1).tolist()
        for key, part in zip(keys, torch.split(states.cpu(), counts), strict=True):
            self.store.put(key, part)

    # Computing ahead

    def fill(self, rank: int = 0, world: int = 1) -> None:
        """Compute what is not kept yet of the drawn examples, group by group.

        Args:
            rank, world: of several processes that share a folder each computes its share; what
                another one has not written when it is needed is computed again.
        """
        assert self.drawn is not None
        if self._line is not None and self._line.index == 0 and not self.drawn.sees():
            self._give_up("nothing lies below the line but the embeddings")
        if self._line is not None and self._bytes() > self.store.room:
            self._give_up(
                f"they would take {self._bytes() / 2**30:.1f} GiB and there is room for "
                f"{self.store.room / 2**30:.1f} (train.cache_gib)"
            )
        for group in range(rank, len(self.drawn.groups), world):
            self._fill_group(group)
        self.store.flush()

    def _bytes(self) -> int:
        """What the hidden states of all drawn examples take."""
        assert self.drawn is not None
        embed = self.model.get_input_embeddings().weight  # type: ignore[operator]
        return int(self.drawn.tokens * embed.shape[1] * embed.element_size())

    def _fill_group(self, group: int) -> None:
        assert self.drawn is not None
        each = list(self.drawn.group_keys(group).values())
        batch: dict[str, Any] | None = None
        if self.why is None and self._line is not None:
            keys = [digest(self._scope, key) for key in each]
            if any(key not in self.store for key in keys):
                batch = self.drawn.batch(group)
                inputs = {k: v for k, v in batch.items() if k not in ("labels", *TAGS)}
                self._keep(keys, states_at(self._line, inputs, self.model), inputs)
        for kept in self._recalled.values():
            assert self.positions is not None
            batch = batch or self.drawn.batch(group)
            positions = self.positions(batch)
            inputs = {k: v for k, v in batch.items() if k not in ("labels", *TAGS)}
            keys = _at(kept.scope, each, positions, inputs)
            if any(key not in self.store for key in keys):
                states = last_states(kept.reference, self.model, inputs, positions)
                self._keep_parts(keys, states, positions)


def _at(scope: str, each: Sequence[str], positions: Tensor, inputs: Mapping[str, Any]) -> list[str]:
    """Keys of what a reference said at some positions of each row."""
    rows = zip(each, positions.cpu(), spans(inputs), strict=True)
    return [
        digest(scope, key, row[start:stop].numpy().tobytes()) for key, row, (start, stop) in rows
    ]


def _off(plain: Tensor, quick: Tensor) -> str | None:
    """What is wrong with ``quick`` logits, if rounding cannot be it."""
    if not plain.numel():
        return None
    allowed = TOLERANCE.get(quick.dtype, COARSE) * float(plain.abs().max().clamp(min=1e-3))
    worst = float((plain - quick).abs().max())
    if worst <= allowed:
        return None
    return (
        f"changes logits by {worst:.2g} where rounding explains {allowed:.2g}, so this model "
        "does more than its blocks show"
    )


def _usable(model: nn.Module) -> Line:
    line = find_line(model)
    reason = changing(line.below())
    if reason is not None:
        raise NoReuse(f"dropout or the like is active below the first block that trains: {reason}")
    _whole(model)
    return line


def _whole(model: nn.Module) -> None:
    kinds = ("DTensor", "FlatParameter")
    if any(hasattr(p, "ds_id") or type(p).__name__ in kinds for p in model.parameters()):
        raise NoReuse("the weights are sharded over processes")
    config: Any = getattr(model, "config", None)
    for each in (config, getattr(config, "text_config", None)):
        if getattr(each, "output_router_logits", False):
            raise NoReuse("the loss reads the router of every block (output_router_logits)")


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = [(m, m.training) for m in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def open_reuse(
    model: nn.Module, cache: str = "auto", *, limit: int | None = None, **settings: Any
) -> Reuse | None:
    """What a run on ``model`` can look up, in the store that ``cache`` means.

    Args:
        model: ready to train.
        cache: see :func:`holdfast.cache.open_store`.
        limit: bytes on disk.
        settings: of :class:`Reuse`.

    Returns:
        None if the cache is off.
    """
    small = sum(p.numel() for p in model.parameters()) < SMALL
    store = open_store(cache, limit=limit, small=small)
    return Reuse(model, store, **settings) if store is not None else None
