"""The five ways in which a lost example is tried again."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from holdfast.changes.diagnose import SPACE, Try
from holdfast.changes.lenient import finds, options, with_options
from holdfast.data import Encoder, collate
from holdfast.data.records import Message, Part, Record, say
from holdfast.errors import HoldfastError
from holdfast.tasks.ask import evaluate
from holdfast.tasks.base import Answer, Example, Task
from holdfast.tasks.generation import generate
from holdfast.tasks.likelihood import choice_logprobs
from holdfast.tasks.scorers import SCORERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from holdfast.changes.compare import Comparison
    from holdfast.models.loading import Loaded

ROOM = 4
"""How many times the task's tokens a reply may have when it is read for its content."""
CONTEXTS = 48
"""Prompts of each task on which offsets are estimated."""
TEN, STEPS, RATE, ENOUGH = 10, 30, 1e-3, 0.15
"""Realignment: examples, steps at most, learning rate, and the loss at which it stops."""
HINTS = {
    "letter": "Answer with the option's letter only.",
    "integer": "Answer with a number only.",
    "yes_no": "Answer yes or no.",
    "clock": "Answer as HH:MM.",
}
HINT = "Answer the question using a single word or phrase."


def lenient(two: Loaded, task: Task, space: Sequence[str]) -> Try:
    """Written out with more room, and read for its content."""
    room = max(ROOM * task.max_new_tokens, 32)
    replies = _replies(two, task, room)
    listed = [options(e.prompt) for e in task.examples]
    words = [
        with_options(e.references, found) for e, found in zip(task.examples, listed, strict=True)
    ]

    def found(i: int, j: int) -> bool:
        others = [*space, *(w for r, w in listed[j].items())] if i == j else list(space)
        return finds(
            replies[i], words[j] if i == j else task.examples[j].references, others, task.scorer
        )

    return found


def ranked(two: Loaded, task: Task, space: Sequence[str], rng: np.random.Generator) -> Try:
    """The task's answers (or a sample of them with the right one), by likelihood per token."""
    choices = []
    for example in task.examples:
        others = [a for a in space if a not in example.references]
        few = [others[int(k)] for k in rng.permutation(len(others))[: SPACE - 1]]
        choices.append(sorted({example.references[0], *few}))
    prompts = [e.prompt for e in task.examples]
    logprobs = choice_logprobs(two.model, two.processor, prompts, choices)
    best = [c[int(np.argmax(p))] for c, p in zip(choices, logprobs, strict=True)]
    return _scored(task, [[b] for b in best])


def prompted(two: Loaded, task: Task) -> Try:
    """In other words, with the form of the answer spelled out; the data's own paraphrases too."""
    hint = HINTS.get(task.scorer, HINT)
    asked: list[tuple[int, Example]] = []
    for i, example in enumerate(task.examples):
        text = example.prompt.messages[-1].text
        ways = (f"{text}\n{hint}", f"Question: {text}\n{hint}", f"{hint}\n{text}")
        for k, words in enumerate((*ways, *_paraphrases(example))):
            prompt = _reworded(example.prompt, words)
            asked.append((i, replace(example, prompt=prompt, id=f"{i}.{k}")))
    said = _answers(two, replace(task, examples=tuple(example for _, example in asked)))
    replies: list[list[str]] = [[] for _ in task.examples]
    for (i, _), reply in zip(asked, said, strict=True):
        replies[i].append(reply)
    return _scored(task, replies)


def debiased(
    two: Loaded, task: Task, offsets: Offsets, answers: Sequence[Answer], notes: list[str]
) -> Try:
    """With the offset that the change put on the tokens of the wrong replies subtracted."""
    from holdfast.probes import debiased as without

    found = offsets.of([a.reply for a in answers])
    if not found:
        return lambda i, j: False
    notes.append(
        "offsets subtracted: "
        + ", ".join(f"{chosen.name} {value:+.2f}" for chosen, value in found.items())
    )
    with without(two.model, found):
        replies = _answers(two, task)
    return _scored(task, [[r] for r in replies])


class Offsets:
    """What the change added to the logits of classes of tokens, estimated where no answer is
    looked up: on the base's own replies to every task's prompts."""

    def __init__(self, one: Loaded, two: Loaded, tasks: Sequence[Task], found: Comparison) -> None:
        self._one, self._two = one, two
        self._prompts = [
            e.prompt for t in tasks for e in list(getattr(t, "examples", ()))[:CONTEXTS]
        ]
        self._replies = [b.reply for pairs in found.answers.values() for b, _ in pairs]
        self._readings: tuple[Any, Any, Any] | None = None

    def of(self, replies: Sequence[str]) -> dict[Any, float]:
        """The offset of each class that ``replies`` are written with."""
        from holdfast.probes import classes_of, offset_of

        tokenizer = getattr(self._two.processor, "tokenizer", self._two.processor)
        said = [r for r in replies if r.strip()]
        if not said:
            return {}
        contexts, before, after = self._read()
        found = {}
        for chosen in classes_of(said, tokenizer, background=self._replies):
            with suppress(HoldfastError):  # a class that the base's replies never leave
                offset = offset_of(before, after, chosen, contexts.clusters)
                if offset.offset.low > 0:
                    found[offset.token_class] = offset.offset.value
        return found

    def _read(self) -> tuple[Any, Any, Any]:
        from holdfast.probes import read, replied

        if self._readings is None:
            one, two = self._one, self._two
            contexts = replied(one.model, one.processor, self._prompts, max_new_tokens=16)
            self._readings = (contexts, read(one.model, contexts), read(two.model, contexts))
        return self._readings


