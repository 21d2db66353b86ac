"""Which cells to roll back first, from what the layer probe sees without asking any task."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import replace

from holdfast.changes.repair.attempts import Attempts
from holdfast.changes.repair.blend import BASE
from holdfast.changes.repair.groups import Group
from holdfast.changes.repair.questions import Role
from holdfast.data.records import Record, say
from holdfast.errors import ModelError, UsageError
from holdfast.models.loading import load_all
from holdfast.probes import layers
from holdfast.tasks import Example

PROMPTS = 24
"""Of the held-out tasks, and as many of the learned ones."""
MEASURE = "delta_by_weights"

Moves = Mapping[tuple[int, str], float]


def ranking(attempts: Attempts, groups: Sequence[Group], tuned: str) -> dict[str, float]:
    """A number for each group's selector: above 1 where it moves held-out prompts more.

    For attention and MLP of a block: how far its *own* weights move what it writes, in logits,
    on held-out prompts over how far they do on prompts of the skill, each as a share of all
    blocks (see :func:`holdfast.probes.layers`). What the probe does not see (embeddings, norms,
    other towers) is 1: neither. Kept, so that a search that goes on does not measure again.
    """
    if not any(g.block for g in groups):
        return {g.selector: 1.0 for g in groups}
    attempts.progress.say("ranking the blocks by the layer probe")

    def measured() -> dict[str, float]:
        try:
            held, skill = _measure(attempts, tuned)
        except (ModelError, UsageError) as error:
            attempts.progress.say(f"no ranking by the layer probe: {error}")
            return {g.selector: 1.0 for g in groups}
        return {g.selector: _ratio(g, held, skill) for g in groups}

    return {str(k): float(v) for k, v in attempts.remember("ranking", measured).items()}


def _measure(attempts: Attempts, tuned: str) -> tuple[Moves, Moves]:
    live = attempts.live
    live.become(BASE)
    other = load_all(tuned, device=live.device)
    model = other.model.to(next(live.model.parameters()).dtype)
    found = []
    for role in ("held_out", "learned"):
        prompts = answered(attempts, role, PROMPTS)
        if not prompts:
            raise UsageError("lm-eval's tasks have no prompts that a probe could read.")
        rows = layers(live.model, model, live.loaded.processor, prompts, classes=()).find(MEASURE)
        moved = {(r.block, r.part): r.value for r in rows if r.block is not None and r.part}
        total = sum(moved.values()) or 1.0
        found.append({k: v / total for k, v in moved.items()})
    del other, model
    gc.collect()
    return found[0], found[1]


def _ratio(group: Group, held: Moves, skill: Moves) -> float:
    if group.block is None or group.block not in held:
        return 1.0
    tiny = 1e-6
    return (held[group.block] + tiny) / (skill[group.block] + tiny)


def answered(attempts: Attempts, role: Role, most: int) -> list[Record]:
    """Prompts with their right answers, from the half that chooses, evenly over the tasks."""
    tasks = list(attempts.questions.examples(role, "select").values())
    if not tasks:
        return []
    each = max(1, most // len(tasks))
    return [with_answer(e) for examples in tasks for e in examples[:each]]


def with_answer(example: Example) -> Record:
    """A question with its first reference as the answer."""
    answer = say("assistant", example.references[0].strip())
    return replace(example.prompt.prompt(), messages=(*example.prompt.prompt().messages, answer))
