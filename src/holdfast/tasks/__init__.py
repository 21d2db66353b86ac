"""What a model is asked, how it is asked, and how its answers are scored."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from holdfast.tasks.base import Answer, Example, Score, Task, TaskResult
from holdfast.tasks.scorers import SCORERS

if TYPE_CHECKING:
    from holdfast.tasks.ask import evaluate
    from holdfast.tasks.generation import generate
    from holdfast.tasks.likelihood import choice_logprobs
    from holdfast.tasks.resolve import load_task
    from holdfast.tasks.userfile import task_from_records

_LAZY = {
    "choice_logprobs": "holdfast.tasks.likelihood",
    "evaluate": "holdfast.tasks.ask",
    "generate": "holdfast.tasks.generation",
    "load_task": "holdfast.tasks.resolve",
    "task_from_records": "holdfast.tasks.userfile",
}

__all__ = [
    "SCORERS",
    "Answer",
    "Example",
    "Score",
    "Task",
    "TaskResult",
    "choice_logprobs",
    "evaluate",
    "generate",
    "load_task",
    "task_from_records",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