def realigned(
    two: Loaded,
    whole: Task,
    task: Task,
    pairs: Sequence[tuple[Answer, Answer]],
    rng: np.random.Generator,
    notes: list[str],
) -> Try:
    """After a few steps of LoRA on ten examples of the task that the base was right on.

    The ten have at most half of the task's answers, and only examples with one of the other
    answers count as found: what is taught again is the form, not the fact.
    """
    right = {b.id for b, _ in pairs if b.score > 0}
    known = [e for e in whole.examples if e.id in right]
    answers = list(dict.fromkeys(e.references[0] for e in known))
    taught = {answers[int(i)] for i in rng.permutation(len(answers))[: (len(answers) + 1) // 2]}
    pool = [e for e in known if e.references[0] in taught]
    pool = [pool[int(i)] for i in rng.permutation(len(pool))[:TEN]]
    taught = {e.references[0] for e in pool}
    left = sum(e.references[0] not in taught for e in task.examples)
    if len(pool) < 2 or not left:
        notes.append("not realigned: too few answers to teach some and ask for others")
        return lambda i, j: False
    with _adapted(two, pool):
        replies = _answers(two, task)
    score = _scored(task, [[r] for r in replies])
    return lambda i, j: task.examples[i].references[0] not in taught and score(i, j)


@contextmanager
def _adapted(two: Loaded, examples: Sequence[Example]) -> Iterator[None]:
    """Within, the model has a small adapter that was trained on ``examples``; then it is gone."""
    from peft import LoraConfig, get_peft_model
    from transformers.pytorch_utils import Conv1D

    from holdfast.anatomy import select

    model = two.model
    free = {n: p.requires_grad for n, p in model.named_parameters()}
    owners = {
        n.rpartition(".")[0] for n in select(model, "language.attn + language.mlp").parameters
    }
    modules = dict(model.named_modules())
    names = [n for n in owners if isinstance(modules.get(n), torch.nn.Linear | Conv1D)]
    state = torch.get_rng_state()
    torch.manual_seed(0)
    config = LoraConfig(r=8, lora_alpha=16, target_modules=sorted(names))
    adapted: Any = get_peft_model(model, config)
    try:
        _teach(adapted, two.processor, examples)
        adapted.eval()
        yield
    finally:
        adapted.unload()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(free[name])
        torch.set_rng_state(state)


def _teach(model: Any, processor: Any, examples: Sequence[Example]) -> None:
    encoder = Encoder(processor)
    records = [
        Record((*e.prompt.messages, say("assistant", e.references[0])), e.prompt.images, e.id)
        for e in examples
    ]
    batch = collate([encoder(r) for r in records], pad_id=encoder.pad_id)
    device = next(model.parameters()).device
    batch = {k: v.to(device) for k, v in batch.items()}
    moving = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(moving, lr=RATE, weight_decay=0.0)
    for _ in range(STEPS):
        loss = model(**batch).loss
        if loss.item() < ENOUGH:
            return
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()


def _replies(two: Loaded, task: Task, room: int) -> list[str]:
    prompts = [e.prompt for e in task.examples]
    return generate(two.model, two.processor, prompts, max_new_tokens=room)


def _answers(two: Loaded, task: Task) -> list[str]:
    """What the model replies when the task is asked as it is."""
    (result,) = evaluate(two.model, two.processor, [task])
    return [a.reply for a in result.answers]


def _scored(task: Task, replies: Sequence[Sequence[str]]) -> Try:
    """Whether one of example i's replies is a right answer to example j."""

    def found(i: int, j: int) -> bool:
        references = task.examples[j].references
        if task.ask == "choices":
            return any(r in references for r in replies[i])
        return any(SCORERS[task.scorer].value(r, references).value >= 0.999 for r in replies[i])

    return found


def _reworded(prompt: Record, text: str) -> Record:
    """The prompt with other words in its last turn; its images come first."""
    *before, last = prompt.messages
    images = [p for p in last.parts if p.kind == "image"]
    said = Message(last.role, (*images, Part("text", text)), last.train)
    return replace(prompt, messages=(*before, said))


def _paraphrases(example: Example) -> list[str]:
    found = example.prompt.meta.get("paraphrases")
    return [str(t) for t in found] if isinstance(found, list | tuple) else []
