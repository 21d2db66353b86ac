"""Counting and timing two sides of a comparison in one process.

FLOPs and saved bytes are exact and say the same on every machine; time is taken in turns
(ABBA), on one thread, as processor time, and is only believed if it is steady.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

REPEATS = 4
"""Timed turns of each side unless a section takes more; an even number, so that every side
runs as often first as last."""
UNSTEADY = 1.5
"""A side whose slowest turn took longer than this many medians was disturbed."""
RESAMPLES = 4000

Clock = Callable[[], float]


def one_thread() -> None:
    """Compute on one thread, so that processor time is the time of the work."""
    torch.set_num_threads(1)


# Counting


def counter() -> FlopCounterMode:
    """torch's counter, which also sees in-place products and the CPU's fused attention.

    Attention counts as a dense kernel's four products backward for two forward; scores that
    a fused kernel computes a second time are not counted, so that kernels compare as equal.
    """
    aten = torch.ops.aten
    more = {
        "addmm_": _product,
        "baddbmm_": _product,
        "_scaled_dot_product_flash_attention_for_cpu": _attention,
        "_scaled_dot_product_flash_attention_for_cpu_backward": _attention_backward,
    }
    known = {getattr(aten, name): count for name, count in more.items() if hasattr(aten, name)}
    return FlopCounterMode(display=False, custom_mapping=known)


def flops(work: Callable[[], object]) -> int:
    """FLOPs of the matrix products, convolutions and attention in ``work()``."""
    with counter() as count:
        work()
    return int(count.get_total_flops())


def _product(total: Any, a: Any, b: Any, *args: Any, **kwargs: Any) -> int:
    """``total += a @ b`` of shapes [.., m, k] and [.., k, n]."""
    return 2 * math.prod(a) * int(b[-1])


def _attention(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _attention_backward(grad: Any, query: Any, key: Any, value: Any, *rest: Any, **kw: Any) -> int:
    again = 2 * query[0] * query[1] * query[2] * query[3] * key[2]
    return int(sdpa_backward_flop_count(grad, query, key, value)) - int(again)


@dataclass(frozen=True)
class Kept:
    """Bytes that autograd held at once for the backward pass."""

    activations: int
    """Without the model's own weights and buffers, which exist anyway."""
    everything: int


class Saved:
    """Counts what autograd saves within ``with Saved(model) as saved: ...``; see :attr:`kept`.

    A storage counts once however often it is saved, for as long as a node of the graph holds
    it. Hooks that the code inside sets up (which would hide its tensors from ours) are wrapped,
    so that what they keep in a tensor's place is counted. Enter it in the thread that runs the
    forward pass.
    """

    def __init__(self, model: nn.Module) -> None:
        self._own = {_storage(t) for t in (*model.parameters(), *model.buffers())}
        self._held: dict[int, int] = {}
        self._now = self._peak = self._weights = 0
        self._hooks = saved_tensors_hooks(lambda t: _Holder(self, t), lambda h: h.value)

    def __enter__(self) -> Saved:
        self._hooks.__enter__()
        self._plain = saved_tensors_hooks.__init__

        def wrapped(hooks: Any, pack: Callable[[Any], Any], unpack: Callable[[Any], Any]) -> None:
            self._plain(hooks, lambda t: _Holder(self, pack(t)), lambda h: unpack(h.value))

        saved_tensors_hooks.__init__ = wrapped  # type: ignore[method-assign,assignment]
        return self

    def __exit__(self, *error: Any) -> None:
        saved_tensors_hooks.__init__ = self._plain  # type: ignore[method-assign]
        self._hooks.__exit__(*error)

    @property
    def kept(self) -> Kept:
        return Kept(self._peak, self._peak + self._weights)

    def take(self, tensor: Tensor) -> None:
        at, size = _storage(tensor), tensor.untyped_storage().nbytes()
        if self._held.setdefault(at, 0) == 0:
            if at in self._own:
                self._weights += size
                self._held[at] += 1  # counted once, whoever lets go of it
            else:
                self._now += size
        self._held[at] += 1
        self._peak = max(self._peak, self._now)

    def drop(self, tensor: Tensor) -> None:
        at = _storage(tensor)
        self._held[at] -= 1
        if self._held[at] == 0:
            self._now -= tensor.untyped_storage().nbytes()


