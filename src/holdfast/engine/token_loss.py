"""The loss of a plan's token terms: passes, references, and what a whole step decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from holdfast.engine.forward import logits_at, next_labels
from holdfast.engine.packing import pack
from holdfast.engine.recall import last_states
from holdfast.engine.sparing import sparing
from holdfast.engine.terms import Pass, Totals, need_totals, survey, totals, wanted_references
from holdfast.engine.tiles import PlainHead
from holdfast.pieces.chooser import announced
from holdfast.pieces.distill import CrossEntropy
from holdfast.plan import StateTerm, TokenTerm, Weighed

if TYPE_CHECKING:
    from holdfast.engine.mixin import PlanMixin


class TokenLoss:
    """Averages each term over all its positions of the whole optimizer step.

    Args:
        trainer: whose model, settings and caches are used.
        terms: what is read.
    """

    def __init__(self, trainer: PlanMixin, terms: Sequence[TokenTerm]) -> None:
        self.trainer: Any = trainer
        self.terms = terms
        self.plain_head = PlainHead()
        self.step: tuple[list[Tensor], Totals | None] = ([], None)
        """Each term's positions in the step that is read now, and its sums if they were made."""
        self._dynamic = need_totals(terms)
        self._states = any(isinstance(t, StateTerm) for t in terms)

    def begin(self, batches: Sequence[Mapping[str, Any]], device: Any) -> None:
        """Count each term's positions over the whole optimizer step, over all ranks."""
        readable = [with_kinds(b, self._config()) for b in batches]
        own = torch.stack(
            [sum(t.positions(b).sum() for b in readable) for t in self.terms]  # type: ignore[misc]
        ).to(device)
        ahead = self._ahead(batches, list(own)) if self._dynamic and len(batches) > 1 else None
        self.step = list(self._over_ranks(own).clamp(min=1)), ahead

    def survey(self) -> None:
        """Let terms look at all of their source, before the first step."""
        if self.trainer.drawn is not None:
            survey(self.terms, self.trainer.drawn, self.trainer.bound.references, self._inner())

    def union(self, inputs: Mapping[str, Any]) -> Tensor:
        """[B, T]: the positions at which any term reads."""
        return torch.stack(self._places(inputs)).any(0)

    def __call__(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        """A pass's share of the loss of the whole step, weighted; a scalar."""
        features = self._features(inputs)
        alone = self._alone(model, inputs, features)
        if alone is not None:
            return alone
        here = self._pass(model, inputs, features)
        sums = here.sums(self.terms)
        sizes, weights = self._shares(here, sums)
        total = here.logits.sum() * 0.0  # keeps the graph when no position was asked for
        world = self.trainer.args.world_size
        for term, (value, _), size, weight in zip(self.terms, sums, sizes, weights, strict=True):
            part = value / size
            # the backend averages gradients over ranks; the size is already over all of them
            total = total + weight * part * world
            self.trainer.note_term(term.name, part * world)
        return total

    def _shares(
        self, here: Pass, sums: Sequence[tuple[Tensor, Tensor | None]]
    ) -> tuple[list[Tensor], list[Tensor | float]]:
        """What each term's sum is divided by, and its weight, at this step."""
        counts, whole = self.step
        if not self._dynamic:
            counts = counts or [p.sum().clamp(min=1) for p in here.places]
            return counts, [t.weight for t in self.terms]
        if whole is None:
            own = totals([sums], [p.sum() for p in here.places])
            whole = Totals(*self._over_ranks(torch.stack(own)))
        means = whole.means(self.terms)
        return list(whole.sizes.clamp(min=1)), [
            t.weigh(means) if isinstance(t, Weighed) and t.name in means else t.weight
            for t in self.terms
        ]

    @torch.no_grad()
    def _ahead(self, batches: Sequence[Mapping[str, Any]], counts: Sequence[Tensor]) -> Totals:
        """The sums of a step of several passes, by running them once without gradient."""
        found = []
        cuda = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with torch.random.fork_rng(cuda), self.trainer.compute_loss_context_manager():
            for batch in batches:
                inputs = self.trainer._prepare_inputs(batch)
                here = self._pass(self.trainer.model_wrapped, inputs, self._features(inputs))
                found.append(here.sums(self.terms))
        return Totals(*self._over_ranks(torch.stack(totals(found, counts))))

    def _features(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The model's inputs, once it is said what of them is prompt."""
        given = announced(self._inner(), inputs)
        return {k: v for k, v in given.items() if k != "use_cache"}

    def _pass(self, model: nn.Module, inputs: Any, features: dict[str, Any]) -> Pass:
        """The model and its references at the positions that the terms ask for."""
        inner, places = self._inner(), self._places(inputs)
        union = torch.stack(places).any(0)
        # before the model's own pass, whose gathered weights have to stay for the way back
        wanted = {s: wanted_references(self.terms, states=s) for s in (False, True)}
        logits_of = {n: self._reference(n, inputs, features, union) for n in wanted[False]}
        states_of = {n: self._states_of(n, inputs, features, union) for n in wanted[True]}
        seen: list[Tensor] | None = [] if self._states else None
        with self.trainer.known(model, features, inputs) as rest, sparing(inner):
            given, at = pack(rest, union) if self.trainer.packed else (rest, union)
            logits = logits_at(model, inner, given, at, seen=seen)
        return Pass(inputs, places, logits, seen[-1] if seen else None, logits_of, states_of)

    def _reference(self, name: str, inputs: Any, features: dict[str, Any], union: Tensor) -> Tensor:
        """[N, V]: a reference's logits at ``union`` [B, T]."""
        if self.trainer.reuse is not None:
            known: Tensor | None
            known = self.trainer.reuse.reference_logits(name, features, inputs, union)
            if known is not None:
                return known
        if self.trainer.packed:
            features, union = pack(features, union)
        logits: Tensor = self.trainer.bound.references[name].logits(self._inner(), features, union)
        return logits

    def _states_of(self, name: str, inputs: Any, features: dict[str, Any], union: Tensor) -> Tensor:
        """[N, D]: what a reference's head reads at ``union`` [B, T]."""
        if self.trainer.reuse is not None:
            known: Tensor | None
            known = self.trainer.reuse.reference_states(name, features, inputs, union)
            if known is not None:
                return known
        if self.trainer.packed:
            features, union = pack(features, union)
        return last_states(self.trainer.bound.references[name], self._inner(), features, union)

    def _alone(
        self, model: nn.Module, inputs: Mapping[str, Any], features: dict[str, Any]
    ) -> Tensor | None:
        """The loss without logits, where cross-entropy is all that is asked for."""
        term, trainer = self.terms[0], self.trainer
        if len(self.terms) > 1 or type(term) is not CrossEntropy:
            return None
        if trainer.bound.hollow is not None:
            return None
        inner, union = self._inner(), self.union(inputs)
        targets = next_labels(inputs["labels"])[union]
        autocast = trainer.accelerator.autocast()
        with trainer.known(model, features, inputs) as rest, sparing(inner), autocast:
            given, at = pack(rest, union) if trainer.packed else (rest, union)
            total = self.plain_head.loss(model, inner, given, at, targets)
        if total is None:
            return None
        count = self.step[0][0] if self.step[0] else union.sum().clamp(min=1)
        part = total / count * trainer.args.world_size
        trainer.note_term(term.name, part)
        loss: Tensor = term.weight * part
        return loss

    def _places(self, inputs: Mapping[str, Any]) -> list[Tensor]:
        readable = with_kinds(inputs, self._config())
        return [t.positions(readable) for t in self.terms]

    def _over_ranks(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.trainer.args.world_size == 1:
            return values
        whole: Tensor = self.trainer.accelerator.reduce(values, reduction="sum")
        return whole

    def _inner(self) -> nn.Module:
        inner: nn.Module = self.trainer.accelerator.unwrap_model(self.trainer.model)
        return inner

    def _config(self) -> Any:
        return self._inner().config


def with_kinds(batch: Mapping[str, Any], config: Any) -> Mapping[str, Any]:
    """The batch with ``mm_token_type_ids`` [B, T] (0: text), read off the placeholder tokens."""
    names = ("image_token_id", "image_token_index", "video_token_id", "video_token_index")
    marks = [m for m in (getattr(config, name, None) for name in names) if m is not None]
    if "mm_token_type_ids" in batch or "input_ids" not in batch or not marks:
        return batch
    ids = batch["input_ids"]
    return {**batch, "mm_token_type_ids": torch.isin(ids, ids.new_tensor(marks)).long()}
