"""Follows one training example through a model's towers and counts multiply-adds.

Instead of assuming that a backward pass stops between blocks, the flow of ``requires_grad``
is followed from weight to weight as autograd does it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from holdfast.anatomy.parts import Part, Tower

if TYPE_CHECKING:
    from holdfast.anatomy.core import Anatomy

CONTRASTIVE = ("clip", "siglip", "siglip2")
"""Families whose towers run side by side: no image reaches the language tower."""

_CLASS_TOKENS = {"clip_vision_model": 1, "internvl_vision": 1, "vit": 1, "deit": 2, "dinov2": 1}
_CLASS_TOKENS["dinov2_with_registers"] = 5


@dataclass(frozen=True)
class Load:
    """How many positions of each tower one training example has."""

    language: float
    """Tokens of the language model, image tokens included."""
    vision: float = 0
    """Positions of the vision tower: patches and class tokens, or pixels for convolutions."""
    projector: float = 0
    """Image tokens."""
    images: float = 0
    head: float | None = None
    """Positions that are projected to the vocabulary; None: all."""
    scores: bool = False
    """Count attention scores, as a dense kernel computes them (causal or not)."""


@dataclass
class Flops:
    """Multiply-adds of one example: forward, gradients of activations, gradients of weights."""

    forward: float = 0.0
    activation: float = 0.0
    weight: float = 0.0

    @property
    def total(self) -> float:
        """FLOPs: two for each multiply-add."""
        return 2 * (self.forward + self.activation + self.weight)

    def add(self, macs: float, activation: float, weight: float) -> None:
        """One product of ``macs`` multiply-adds and how often its gradients are formed."""
        self.forward += macs
        self.activation += macs * activation
        self.weight += macs * weight


@dataclass
class _Layer:
    """The parameters that one operation reads: a linear layer's weight and bias, a norm."""

    parts: list[Part] = field(default_factory=list)

    @property
    def units(self) -> set[str]:
        return {u for p in self.parts for u in p.units}

    @property
    def place(self) -> str:
        return self.parts[0].place


def flops(found: Anatomy, trainable: frozenset[str], load: Load) -> Flops:
    """FLOPs of one training step on one example, if the parameters ``trainable`` train."""
    meter = _Meter(found, trainable, load)
    seen = meter.vision() if load.images and meter.has("vision") else False
    if load.projector and meter.has("projector"):
        seen = meter.projector(seen)
    if meter.has("language"):
        meter.language(seen and found.family not in CONTRASTIVE)
    return meter.flops


