"""Learning, forgetting and their intervals, from per-example answers.

Everything here is a pure function of numbers; names are imported on first use, so that
``import holdfast`` does not wait for numpy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.measures.answers import Transition as Transition
    from holdfast.measures.formulas import MEASURES as MEASURES
    from holdfast.measures.interval import Estimate as Estimate
    from holdfast.measures.interval import bootstrap_change as bootstrap_change
    from holdfast.measures.interval import bootstrap_mean as bootstrap_mean
    from holdfast.measures.interval import over_runs as over_runs
    from holdfast.measures.matrix import AccuracyMatrix as AccuracyMatrix
    from holdfast.measures.pareto import Point as Point
    from holdfast.measures.pareto import Setting as Setting
    from holdfast.measures.pareto import matched_learning as matched_learning
    from holdfast.measures.pareto import pareto_front as pareto_front
    from holdfast.measures.summary import Summary as Summary
    from holdfast.measures.summary import summarise as summarise

_WHERE = {
    "AccuracyMatrix": "matrix",
    "Estimate": "interval",
    "MEASURES": "formulas",
    "Point": "pareto",
    "Setting": "pareto",
    "Summary": "summary",
    "Transition": "answers",
    "bootstrap_change": "interval",
    "bootstrap_mean": "interval",
    "matched_learning": "pareto",
    "over_runs": "interval",
    "pareto_front": "pareto",
    "summarise": "summary",
}

__all__ = [
    "MEASURES",
    "AccuracyMatrix",
    "Estimate",
    "Point",
    "Setting",
    "Summary",
    "Transition",
    "bootstrap_change",
    "bootstrap_mean",
    "matched_learning",
    "over_runs",
    "pareto_front",
    "summarise",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
