"""What a training step looks up instead of computing.

Three kinds of values never change while a stage trains: the hidden states at the freeze line
(:mod:`holdfast.engine.line`); where embeddings train and images are still seen by frozen weights,
the features of these (:mod:`holdfast.engine.seam`); and what a reference model's head reads
(:mod:`holdfast.engine.recall`). They are kept row by row in a :class:`holdfast.cache.Store`, keyed
by the row's content and by the weights, code and precision that made them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from holdfast.cache.place import open_store
from holdfast.cache.store import Store
from holdfast.engine.forward import Reference, logits_at
from holdfast.engine.keeping import Names, Rows, model_inputs
from holdfast.engine.line import NoReuse
from holdfast.engine.prefix import Prefix, without_pixels
from holdfast.engine.recall import Recall, last_states
from holdfast.engine.rowkeys import spans
from holdfast.engine.seam import Seam
from holdfast.errors import ModelError
from holdfast.pieces.sharding import spread

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
        self.model, self.store, self.drawn = model, store, drawn
        self.why: str | None = None
        """Why no activations are looked up, once that is known."""
        self.hits = self.misses = 0
        self.kind: Prefix | Seam | None = None
        """What a forward pass looks up."""
        self.recalled: dict[str, Recall] = {}
        """The references whose logits are made from what is kept."""
        self._checked: set[str] = set()
        setting = f"{next(model.parameters()).device.type} {mode}"
        self._rows = Rows(store, getattr(model, "config", None), drawn)
        try:
            _allowed(model)
            self.kind = _kind(model, setting)
        except (NoReuse, ModelError) as error:
            self._give_up(str(error))
        for name, reference in (references or {}).items():
            assert positions is not None
            try:
                _allowed(model)
                self.recalled[name] = Recall(reference, model, setting, positions)
            except (NoReuse, ModelError) as error:
                log.info("the reference '%s' runs in every step: %s", name, error)

    def _give_up(self, why: str) -> None:
        self.why, self.kind = why, None
        log.info("every step computes all activations: %s", why)

    def close(self) -> None:
        """Write what is not on disk yet."""
        self.store.flush()

    # Activations

    @contextmanager
    def around(
        self,
        batch: Mapping[str, Any],
        call: Callable[..., Any] | None = None,
        tags: Mapping[str, Any] | None = None,
        packed: bool = False,
    ) -> Iterator[dict[str, Any]]:
        """Within, a forward pass over the inputs that are yielded looks up or keeps activations.

        Args:
            batch: a padded batch, with or without labels.
            call: how the model is called to compare; by default ``model(**inputs)``.
            tags: what :data:`holdfast.plan.TAGS` names, where the feed gave it.
            packed: the forward pass will read the rows behind each other.
        """
        inputs = dict(batch)
        rows, names = self._find(inputs, tags or batch)
        if rows is not None and self._agrees(inputs, rows, call or self.model):
            self.hits += 1
            with self._given(rows, inputs, packed):
                yield without_pixels(inputs) if isinstance(self.kind, Prefix) else inputs
        elif names is not None and self.kind is not None and not packed:
            self.misses += 1
            with self._keeping(names, inputs):
                yield inputs
        else:
            yield inputs

    def _find(
        self, inputs: Mapping[str, Any], tags: Mapping[str, Any]
    ) -> tuple[list[Tensor] | None, Names | None]:
        """The values of the rows, if all are known, and the rows' names, if they have any."""
        if self.kind is None or not self.kind.saves(inputs):
            return None, None
        try:
            names = self._rows.names(inputs, tags)
            if isinstance(names, str):
                raise NoReuse(names)
            return self._rows.get(self.kind, names, inputs), names
        except NoReuse as error:
            self._give_up(str(error))
            return None, None

    def _given(
        self, rows: list[Tensor], inputs: Mapping[str, Any], packed: bool
    ) -> AbstractContextManager[None]:
        assert self.kind is not None
        return self.kind.passing(rows, inputs, packed)

    @contextmanager
    def _keeping(self, names: Names, inputs: Mapping[str, Any]) -> Iterator[None]:
        assert self.kind is not None
        crossed: list[Any] = []
        with self.kind.watching(crossed.append):
            yield
        try:
            if crossed:
                self._rows.put(self.kind, names, inputs, self.kind.cut(crossed, inputs))
        except NoReuse as error:
            self._give_up(str(error))

    def _agrees(
        self, inputs: Mapping[str, Any], rows: list[Tensor], call: Callable[..., Any]
    ) -> bool:
        """Whether looking up gives what a plain pass gives; asked once."""
        if "activations" not in self._checked:
            self._checked.add("activations")
            try:
                self._compare(inputs, rows, call)
            except NoReuse as error:
                self._give_up(str(error))
        return self.kind is not None

    @torch.no_grad()
    def _compare(
        self, inputs: Mapping[str, Any], rows: list[Tensor], call: Callable[..., Any]
    ) -> None:
        """Compare the logits at the later half of every row. Raises :class:`NoReuse`."""
        assert self.kind is not None
        at = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
        for row, (start, stop) in enumerate(spans(inputs)):
            at[row, (start + stop) // 2 : stop] = True
        features = model_inputs(inputs)
        with _evaluating(self.model):
            with self.kind.learning(features):
                plain = logits_at(self.model, self.model, features, at, call)
            with self._given(rows, inputs, False):
                less = without_pixels(features) if isinstance(self.kind, Prefix) else features
                quick = logits_at(self.model, self.model, less, at, call)
        off = _off(plain, quick)
        if off is not None:
            raise NoReuse(f"looking them up {off}")

    # A reference's logits

    def reference_logits(
        self, name: str, inputs: Mapping[str, Any], tags: Mapping[str, Any], positions: Tensor
    ) -> Tensor | None:
        """[N, V] of reference ``name`` at ``positions`` [B, T]; None if they must be computed.

        Args:
            inputs: the model's inputs of a padded batch.
            tags: the whole batch, with labels and what :data:`holdfast.plan.TAGS` names.
        """
        recall, states = self.recalled.get(name), self._states(name, inputs, tags, positions)
        if recall is None or states is None:
            return None
        if name in self._checked:
            return recall.logits(states)
        self._checked.add(name)
        with recall.learning(inputs):
            plain = recall.reference.logits(self.model, inputs, positions)
        logits = recall.logits(states)
        off = _off(plain, logits)
        if off is not None:
            self._forget(name, f"looking it up {off}")
            return None
        return logits

    def reference_states(
        self, name: str, inputs: Mapping[str, Any], tags: Mapping[str, Any], positions: Tensor
    ) -> Tensor | None:
        """[N, D]: what reference ``name``'s head reads; as :meth:`reference_logits`."""
        states = self._states(name, inputs, tags, positions)
        if states is None or f"{name} states" in self._checked:
            return states
        self._checked.add(f"{name} states")
        plain = last_states(self.recalled[name].reference, self.model, inputs, positions)
        off = _off(plain, states)
        if off is not None:
            self._forget(name, f"looking it up {off}")
            return plain
        return states

    def _states(
        self, name: str, inputs: Mapping[str, Any], tags: Mapping[str, Any], positions: Tensor
    ) -> Tensor | None:
        recall = self.recalled.get(name)
        if recall is None:
            return None
        names = self._rows.names(inputs, tags)
        if isinstance(names, str):
            self._forget(name, names)
            return None
        rows = self._rows.get(recall, names, tags)
        if rows is None:
            rows = recall.compute(tags)
            self._rows.put(recall, names, tags, rows)
        return torch.cat([row.to(positions.device) for row in rows])

    def _forget(self, name: str, why: str) -> None:
        log.info("the reference '%s' runs in every step: %s", name, why)
        del self.recalled[name]

    # Computing ahead

    def fill(self, rank: int = 0, world: int = 1) -> None:
        """Compute what is not kept yet of the drawn examples, group by group.

        Args:
            rank, world: of several processes that share a folder each computes its share; what
                another one has not written when it is needed is computed again.
        """
        assert self.drawn is not None
        if self.kind is not None and self.kind.needs_images and not self.drawn.sees():
            self._give_up("nothing lies below what trains but the embeddings")
        wanted = self._bytes()
        if isinstance(self.kind, Prefix) and wanted > self.store.room:
            self._give_up(
                f"they would take {wanted / 2**30:.1f} GiB and there is room for "
                f"{self.store.room / 2**30:.1f} (train.cache_gib)"
            )
        try:
            for group in range(rank, len(self.drawn.groups), world):
                for kind in (self.kind, *self.recalled.values()):
                    if kind is not None:
                        self._rows.fill(kind, group)
        except NoReuse as error:
            self._give_up(str(error))
        self.store.flush()

    def _bytes(self) -> int:
        """What the hidden states of all drawn examples take."""
        assert self.drawn is not None
        embed: Any = self.model.get_input_embeddings()  # type: ignore[operator]
        return int(self.drawn.tokens * embed.weight.shape[1] * embed.weight.element_size())


def _kind(model: nn.Module, setting: str) -> Prefix | Seam:
    """The hidden states at the line, or where the embeddings train, the images' features."""
    try:
        return Prefix(model, setting)
    except NoReuse as error:
        try:
            return Seam(model, setting)
        except NoReuse as other:
            raise NoReuse(f"{error}; {other}") from None


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


def _allowed(model: nn.Module) -> None:
    if any(spread(p) or type(p).__name__ == "FlatParameter" for p in model.parameters()):
        raise NoReuse("the weights are spread over processes")
    if any(getattr(m, "whole_rows", False) for m in model.modules()):
        raise NoReuse("which modules a row uses is read off its embeddings")
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
