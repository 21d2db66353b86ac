"""Whether what a model will be given fits it: a place for every question, a row for every token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from holdfast.data import Encoder
from holdfast.errors import DataError, ModelError
from holdfast.progress import Progress
from holdfast.tasks import Task
from holdfast.tasks.batches import context_length
from holdfast.tasks.harness import HarnessTask

PLACEHOLDERS = ("image_token_id", "image_token_index", "video_token_id", "video_token_index")
"""Tokens that a model replaces before it looks up embeddings."""


def check_tokens(
    shape: nn.Module, encoder: Encoder, encoded: Sequence[Mapping[str, Any]], label: str
) -> None:
    """Raise :class:`ModelError` if data has a token that the model has no embedding for.

    A tokenizer that is larger than the embedding does no harm as long as its other tokens are
    not used.

    Args:
        shape: the model, on the meta device.
        encoded: records as the model reads them.
        label: what the user calls them.
    """
    rows = _rows(shape)
    most = max(encoder.tokenizer.get_vocab().values(), default=-1)
    if rows is None or most < rows:
        return
    config = getattr(shape, "config", None)
    replaced = {getattr(config, name, None) for name in PLACEHOLDERS}
    for index in range(len(encoded)):
        _check(encoded[index]["input_ids"].tolist(), replaced, rows, encoder, f"{label}, {index}")


def check_questions(
    shape: nn.Module, encoder: Encoder, tasks: Sequence[Task], progress: Progress
) -> None:
    """Raise :class:`DataError` naming every question that does not fit with its answer into the
    model's positions, and :class:`ModelError` for a token without an embedding."""
    room, rows = context_length(shape), _rows(shape)
    replaced = {getattr(getattr(shape, "config", None), name, None) for name in PLACEHOLDERS}
    problems: list[str] = []
    for task in tasks:
        if isinstance(task, HarnessTask):
            continue
        with progress.bar(f"reading the questions of {task.name}") as advance:
            for done, example in enumerate(task.examples, 1):
                ids = encoder.encode_prompt(example.prompt)["input_ids"].tolist()
                if rows is not None:
                    _check(ids, replaced, rows, encoder, f"{task.name}, {example.id}")
                answer = _answer(encoder, task, example.choices)
                if room is not None and len(ids) + answer > room:
                    problems.append(
                        f"{task.name}, {example.id}: {len(ids)} tokens and up to {answer} of an "
                        f"answer; the model has {room} positions"
                    )
                advance(done, len(task.examples))
    if problems:
        more = f"\n  and {len(problems) - 10} more" if len(problems) > 10 else ""
        listed = "\n  ".join(problems[:10])
        raise DataError(
            f"{len(problems)} questions do not fit into the model. Shorten them, lower the task's "
            f"max_new_tokens, or leave them out:\n  {listed}{more}",
            problems,
        )


def _answer(encoder: Encoder, task: Task, choices: Sequence[str]) -> int:
    if task.ask != "choices":
        return task.max_new_tokens
    sizes = (len(encoder.tokenizer.encode(c, add_special_tokens=False)) for c in choices)
    return max(sizes, default=0)


def _rows(shape: nn.Module) -> int | None:
    get = getattr(shape, "get_input_embeddings", None)
    table = get() if get is not None else None
    weight = getattr(table, "weight", None)
    return int(weight.shape[0]) if weight is not None else None


def _check(ids: Sequence[int], replaced: set[Any], rows: int, encoder: Encoder, where: str) -> None:
    beyond = next((i for i in ids if i >= rows and i not in replaced), None)
    if beyond is None:
        return
    token = encoder.tokenizer.convert_ids_to_tokens(beyond)
    raise ModelError(
        f"the tokenizer does not go with the model: its token {token!r} has number {beyond}, and "
        f"the model has embeddings for 0 to {rows - 1} ({where}). Use the tokenizer that the model "
        "was trained with, or enlarge the model (resize_token_embeddings) and save it."
    )