class _Holder:
    """What is saved in a tensor's place; the graph lets go of it when its node is done."""

    def __init__(self, saved: Saved, value: Any) -> None:
        # a tensor with its history would keep its own node alive
        self.value = value.detach() if isinstance(value, Tensor) else value
        self._saved, self._tensors = saved, _tensors_in(value)
        for tensor in self._tensors:
            saved.take(tensor)

    def __del__(self) -> None:
        for tensor in self._tensors:
            self._saved.drop(tensor)


def _tensors_in(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value.detach()]
    if isinstance(value, (tuple, list)):
        return [t for v in value for t in _tensors_in(v)]
    return [v.detach() for v in getattr(value, "__dict__", {}).values() if isinstance(v, Tensor)]


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage().data_ptr())


def saved_bytes(work: Callable[[], object], model: nn.Module) -> Kept:
    """What autograd held at once during ``work()``, a forward and a backward pass."""
    with Saved(model) as saved:
        work()
    return saved.kept


def optimizer_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of the optimizer's state that grow with the weights (not its step counters)."""
    states = optimizer.state.values()
    return sum(
        v.numel() * v.element_size()
        for state in states
        for v in state.values()
        if isinstance(v, Tensor) and v.dim() > 0
    )


# Timing


@dataclass(frozen=True)
class Timing:
    """Seconds of every side's turns; turn ``i`` of all sides lies in the same round."""

    seconds: Mapping[str, tuple[float, ...]]

    def median(self, side: str) -> float:
        return median(self.seconds[side])

    def least(self, side: str) -> float:
        return min(self.seconds[side])

    def spread(self, *sides: str) -> float:
        """The largest of max/median over the sides (all, if none is named)."""
        chosen = sides or tuple(self.seconds)
        return max(max(self.seconds[s]) / self.median(s) for s in chosen)

    def ratio(self, ours: str, theirs: str) -> tuple[float, float, float]:
        """Median of ``ours`` over median of ``theirs``, with a 95% bootstrap interval.

        Rounds are resampled, not single turns: what slowed a round slowed both sides of it.
        """
        a, b = np.array(self.seconds[ours]), np.array(self.seconds[theirs])
        rounds = np.random.default_rng(0).integers(len(a), size=(RESAMPLES, len(a)))
        ratios = np.median(a[rounds], axis=1) / np.median(b[rounds], axis=1)
        low, high = np.quantile(ratios, (0.025, 0.975))
        return float(np.median(a) / np.median(b)), float(low), float(high)


def take_turns(
    sides: Mapping[str, Callable[[], object]],
    *,
    repeats: int = REPEATS,
    warm_up: int = 1,
    attempts: int = 2,
    clock: Clock = time.process_time,
) -> Timing:
    """Time sides against each other: ABBA for two, ABCCBA for three.

    Each side's first ``warm_up`` turns are thrown away (0 for sides that have run already).
    If a side was unsteady (``max/median > UNSTEADY``) everything is timed again, at most
    ``attempts`` times; what stays unsteady shows in :meth:`Timing.spread` and no ratio of it
    is reported.

    Args:
        sides: name to what is timed, one turn per call; the result is dropped.
        clock: seconds; processor time of this process unless told.
    """
    for work in sides.values():
        for _ in range(warm_up):
            work()
    best: Timing | None = None
    for _ in range(attempts):
        timing = _turns(sides, repeats, clock)
        if best is None or timing.spread() < best.spread():
            best = timing
        if best.spread() <= UNSTEADY:
            break
    assert best is not None
    return best


def _turns(sides: Mapping[str, Callable[[], object]], repeats: int, clock: Clock) -> Timing:
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats):
        order = list(sides) if turn % 2 == 0 else list(reversed(list(sides)))
        for name in order:
            began = clock()
            sides[name]()
            seconds[name].append(clock() - began)
    return Timing({name: tuple(values) for name, values in seconds.items()})
