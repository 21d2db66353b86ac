"""One expert for each task, and a gate that knows which of them an input is for.

Aljundi et al. 2017 (arXiv 1611.06194). No torch until it is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.errors import UsageError
from holdfast.plan import NEW, Outputs, Reference

if TYPE_CHECKING:
    from torch import Tensor, nn

    from holdfast.anatomy import Anatomy
    from holdfast.pieces.gate import ExpertGate

GATE = "expert_gate"
"""Where the gate stands in the model."""
_LEAVES = ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")


@dataclass(kw_only=True)
class ExpertGates:
    """Each stage adds a low-rank expert to every chosen layer, and an autoencoder to the gate.

    Only the newest expert trains. It begins as a copy of the expert of the most related earlier
    task; ``distils`` says whether that task is related enough to be taught by.
    """

    rank: int
    alpha: float
    scope: str
    code: int = 100
    steps: int = 400
    """Of an autoencoder's training."""
    threshold: float = 0.85
    examples: int = 512
    source: str = field(default=NEW, init=False)
    name: str = "expert-gates"
    whole_rows: bool = field(default=True, init=False, repr=False)
    """Rows are not packed behind each other: an expert is chosen for each."""
    relatedness: tuple[float, ...] = field(default=(), init=False, repr=False)
    """Of the stage's task to each earlier one."""
    experts: int = field(default=0, repr=False)
    """How many the model has; kept by ``attach``."""
    _data: Iterable[Mapping[str, Any]] | None = field(
        default=None, init=False, repr=False, compare=False
    )

    @property
    def distils(self) -> bool:
        """Whether the most related earlier task is related enough for learning without
        forgetting; plain finetuning otherwise."""
        return max(self.relatedness, default=0.0) > self.threshold

    def calibrate(self, batches: Iterable[Mapping[str, Any]]) -> None:
        self._data = batches

    def touches(self, model: nn.Module, anatomy: Anatomy) -> Iterable[str]:
        """The autoencoder that :meth:`attach` will train."""
        from holdfast.anatomy import naming
        from holdfast.pieces.gate import gates

        _, prefix = naming.unwrap(model)
        known = next((len(gate.autoencoders) for _, gate in gates(model)), 0)
        yield from (f"{prefix}{GATE}.autoencoders.{known}.{leaf}" for leaf in _LEAVES)
        if not known:
            yield from (f"{prefix}{GATE}.{leaf}" for leaf in ("mean", "deviation"))

    def attach(self, model: nn.Module, anatomy: Anatomy) -> nn.Module:
        """Look at the stage's data, add its expert and its autoencoder, freeze all else.

        Raises:
            UsageError: no data were given to look at.
            SelectorError: the scope has no linear layer, or packed experts.
        """
        meta = next(model.parameters()).is_meta
        if self._data is None and not meta:
            raise UsageError(
                f"'{self.name}' looks at a stage's data before it begins, and this trainer reads "
                "its own; use holdfast.tune, or give it batches with calibrate()."
            )
        gate = self._gate(model, anatomy)
        if meta:
            self._add(model, gate, None)
        else:
            self._meet(model, gate)
        names = set(self.trainable(model))
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in names)
        return model

    def _gate(self, model: nn.Module, anatomy: Anatomy) -> ExpertGate:
        """The gate and the banks, put in if the model has none."""
        from holdfast.anatomy import naming
        from holdfast.pieces.bank import first_block, insert
        from holdfast.pieces.gate import ExpertGate, gates
        from holdfast.pieces.lora_scope import scope

        for _, gate in gates(model):
            return gate
        found = scope(model, anatomy, self.scope)
        chosen = {*found.modules, *found.parameters}  # packed experts are refused below
        parts = [
            p
            for p in anatomy.select(self.scope).parts
            if not p.bias and {p.parameter, p.parameter.rpartition(".")[0]} & chosen
        ]
        # a fused weight is one layer with one expert, whatever it holds
        whole = {p.parameter: p for p in parts}
        first = first_block(anatomy, parts)
        tower = next(t for t in anatomy.towers if first in t.blocks)
        width = int(tower.config.hidden_size)
        gate = ExpertGate(width, min(self.code, max(1, width // 2)))
        gate = gate.to(next(model.parameters()).device).train(model.training)
        insert(model, [(_whole(p), "input") for p in whole.values()], self.alpha / self.rank, gate)
        setattr(naming.unwrap(model)[0], GATE, gate)
        gate.watch(model, first, max(tower.blocks, key=lambda path: tower.blocks[path]))
        return gate

    def _meet(self, model: nn.Module, gate: ExpertGate) -> None:
        """Train the stage's autoencoder, and find the most related expert."""
        import torch

        from holdfast.pieces.gate import Autoencoder, relatedness

        assert self._data is not None
        states = torch.cat([gate.states(model, batch) for batch in self._data])
        self._data = None  # the next stage has its own
        if not len(gate.autoencoders):
            gate.begin_statistics(states)
        x = gate.inputs(states)
        generator = torch.Generator().manual_seed(len(gate.autoencoders))
        order = torch.randperm(len(x), generator=generator)
        held = order[: max(1, len(x) // 5)] if len(x) > 1 else order
        learned = order[len(held) :] if len(x) > 1 else order
        made = Autoencoder(gate.width, gate.code, generator).to(x.device)
        made.fit(x[learned], self.steps)
        self.relatedness = tuple(
            relatedness(made, old, x[held])
            for old in gate.autoencoders
            if isinstance(old, Autoencoder)
        )
        self._add(model, gate, made)

    def _add(self, model: nn.Module, gate: ExpertGate, autoencoder: Any) -> None:
        """Another expert: a copy of the most related one, or one that writes nothing yet."""
        from holdfast.pieces.bank import Updates, grow, layers
        from holdfast.pieces.gate import Autoencoder

        grow(model, 1, self.rank)
        if self.relatedness and autoencoder is not None:
            best = max(range(len(self.relatedness)), key=lambda k: self.relatedness[k])
            for _, layer in layers(model):
                for update in layer.updates:
                    assert isinstance(update, Updates)
                    update.downs[-1].data.copy_(update.downs[best].data)
                    update.ups[-1].data.copy_(update.ups[best].data)
        gate.add(autoencoder or Autoencoder(gate.width, gate.code))
        self.experts = len(gate.autoencoders)

    def trainable(self, model: nn.Module) -> Iterable[str]:
        from holdfast.pieces.bank import Updates, layers

        for path, layer in layers(model):
            for place, update in enumerate(layer.updates):
                assert isinstance(update, Updates)
                newest = len(update.downs) - 1
                yield f"{path}.updates.{place}.downs.{newest}"
                yield f"{path}.updates.{place}.ups.{newest}"

    def detach(self, model: nn.Module, folder: Path | None) -> nn.Module:
        """The experts stay in the model: which of them writes depends on the input."""
        return model.requires_grad_(False)

    def structure(self) -> Mapping[str, object]:
        return {
            "kind": "expert-gates",
            "rank": self.rank,
            "alpha": self.alpha,
            "scope": self.scope,
            "code": self.code,
            "experts": self.experts,
        }


def _whole(part: Any) -> Any:
    """A fused weight as one part."""
    from dataclasses import replace

    return replace(part, rows=None)


@dataclass(kw_only=True)
class TaughtByRelated:
    """T^2 KL(teacher || student) on the new data, if an earlier task is related enough.

    The teacher is the model as the stage began: the expert is then a copy of the related one.
    """

    gates: ExpertGates
    weight: float = 1.0
    temperature: float = 2.0
    name: str = "taught-by-related"
    fits: bool = field(default=False, init=False, repr=False)

    @property
    def reference(self) -> Reference | None:
        return "stage" if self.gates.distils else None

    def positions(self, batch: Mapping[str, Tensor]) -> Tensor:
        from holdfast.pieces.positions import answer

        return answer(batch) & self.gates.distils

    def __call__(self, outputs: Outputs) -> Tensor:
        from holdfast.pieces.objectives import kl

        if outputs.reference is None:
            return outputs.logits.sum(-1) * 0.0
        found = kl(outputs.logits, outputs.reference, temperature=self.temperature)
        return self.temperature**2 * found


def rebuild(model: nn.Module, structure: Mapping[str, Any], anatomy: Anatomy) -> nn.Module:
    """``model`` with the experts and the gate that ``structure`` describes, before weights load."""
    settings = {k: v for k, v in structure.items() if k not in ("kind", "experts")}
    adapter = ExpertGates(**settings)
    gate = adapter._gate(model, anatomy)
    for _ in range(int(structure["experts"])):
        adapter._add(model, gate, None)
    return model.requires_grad_(False)