class _Meter:
    """Follows one example through the towers; flows say whether a tensor requires grad."""

    def __init__(self, found: Anatomy, trainable: frozenset[str], load: Load) -> None:
        self.found, self.trainable, self.load = found, trainable, load
        self.flops = Flops()
        self.read = True
        """Whether the loss depends on what runs now; if not, there is no backward pass."""
        self.places = {place.tower: place for place in found.towers}

    def has(self, tower: Tower) -> bool:
        return any(p.tower == tower for p in self.found.parts)

    def vision(self) -> bool:
        """Images to features. Blocks above the layer that is read run forward only."""
        extra = class_tokens(self.places["vision"].config) * self.load.images
        flow = self._bottom("vision", False, self.load.vision - extra)
        blocks = _blocks(self.found.parts, "vision")
        last = self._feature_block(len(blocks))
        for index, layers in enumerate(blocks):
            self.read = index <= last
            out = self._block(layers, flow, "vision", self.load.vision, index)
            flow = out if self.read else flow
        self.read = True
        return self._vision_head(flow)

    def _feature_block(self, blocks: int) -> int:
        """Index of the highest block whose output the projector reads."""
        layer = getattr(self.found.config, "vision_feature_layer", None)
        if layer is None or "language" not in self.places:
            return blocks - 1
        layers = layer if isinstance(layer, (list, tuple)) else [layer]
        return max(int(v) - 1 if v >= 0 else blocks + int(v) for v in layers)

    def _vision_head(self, flow: bool) -> bool:
        used = "language" not in self.places
        for layer in _layers(self.found.parts, "vision", None):
            if "norm" in layer.units and not layer.place and used:
                flow = self._run(layer, flow, 0)
            elif "head" in layer.units:
                pooled = "in_proj" in layer.parts[0].parameter
                positions = self.load.vision if pooled else self.load.images
                self.read = used
                self._run(layer, flow, positions)
        self.read = True
        return flow

    def projector(self, flow: bool) -> bool:
        """Features to image tokens; branches (Qwen3-VL's deep stack) run side by side."""
        branches: dict[str, bool] = {}
        for layer in _layers(self.found.parts, "projector", None):
            branch = re.sub(r"\.(linear_fc|fc|mlp|norm|ln_q)\w*(\..*)?$", "", _path(layer))
            branch = branch if re.search(r"merger", branch) else ""
            branches[branch] = self._run(layer, branches.get(branch, flow), self.load.projector)
        return flow or any(branches.values())

    def language(self, flow: bool) -> None:
        """Tokens to scores of the vocabulary."""
        tokens = self.load.language
        flow = self._bottom("language", flow, tokens)
        for index, layers in enumerate(_blocks(self.found.parts, "language")):
            flow = self._block(layers, flow, "language", tokens, index)
        outside = _layers(self.found.parts, "language", None)
        for layer in outside:
            if "norm" in layer.units and not layer.place:
                flow = self._run(layer, flow, tokens)
        heads = [x for x in outside if any(u.split(".")[0] == "head" for u in x.units)]
        for layer in sorted(heads, key=lambda x: "head.proj" not in x.units):
            flow = self._run(layer, flow, tokens if self.load.head is None else self.load.head)

    def _bottom(self, tower: Tower, flow: bool, positions: float) -> bool:
        """Embeddings, and the norm and the projection that may follow them."""
        outside = _layers(self.found.parts, tower, None)
        lookups = [x for x in outside if "embed" in x.units]
        for layer in lookups:
            tied = any(u != "embed" for u in layer.units)
            flow = self._run(layer, False, 0 if tied else positions) or flow
        for layer in outside:
            if "embed.proj" in layer.units or layer.place == "embed":
                flow = self._run(layer, flow, positions)
        return flow

    def _block(
        self, layers: list[_Layer], x: bool, tower: Tower, positions: float, index: int
    ) -> bool:
        """Whether a block's output requires grad, if its input does or not (``x``)."""
        if any("conv" in layer.units for layer in layers):
            return self._sequence(layers, x, positions)
        normed = self._norm(layers, "attn.in", x)
        read = self._attention(layers, normed, positions, tower, index)
        read = self._norm(layers, "attn.out", read)
        parallel = self._parallel(tower)
        h = x if parallel else x or read
        has_norm = any(layer.place == "mlp.in" for layer in layers)
        h = normed if parallel and not has_norm else self._norm(layers, "mlp.in", h)
        routed = self._units(layers, ("router",), h, positions)
        wide = self._units(layers, ("mlp.gate", "mlp.up"), h, positions)
        write = self._units(layers, ("mlp.down",), wide, positions)
        rest = self._units(layers, ("other",), x, positions) and x
        return x or read or routed or self._norm(layers, "mlp.out", write) or rest

    def _sequence(self, layers: list[_Layer], x: bool, positions: float) -> bool:
        main = side = x
        for layer in layers:
            if ".shortcut." in layer.parts[0].parameter:
                side = self._run(layer, side, positions)
            else:
                main = self._run(layer, main, positions)
        return main or side

    def _attention(
        self, layers: list[_Layer], h: bool, positions: float, tower: Tower, index: int
    ) -> bool:
        done: set[int] = set()
        flows = {}
        for unit in ("attn.q", "attn.k", "attn.v"):
            flows[unit] = False
            for layer in (x for x in layers if unit in x.units):
                out = h or self._trains(layer)
                if id(layer) not in done:
                    self._run(layer, h, positions)
                    done.add(id(layer))
                flows[unit] = flows[unit] or out
        q = self._norm(layers, "q", flows["attn.q"])
        k = self._norm(layers, "k", flows["attn.k"])
        self._scores(layers, (q, k, flows["attn.v"]), positions, tower, index)
        return self._units(layers, ("attn.o",), q or k or flows["attn.v"], positions)

    def _scores(
        self,
        layers: list[_Layer],
        flows: tuple[bool, bool, bool],
        positions: float,
        tower: Tower,
        index: int,
    ) -> None:
        if not self.load.scores:
            return
        q, k, v = flows
        width = sum(
            p.count // _inputs(p)
            for layer in layers
            for p in layer.parts
            if p.unit == "attn.q" and not p.bias
        )
        macs = positions * self._span(tower, index) * width
        self.flops.add(macs, self.read * (q + k), 0)
        self.flops.add(macs, self.read * ((q or k) + v), 0)

    def _span(self, tower: Tower, index: int) -> float:
        """Positions that one position is compared with."""
        if tower == "language":
            return self.load.language
        config = self.places["vision"].config
        full = getattr(config, "fullatt_block_indexes", None)
        if full is not None and index not in full:
            return float((config.window_size // config.patch_size) ** 2)
        return self.load.vision / max(self.load.images, 1)

    def _parallel(self, tower: Tower) -> bool:
        place = self.places[tower]
        how = place.layout.parallel if place.layout else False
        if isinstance(how, str):
            new = getattr(place.config, "new_decoder_architecture", False)
            return bool(getattr(place.config, how, False) or new)
        return how

    def _norm(self, layers: list[_Layer], place: str, flow: bool) -> bool:
        return flow or any(self._trains(x) for x in layers if x.place == place)

    def _units(
        self, layers: list[_Layer], units: tuple[str, ...], flow: bool, positions: float
    ) -> bool:
        """Run all layers of these units on the same input; whether any output requires grad."""
        outs = [self._run(x, flow, positions) for x in layers if x.units & set(units)]
        return any(outs)

    def _trains(self, layer: _Layer) -> bool:
        return any(p.parameter in self.trainable for p in layer.parts)

    def _run(self, layer: _Layer, flow: bool, positions: float) -> bool:
        """Count one operation and say whether its output requires grad."""
        for p in layer.parts:
            own = p.parameter in self.trainable
            self.flops.add(p.macs * positions, self.read and flow, self.read and own)
        return flow or self._trains(layer)


def class_tokens(vision: Any) -> int:
    """Positions that a vision transformer adds to the patches of an image."""
    return _CLASS_TOKENS.get(getattr(vision, "model_type", ""), 0)


def _inputs(part: Part) -> int:
    """Input features of a two-dimensional weight."""
    dim = part.rows.dim if part.rows is not None else 0
    return part.shape[1 - dim]


def _path(layer: _Layer) -> str:
    return re.sub(r"(\.weight|\.bias|_bias)$", "", layer.parts[0].parameter)


def _layers(parts: Iterable[Part], tower: Tower, block: int | None) -> list[_Layer]:
    """The operations of a tower's block (or outside of its blocks), in the model's order."""
    layers: dict[str, _Layer] = {}
    for p in parts:
        if p.tower == tower and p.block == block:
            key = re.sub(r"(\.weight|\.bias|_bias)$", "", p.parameter)
            layers.setdefault(key, _Layer()).parts.append(p)
    return list(layers.values())


def _blocks(parts: Iterable[Part], tower: Tower) -> list[list[_Layer]]:
    by_block: dict[int, list[Part]] = {}
    for p in parts:
        if p.tower == tower and p.block is not None:
            by_block.setdefault(p.block, []).append(p)
    return [_layers(by_block[b], tower, b) for b in sorted(by_block)]
