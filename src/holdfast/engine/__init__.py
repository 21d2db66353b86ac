"""Trains a model under a plan, on transformers' Trainer and TRL's."""

from __future__ import annotations

from typing import Any

__all__ = ["Preflight", "preflight", "tune", "with_plan"]


def __getattr__(name: str) -> Any:
    if name in ("Preflight", "preflight"):
        from holdfast.engine import preflight as module

        return getattr(module, name)
    if name == "tune":
        from holdfast.engine.tune import tune

        return tune
    if name == "with_plan":
        from holdfast.engine.mixin import with_plan

        return with_plan
    raise AttributeError(name)
