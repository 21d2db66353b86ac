"""Autoencoders that know their task's inputs, and the gate that sends an input to its expert.

Aljundi, Chakravarty and Tuytelaars 2017, "Expert Gate: Lifelong Learning with a Network of
Experts" (arXiv 1611.06194).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from holdfast.anatomy import naming
from holdfast.pieces.chooser import Chooser


class _Enough(BaseException):
    """Ends a forward pass that has shown what was wanted. No library catches a BaseException."""


class Autoencoder(nn.Module):
    """x' = sigmoid(W_d ReLU(W_e x + b_e) + b_d), for x in (0, 1), with a code smaller than x."""

    def __init__(self, width: int, code: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(width, code), nn.Linear(code, width)
        for layer in (self.encoder, self.decoder):
            bound = 1 / math.sqrt(layer.in_features)
            for parameter in layer.parameters():
                parameter.data.uniform_(-bound, bound, generator=generator)
        # inputs lie around 1/2: without this about half of the units never fire
        self.encoder.bias.data = -0.5 * self.encoder.weight.data.sum(1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, D] to [N, D]: the logits of x'."""
        made: Tensor = self.decoder(functional.relu(self.encoder(x)))
        return made

    @torch.no_grad()
    def errors(self, x: Tensor) -> Tensor:
        """[N]: ||x' - x||."""
        found: Tensor = (self(x).sigmoid() - x).norm(dim=1)
        return found

    def fit(self, x: Tensor, steps: int, rate: float = 1e-2) -> Autoencoder:
        """Minimise the sigmoid cross-entropy of x' to x [N, D] with Adam."""
        self.requires_grad_(True)
        optimizer = torch.optim.Adam(self.parameters(), lr=rate)
        with torch.enable_grad():
            for _ in range(steps):
                optimizer.zero_grad()
                torch.autograd.backward(functional.binary_cross_entropy_with_logits(self(x), x))
                optimizer.step()
        optimizer.zero_grad()
        return self.requires_grad_(False)


def relatedness(new: Autoencoder, old: Autoencoder, x: Tensor) -> float:
    """Rel = 1 - (Er_old - Er_new) / Er_new, mean errors on the new task's held-out x [N, D].

    1 for a task and itself; the smaller, the less the old task's autoencoder knows these inputs.
    """
    own, other = float(new.errors(x).mean()), float(old.errors(x).mean())
    return 1 - (other - own) / max(own, 1e-12)


class ExpertGate(Chooser):
    """Sends each row to the expert whose autoencoder knows it best; in training to the newest.

    An autoencoder reads the last hidden state of the last prompt token, in the model without
    experts, standardised by the first task's statistics and put through a sigmoid.
    """

    def __init__(self, width: int, code: int) -> None:
        super().__init__()
        self.width, self.code = width, code
        self.autoencoders = nn.ModuleList()
        self.mean = nn.Parameter(torch.zeros(width), requires_grad=False)
        self.deviation = nn.Parameter(torch.ones(width), requires_grad=False)
        self._reading: Mapping[str, Any] | None = None
        self._read: Tensor | None = None
        self._pending: Tensor | None = None

    def add(self, autoencoder: Autoencoder) -> None:
        self.autoencoders.append(autoencoder.to(self.mean.device).requires_grad_(False))

    def begin_statistics(self, states: Tensor) -> None:
        """The first task's states [N, D] set the mean and the deviation."""
        self.mean.data = states.mean(0)
        self.deviation.data = states.std(0, correction=0).clamp(min=1e-6)

    def inputs(self, states: Tensor) -> Tensor:
        """[N, D] states to what autoencoders read, in (0, 1)."""
        return ((states - self.mean) / self.deviation).sigmoid()

    def errors(self, states: Tensor) -> Tensor:
        """[N, K]: each expert's reconstruction error."""
        x = self.inputs(states.float())
        return torch.stack([a.errors(x) for a in self._each()], 1)

    def probabilities(self, states: Tensor, temperature: float = 2.0) -> Tensor:
        """[N, K]: softmax(-error / t), the paper's equation 1."""
        return (-self.errors(states) / temperature).softmax(1)

    def _each(self) -> list[Autoencoder]:
        return [a for a in self.autoencoders if isinstance(a, Autoencoder)]

    # Choosing

    def watch(self, model: nn.Module, block: str, last: str = "") -> None:
        super().watch(model, block)
        root, _ = naming.unwrap(model)
        root.get_submodule(last).register_forward_hook(self._leave)

    def _begin(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._reading is not None:
            return
        super()._begin(model, args, kwargs)
        self._pending = None
        if self._given is not None and not self.training and len(self.autoencoders) > 1:
            self._pending = self.errors(self.states(model, self._given)).argmin(1)

    def _enter(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._reading is None:
            super()._enter(block, args, kwargs)

    def choose(self, hidden: Tensor, counts: Tensor) -> Tensor | None:
        if self._pending is not None:
            return self._pending
        newest = len(self.autoencoders) - 1
        if newest < 0:
            return None
        return torch.full((len(hidden),), newest, dtype=torch.long, device=hidden.device)

    @torch.no_grad()
    def states(self, model: nn.Module, given: Mapping[str, Any]) -> Tensor:
        """[B, D]: what the model without experts makes of each row's prompt, at its last token.

        Args:
            given: what the model is called with, ``labels`` [B, T] included where there are any.
        """
        root, _ = naming.unwrap(model)
        inputs = {k: v for k, v in given.items() if isinstance(v, Tensor) and k != "labels"}
        with self._looking(root, given), suppress(_Enough):
            root(**inputs, use_cache=False)
        assert self._read is not None, "the last block ran"
        read, self._read = self._read, None
        return read

    @contextmanager
    def _looking(self, root: nn.Module, given: Mapping[str, Any]) -> Iterator[None]:
        modes = [m for m in root.modules() if m.training]
        chosen, self.chosen, self._reading = self.chosen, None, given
        root.eval()
        try:
            yield
        finally:
            self.chosen, self._reading = chosen, None
            for module in modes:
                module.training = True

    def _leave(self, block: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self._reading is None:
            return
        hidden = output[0] if isinstance(output, tuple) else output
        counts = self._counting(hidden, self._reading)
        places = torch.arange(counts.shape[1], device=counts.device)
        last = (counts * (places + 1)).argmax(1)
        self._read = hidden[torch.arange(len(hidden), device=hidden.device), last].float()
        raise _Enough


def gates(model: nn.Module) -> Iterator[tuple[str, ExpertGate]]:
    """The gate of a model with its path."""
    for path, module in model.named_modules():
        if isinstance(module, ExpertGate):
            yield path, module
