"""Change what a language or multimodal model knows, on purpose and with proof.

    load(name)                     a model and its processor, or a tuned one
    tune(model, data, method, ...) teach a skill, measure what was learned and lost
    within(model, data, budget=1)  the most learning inside a budget of forgetting, with a promise
    advise(model, data)            what to do in a situation, without the training
    evaluate(model, tasks)         score a model
    compare(base, tuned, tasks)    what a change did: lost, gained, and whether it is real
    repair(base, tuned, ...)       take the harm of a change back, keep the skill; no training
    merge(base, models, out, ...)  one model out of several that were tuned from one base
    with_plan(Trainer, method)     the same training inside a script of your own
    continual_evaluation(tasks, p) a callback that scores tasks while any Trainer trains
    select(model, "gate-up")       the weights that a selector or recipe means
    export(run, folder)            a tuned model for others to use

Nothing heavy is imported before one of these is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from holdfast.network import settle

if TYPE_CHECKING:
    from holdfast.anatomy import select
    from holdfast.api import evaluate, tune, within
    from holdfast.budget.advise import advise
    from holdfast.changes.compare import compare
    from holdfast.changes.merge.combine import merge
    from holdfast.changes.repair.search import repair
    from holdfast.engine.continual import continual_evaluation
    from holdfast.engine.mixin import with_plan
    from holdfast.models.loading import load
    from holdfast.models.saving import export
    from holdfast.plan import Plan
    from holdfast.runs import Run

_HOMES = {
    "Plan": "holdfast.plan",
    "Run": "holdfast.runs",
    "advise": "holdfast.budget.advise",
    "compare": "holdfast.changes.compare",
    "continual_evaluation": "holdfast.engine.continual",
    "evaluate": "holdfast.api",
    "export": "holdfast.models.saving",
    "load": "holdfast.models.loading",
    "merge": "holdfast.changes.merge.combine",
    "repair": "holdfast.changes.repair.search",
    "select": "holdfast.anatomy",
    "tune": "holdfast.api",
    "with_plan": "holdfast.engine.mixin",
    "within": "holdfast.api",
}

__all__ = [
    "Plan",
    "Run",
    "advise",
    "compare",
    "continual_evaluation",
    "evaluate",
    "export",
    "load",
    "merge",
    "repair",
    "select",
    "tune",
    "with_plan",
    "within",
]
__version__ = "0.1.0"

settle()  # before a library that would call home is imported


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'holdfast' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
