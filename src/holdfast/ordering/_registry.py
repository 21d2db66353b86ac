"""The table of scorers of examples, and what one is given to work with."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, get_type_hints

from pydantic import TypeAdapter, ValidationError

from holdfast.data.orders import Keep
from holdfast.errors import ConfigError, UnknownName
from holdfast.progress import Progress
from holdfast.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor, nn

Encoded = Mapping[str, "Tensor"]
Collate = Callable[[list[Any]], Mapping[str, Any]]


@dataclass
class Work:
    """What a scorer reads, and where it keeps what it found so far.

    A scorer may change the model's weights; nobody reads it afterwards.
    """

    model: nn.Module
    """In evaluation mode, frozen, on its device."""
    examples: Sequence[Any]
    """Encoded records (``input_ids``, ``labels`` ... each [T]), each encoded when it is read."""
    collate: Collate
    folder: Path
    """The scorer's own; what lies there is of the same model, data and settings."""
    target: Sequence[Any] = ()
    """Encoded records of the data that the model is to be good at, for a scorer that asks."""
    batch_size: int = 8
    """Examples in a forward pass."""
    seed: int = 0
    scope: Sequence[str] | None = None
    """Names of the weights whose gradients count; None: all."""
    progress: Progress = field(default_factory=Progress)

    def batch(self, examples: Sequence[Any], indices: Sequence[int]) -> dict[str, Any]:
        """Some examples as one batch on the model's device."""
        device = next(self.model.parameters()).device
        rows = dict(self.collate([examples[i] for i in indices]))
        return {k: v.to(device) if hasattr(v, "to") else v for k, v in rows.items()}


class Ranker(Protocol):
    """``scorer(work, **settings) -> scores``: one number an example, higher or lower is better."""

    def __call__(self, work: Work, **settings: Any) -> list[float]: ...


@dataclass(frozen=True)
class Scorer:
    """A registered scorer."""

    run: Callable[..., list[float]]
    keep: Keep
    """The end of the scores that a selection keeps."""
    needs_target: bool
    precise: bool
    """Whether it is computed in float32 whatever the model was saved in."""

    def settings(self, name: str, given: Mapping[str, str]) -> dict[str, Any]:
        """Every setting, given or default, checked against its annotation.

        Raises:
            UnknownName: a setting that the scorer does not have.
            ConfigError: a value of another type, or out of its range.
        """
        known = {k: p.default for k, p in _parameters(self.run)}
        hints = get_type_hints(self.run, include_extras=True)
        for key, value in given.items():
            if key not in known:
                raise UnknownName(f"setting of '{name}' called", key, known)
            try:
                known[key] = TypeAdapter(hints[key]).validate_python(value)
            except ValidationError as error:
                reason = error.errors()[0]["msg"]
                raise ConfigError(f"'{name}' was given {key}={value!r}: {reason}.") from None
        return known


def _parameters(function: Callable[..., Any]) -> Iterator[tuple[str, inspect.Parameter]]:
    parameters = list(inspect.signature(function).parameters.items())
    yield from parameters[1:]  # the first is the work


RANKERS: Registry[Scorer] = Registry(
    "data-scorer",
    "holdfast.ordering.perplexity",
    "holdfast.ordering.el2n",
    "holdfast.ordering.grand",
    "holdfast.ordering.learnability",
    "holdfast.ordering.lqs",
)
"""Every scorer by name: ours, and third parties' (entry-point group ``holdfast.data-scorers``)."""


def scorer(
    name: str,
    *,
    summary: str,
    paper: str,
    keep: Keep = "high",
    needs_target: bool = False,
    precise: bool = False,
) -> Callable[[Callable[..., list[float]]], Callable[..., list[float]]]:
    """Register ``function(work, **settings)`` as the scorer ``name``.

    Args:
        keep: which end of its scores a selection keeps by default.
        needs_target: it reads ``work.target``.
        precise: compute in float32 whatever the model was saved in.
    """

    def add(function: Callable[..., list[float]]) -> Callable[..., list[float]]:
        entry = Scorer(function, keep, needs_target, precise)
        RANKERS.register(name, summary=summary, paper=paper)(entry)
        return function

    return add
