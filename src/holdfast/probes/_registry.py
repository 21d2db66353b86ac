"""The table of probes, and what a probe is."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from holdfast.probes._rows import ProbeResult
from holdfast.registry import Registry

Measure = Callable[[Any], ProbeResult]
"""``measure(tuned) -> ProbeResult``: what is left to do once the base has been read."""


@dataclass(frozen=True)
class Probe:
    """A registered probe: ``probe(base, tuned, processor, prompts, **settings)``."""

    name: str
    function: Callable[..., ProbeResult]
    prepare: Callable[..., Measure] | None = None
    """``prepare(base, processor, prompts, **settings)``: reads the base once, for probes that
    need only the tuned model afterwards. These can run while a model trains."""
    weights: bool = False
    """Whether it reads weights and no prompts; models may then be folders."""
    images: bool = False
    """Whether it needs prompts with images."""

    def __call__(self, *args: Any, **kwargs: Any) -> ProbeResult:
        return self.function(*args, **kwargs)

    @property
    def settings(self) -> dict[str, object]:
        """Each setting behind the models and prompts, with its default."""
        return {
            p.name: p.default
            for p in inspect.signature(self.function).parameters.values()
            if p.kind is p.KEYWORD_ONLY
        }


PROBES: Registry[Probe] = Registry(
    "probe",
    "holdfast.probes._token_bias",
    "holdfast.probes._divergence",
    "holdfast.probes._layers",
    "holdfast.probes._weights",
    "holdfast.probes._image",
)
"""Every probe by name: ours, and third parties' (entry-point group ``holdfast.probes``)."""


def probe(
    name: str,
    *,
    summary: str,
    paper: str,
    prepare: Callable[..., Measure] | None = None,
    weights: bool = False,
    images: bool = False,
) -> Callable[[Callable[..., ProbeResult]], Probe]:
    """Register ``function(base, tuned, processor, prompts, **settings)`` as the probe ``name``."""

    def add(function: Callable[..., ProbeResult]) -> Probe:
        made = Probe(name, function, prepare, weights, images)
        object.__setattr__(made, "__doc__", function.__doc__)
        PROBES.register(name, summary=summary, paper=paper)(made)
        return made

    return add
