"""Scorers as rewards: for TRL's reinforcement trainers, and for choosing what they train on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from holdfast.data import Encoder
from holdfast.errors import UsageError
from holdfast.tasks.base import Example, Task
from holdfast.tasks.batches import Prompts
from holdfast.tasks.decoding import Sampled
from holdfast.tasks.generation import stop_ids, write_tokens
from holdfast.tasks.room import BatchSize
from holdfast.tasks.scorers import SCORERS

Reward = Callable[..., list[float]]


def reward(task: Task | str, column: str = "references") -> Reward:
    """A task's scorer as one of TRL's ``reward_funcs``.

    It reads each completion's text (of a conversation, that of its last turn) and scores it, 0 to
    1, against the acceptable answers in the data set's column ``column``: a text or a list.

    Args:
        task: whose scorer it is, or a scorer's name.

    Example:
        >>> GRPO = holdfast.with_plan(GRPOTrainer, "sa-proj")
        >>> data = Dataset.from_list(questions(task))
        >>> GRPO(model, reward_funcs=reward(task), train_dataset=data, args=args).train()

    Raises:
        UnknownName: there is no such scorer.
        UsageError: the task is asked by choices; when called, the column is not there.
    """
    if isinstance(task, Task) and task.ask != "generate":
        raise UsageError(f"'{task.name}' compares choices, which are no answers to reward.")
    name = task.scorer if isinstance(task, Task) else task
    scorer = SCORERS[name].value

    def score(completions: Sequence[Any], **columns: Any) -> list[float]:
        if column not in columns:
            raise UsageError(
                f"the reward '{name}' reads the acceptable answers from the column '{column}'; "
                f"the data set has: {', '.join(sorted(columns))}."
            )
        pairs = zip(completions, columns[column], strict=True)
        return [scorer(_said(text), _several(known)).value for text, known in pairs]

    score.__name__ = name  # TRL logs it by this
    return score


def questions(task: Task) -> list[dict[str, Any]]:
    """A task's examples as rows for TRL: ``prompt`` (a conversation) and ``references``.

    Raises :class:`UsageError` for a task with images: TRL wants them decoded, so that such a row
    is best made by hand.
    """
    if any(example.prompt.images for example in task.examples):
        raise UsageError(f"'{task.name}' has images; use holdfast.tune with the method grpo.")
    return [
        {
            "prompt": [{"role": m.role, "content": m.text} for m in example.prompt.messages],
            "references": list(example.references),
        }
        for example in task.examples
    ]


def success_rates(
    model: nn.Module,
    processor: Any,
    examples: Sequence[Example],
    *,
    scorer: str = "exact",
    samples: int = 8,
    least: float = 1.0,
    temperature: float = 1.0,
    max_new_tokens: int = 32,
    seed: int = 0,
    batch_size: BatchSize = "auto",
) -> list[float]:
    """For each example the share of ``samples`` sampled answers that a scorer gives ``least``.

    :func:`holdfast.pieces.learnable.learnable` keeps those between two bounds, as the method
    ``rif`` does within a run.

    Raises:
        DataError: a prompt does not fit. UnknownName: there is no such scorer.
    """
    encoder = Encoder(processor)
    prompts = Prompts(encoder, [example.prompt for example in examples])
    prompts.check_fit(model, max_new_tokens)
    rows = [i for i in range(len(examples)) for _ in range(samples)]
    stops = stop_ids(model, encoder)
    written = write_tokens(
        model,
        lambda row: prompts[rows[row]],
        [prompts.lengths[i] for i in rows],
        max_new_tokens=max_new_tokens,
        stops=stops,
        pad=encoder.pad_id,
        pick=Sampled(len(rows), max_new_tokens, temperature, seed),
        batch_size=batch_size,
    )
    right = [0] * len(examples)
    value = SCORERS[scorer].value
    for i, ids in zip(rows, written, strict=True):
        text = encoder.tokenizer.decode(
            [t for t in ids if t not in stops], skip_special_tokens=True
        )
        right[i] += value(text, examples[i].references).value >= least
    return [count / samples for count in right]


def _said(completion: Any) -> str:
    if isinstance(completion, str):
        return completion
    content = completion[-1]["content"] if completion else ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


def _several(known: Any) -> list[str]:
    return [known] if isinstance(known, str) else [str(one) for one in known]
