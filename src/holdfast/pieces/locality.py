"""A cost for hidden units that are active together, save where earlier tasks need them.

Aljundi, Rohrbach and Tuytelaars 2019, "Selfless sequential learning". No torch until a step is
taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from holdfast.carried import Ahead, Ended, State
from holdfast.errors import SelectorError, UsageError
from holdfast.plan import TAGS, Outputs, Reference

if TYPE_CHECKING:
    from torch import Tensor, nn

Discount = Literal["product", "min"]
SCOPE = "language.mlp.down"


@dataclass(kw_only=True)
class Locality:
    """sum_{i != j} g_ij d_ij |h_i| |h_j| at each answer position, summed over the layers.

    h are the N units that enter an MLP's second layer, g_ij = exp(-(i - j)^2 / (2 sigma^2)) with
    sigma = N / spread, and d_ij = exp(-(a_i + a_j)), or min(exp(-a_i), exp(-a_j)), discounts
    units by their importance to earlier stages, a_i = mean |d ||f(x)||^2 / d h_i| times
    ``scale``, averaged over the stages. For units that are never negative (ReLU) the mean over
    positions is the paper's equation 3; others count by their size.

    One process only: it looks at the live model.
    """

    weight: float = 1e-3
    spread: float = 6.0
    discount: Discount = "product"
    scale: float = 1.0
    scope: str = SCOPE
    examples: int | None = 512
    """Sequences of a stage that importances are averaged over, at most."""
    batch_size: int = 8
    name: str = "selfless"
    fits: bool = field(default=False, init=False, repr=False)
    reference: Reference | None = field(default=None, init=False, repr=False)
    importances: dict[str, Tensor] = field(default_factory=dict, repr=False)
    """[N] by layer."""
    stages: int = field(default=0, repr=False)
    """That the importances are a mean over."""
    _seen: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)
    _places: tuple[Tensor, Tensor | None] | None = field(default=None, init=False, repr=False)
    _watched: tuple[Any, list[Any]] | None = field(default=None, init=False, repr=False)

    def look_ahead(self, step: Ahead) -> None:
        """The first time, begin to note what enters the chosen layers."""
        if self._watched is None or self._watched[0] is not step.model:
            self._leave()
            noting = [
                module.register_forward_pre_hook(self._note(name))
                for name, module in watched(step.model, self.scope).items()
            ]
            self._watched = (step.model, noting)

    def _note(self, name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            if module.training and self._places is not None:
                self._seen[name] = args[0]

        return hook

    def _leave(self) -> None:
        for handle in self._watched[1] if self._watched else ():
            handle.remove()
        self._watched, self._places = None, None
        self._seen.clear()

    def positions(self, batch: Mapping[str, Tensor]) -> Tensor:
        from holdfast.pieces.positions import answer

        wanted = answer(batch)
        self._places = (wanted, batch.get("attention_mask"))
        self._seen.clear()
        return wanted

    def __call__(self, outputs: Outputs) -> Tensor:
        import torch

        total = torch.zeros(len(outputs.targets), device=outputs.logits.device)
        for name, hidden in self._seen.items():
            total = total + self.cost(self._at(hidden), self.importances.get(name))
        self._seen.clear()
        return total

    def _at(self, hidden: Tensor) -> Tensor:
        """[n, N]: the units at this term's positions, of a padded or a packed pass."""
        assert self._places is not None
        places, real = self._places
        flat = hidden.reshape(-1, hidden.shape[-1])
        if len(flat) == places.numel():
            return flat[places.flatten()]
        assert real is not None, "a packed pass has a mask of its real tokens"
        return flat[places[real.bool()]]

    def cost(self, hidden: Tensor, importance: Tensor | None = None) -> Tensor:
        """[n]: the cost of units [n, N], discounted by their importance [N]."""
        import torch

        size = hidden.float().abs()
        discount = None
        if importance is not None:
            discount = (-self.scale * importance.to(size)).exp()
        weights = self._near(size.shape[1], size.device)
        if discount is not None and self.discount == "product":
            size = size * discount
        elif discount is not None:
            weights = weights * torch.minimum(discount[:, None], discount[None])
        return ((size @ weights) * size).sum(-1)

    def _near(self, units: int, device: Any) -> Tensor:
        """[N, N]: g_ij, 0 on the diagonal."""
        import torch

        place = torch.arange(units, device=device, dtype=torch.float32)
        sigma = units / self.spread
        near = (-(place[:, None] - place[None]).square() / (2 * sigma**2)).exp()
        return near.fill_diagonal_(0.0)

    def keep(self, ended: Ended) -> dict[str, Tensor]:
        """Importances, this stage's counted in."""
        import torch

        self._leave()
        new = neuron_importance(
            ended.model, self.scope, ended.batches(self.batch_size, self.examples)
        )
        held = {}
        for name, value in new.items():
            old = self.importances.get(name, torch.zeros_like(value)).to(value)
            held[f"importance/{name}"] = (old * self.stages + value) / (self.stages + 1)
        return {**held, "stages": torch.tensor([self.stages + 1])}

    def recall(self, state: State) -> Locality:
        start = "importance/"
        known = {k.removeprefix(start): v for k, v in state.items() if k.startswith(start)}
        return replace(self, importances=known, stages=int(state["stages"]) if state else 0)


def watched(model: nn.Module, selector: str) -> dict[str, nn.Module]:
    """The linear layers that a selector names, by tower and block.

    Raises:
        SelectorError: it names none that reads [..., N] units.
    """
    from holdfast.anatomy import anatomy

    parts = [p for p in anatomy(model).select(selector).parts if not p.bias and len(p.shape) == 2]
    found = {
        f"{p.tower}.{p.block}.{p.unit}": model.get_submodule(p.parameter.rpartition(".")[0])
        for p in parts
    }
    if not found:
        raise SelectorError(
            f"'{selector}' names no linear layer whose input has units to set apart; try {SCOPE}."
        )
    return found


def neuron_importance(model: nn.Module, selector: str, batches: Any) -> dict[str, Tensor]:
    """[N] for each layer: mean over tokens of |d ||f(x)||^2 / d h_i|, h what enters the layer.

    f(x) are a sequence's logits at every token that predicts another; labels are not read.

    Raises:
        UsageError: there are no batches.
    """
    import torch

    from holdfast.pieces.positions import everything

    layers, tokens = watched(model, selector), 0
    sums: dict[str, Tensor] = {}
    for batch in batches:
        probes: dict[str, Tensor] = {}
        handles = [m.register_forward_pre_hook(_probe(name, probes)) for name, m in layers.items()]
        try:
            with torch.enable_grad():
                features = {k: v for k, v in batch.items() if k not in ("labels", *TAGS)}
                logits = model(**features, use_cache=False).logits.float()
                wanted = everything(batch)
                score = logits[wanted].square().sum()
                slopes = torch.autograd.grad(score, list(probes.values()), allow_unused=True)
        finally:
            for handle in handles:
                handle.remove()
        tokens += int(wanted.sum())
        for name, slope in zip(probes, slopes, strict=True):
            if slope is not None:
                size = slope.detach().float().abs().reshape(-1, slope.shape[-1]).sum(0)
                sums[name] = sums[name] + size if name in sums else size
    if not tokens:
        raise UsageError("importance is an average over tokens, and there are none")
    return {name: value / tokens for name, value in sums.items()}


def _probe(name: str, probes: dict[str, Tensor]) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        import torch

        probes[name] = torch.zeros_like(args[0], requires_grad=True)
        return (args[0] + probes[name], *args[1:])

    return hook
