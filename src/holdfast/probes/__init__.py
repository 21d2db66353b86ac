"""What tuning did to a model's outputs and weights, apart from the score.

A probe compares a base and a tuned model and returns rows with intervals:
``PROBES["divergence"].value(base, tuned, processor, prompts)``. Names are imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.probes._callback import ProbeCallback
    from holdfast.probes._contexts import Contexts, answered, contexts, replied
    from holdfast.probes._divergence import divergence
    from holdfast.probes._image import image_reliance
    from holdfast.probes._layers import layers
    from holdfast.probes._offset import (
        ClassOffset,
        SubtractOffset,
        class_offset,
        debiased,
        offset_of,
    )
    from holdfast.probes._over_runs import probe_runs
    from holdfast.probes._reading import Reading, read
    from holdfast.probes._registry import PROBES, Probe, probe
    from holdfast.probes._relate import Related, relate
    from holdfast.probes._rows import ProbeResult, ProbeRow, frame
    from holdfast.probes._token_bias import token_bias
    from holdfast.probes._token_class import (
        NAMED,
        TokenClass,
        classes_of,
        number_tokens,
        token_class,
    )
    from holdfast.probes._weights import weights

_HOMES = {
    "ClassOffset": "_offset",
    "Contexts": "_contexts",
    "NAMED": "_token_class",
    "PROBES": "_registry",
    "Probe": "_registry",
    "ProbeCallback": "_callback",
    "ProbeResult": "_rows",
    "ProbeRow": "_rows",
    "Reading": "_reading",
    "Related": "_relate",
    "SubtractOffset": "_offset",
    "TokenClass": "_token_class",
    "answered": "_contexts",
    "class_offset": "_offset",
    "classes_of": "_token_class",
    "contexts": "_contexts",
    "debiased": "_offset",
    "divergence": "_divergence",
    "frame": "_rows",
    "image_reliance": "_image",
    "layers": "_layers",
    "number_tokens": "_token_class",
    "probe": "_registry",
    "probe_runs": "_over_runs",
    "offset_of": "_offset",
    "read": "_reading",
    "relate": "_relate",
    "replied": "_contexts",
    "token_bias": "_token_bias",
    "token_class": "_token_class",
    "weights": "_weights",
}

__all__ = [
    "NAMED",
    "PROBES",
    "ClassOffset",
    "Contexts",
    "Probe",
    "ProbeCallback",
    "ProbeResult",
    "ProbeRow",
    "Reading",
    "Related",
    "SubtractOffset",
    "TokenClass",
    "answered",
    "class_offset",
    "classes_of",
    "contexts",
    "debiased",
    "divergence",
    "frame",
    "image_reliance",
    "layers",
    "number_tokens",
    "offset_of",
    "probe",
    "probe_runs",
    "read",
    "relate",
    "replied",
    "token_bias",
    "token_class",
    "weights",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
