"""A short training whose every state can be had again: what LQS and learnability look at.

    theta_{t+1} = theta_t - eta * grad L_t(theta_t),    t = 0 ... T-1

with plain SGD and L_t the mean loss of the step's examples. Every sqrt(T)-th state lies on the
disk, and the states between two of them are made again when they are asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from holdfast.ordering._registry import Work
from holdfast.ordering.losses import example_losses, moving, scoped
from holdfast.pieces.feeds import draws
from holdfast.runs.files import writing

State = dict[str, Tensor]


@dataclass
class Proxy:
    """The training of a model on its own data.

    Args:
        steps: T.
        rate: eta.
        batch: examples of a step, drawn in shuffled epochs.
    """

    work: Work
    steps: int
    rate: float
    batch: int

    def __post_init__(self) -> None:
        self.names = scoped(self.work)
        named = dict(self.work.model.named_parameters())
        self.weights = {name: named[name] for name in self.names}
        self.stride = math.ceil(math.sqrt(self.steps))
        self._between: dict[int, State] = {}

    def drawn(self, step: int) -> list[int]:
        """The examples of step ``step``."""
        count = min(self.batch, len(self.work.examples))
        return draws(len(self.work.examples), count, self.work.seed, step * count)

    def run(self) -> None:
        """Make every state that is not there yet; the model ends anywhere."""
        known = [t for t in range(0, self.steps + 1, self.stride) if self._file(t).exists()]
        start = known[-1] if known else 0
        self._put(load_file(self._file(start))) if known else self._save(0)
        with self.work.progress.bar("training the proxy") as advance:
            for t in range(start, self.steps):
                self.step(t)
                if (t + 1) % self.stride == 0:
                    self._save(t + 1)
                advance(t + 1, self.steps)

    def at(self, t: int) -> None:
        """Bring the model to theta_t.

        The states between two on the disk are held on the CPU until another two are asked for.
        """
        first = t - t % self.stride
        if t not in self._between:
            self._between.clear()
            self._put(load_file(self._file(first)))
            last = min(first + self.stride - 1, self.steps)
            for s in range(first, last + 1):
                self._between[s] = self._state()
                if s < last:
                    self.step(s)
        self._put(self._between[t])

    def step(self, t: int) -> None:
        """theta_t becomes theta_{t+1}."""
        gradient = self.gradient(self.work.examples, self.drawn(t))
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.sub_(self.rate * gradient[name].to(weight.dtype))

    def gradient(self, examples: Sequence[Any], indices: Sequence[int]) -> State:
        """The gradient of the mean loss over some examples, batch after batch."""
        total = {name: torch.zeros_like(w) for name, w in self.weights.items()}
        with moving(self.work.model, self.names) as weights, torch.enable_grad():
            for rows in self._batches(examples, indices):
                loss = example_losses(self.work.model, rows).sum() / len(indices)
                grads = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
                _add(total, grads)
        return total

    def curvature(self, t: int, v: Mapping[str, Tensor]) -> State:
        """H v: the Hessian of step t's loss at the model's weights times a vector.

        Reverse over reverse, a batch at a time, through an attention that has second derivatives.
        """
        from torch.nn.attention import SDPBackend, sdpa_kernel

        indices = self.drawn(t)
        total = {name: torch.zeros_like(w) for name, w in self.weights.items()}
        with moving(self.work.model, self.names) as weights, torch.enable_grad():
            parameters = list(weights.values())
            for rows in self._batches(self.work.examples, indices):
                with sdpa_kernel(SDPBackend.MATH):
                    loss = example_losses(self.work.model, rows).sum() / len(indices)
                    first = torch.autograd.grad(
                        loss, parameters, create_graph=True, allow_unused=True
                    )
                    used = [(n, g) for n, g in zip(weights, first, strict=True) if g is not None]
                    along = torch.stack([(g * v[n]).sum() for n, g in used]).sum()
                    _add(total, torch.autograd.grad(along, parameters, allow_unused=True))
        return total

    def forget(self) -> None:
        """Take the states off the disk."""
        for t in range(0, self.steps + 1, self.stride):
            self._file(t).unlink(missing_ok=True)

    def _batches(self, examples: Sequence[Any], indices: Sequence[int]) -> Iterator[dict[str, Any]]:
        size = self.work.batch_size
        for start in range(0, len(indices), size):
            yield self.work.batch(examples, indices[start : start + size])

    def _file(self, t: int) -> Path:
        return self.work.folder / f"state-{t:06d}.safetensors"

    def _state(self) -> State:
        return {n: w.detach().to("cpu", copy=True) for n, w in self.weights.items()}

    def _save(self, t: int) -> None:
        with writing(self._file(t)) as temporary:
            save_file(self._state(), temporary)

    @torch.no_grad()
    def _put(self, state: Mapping[str, Tensor]) -> None:
        for name, weight in self.weights.items():
            weight.copy_(state[name])


def _add(total: State, grads: Sequence[Tensor | None]) -> None:
    for name, grad in zip(total, grads, strict=True):
        if grad is not None:
            total[name] += grad.detach()


def visits(steps: int, interval: int) -> list[int]:
    """The states that are looked at, from the last: T, T - interval, ... down to 0 or above."""
    return list(range(steps, -1, -interval))
