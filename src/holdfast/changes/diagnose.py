"""Is what was lost gone, or only hidden? Every lost example is tried again, in five ways.

    lenient    read for its content, with room to finish                        -> format
    debiased   decoded with the class offset of the change subtracted           -> drift
    ranked     the task's answers compared by their likelihood                  -> drift
    prompted   asked in other words, with the form of the answer spelled out    -> format
    realigned  asked after a few steps on ten examples, others of the same task -> format
    none       what the model knew is not found in any of these ways            -> knowledge

The first that finds the right answer names the cause, in this order: a reply that holds the
right answer is a matter of form whatever else is true of it.

Five tries find a right answer by luck, too. How often is measured: the same tries are held
against the right answers of *other* lost examples, and the split is what is left. *Superficial*
and *essential* forgetting (Chen et al. 2025, arXiv 2505.02486) are read off the first replies:
essential is a wrong answer in the task's form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from holdfast.measures.interval import LEVEL, Estimate
from holdfast.progress import Progress
from holdfast.tasks.base import Answer, Example, Task
from holdfast.tasks.scorers import normalise

if TYPE_CHECKING:
    from holdfast.changes.compare import Comparison
    from holdfast.models.loading import Loaded

Cause = Literal["format", "drift", "knowledge"]
CAUSES: tuple[Cause, ...] = ("format", "drift", "knowledge")
TRIES: Mapping[str, Cause] = {
    "lenient": "format",
    "debiased": "drift",
    "ranked": "drift",
    "prompted": "format",
    "realigned": "format",
}
MOST, SPACE, SHUFFLES, RESAMPLES = 200, 64, 50, 1000
"""Lost examples tried at most; answers ranked at most; shuffles for luck; bootstrap samples."""


@dataclass(frozen=True)
class Diagnosis:
    """What one task's lost examples lost."""

    task: str
    lost: int
    """Lost examples of the comparison."""
    tried: int
    """Of these, how many were tried again."""
    found: Mapping[str, int]
    """How many each way found (an example may be found in several)."""
    luck: Mapping[str, float]
    """Percent that each way finds by luck."""
    share: Mapping[Cause, Estimate]
    """Percent of the lost examples, luck taken off; the three add up to 100."""
    superficial: Estimate
    """Percent of the lost examples whose first reply has not the task's form."""
    essential: Estimate
    """Percent whose first reply is a wrong answer in the task's form."""
    causes: Mapping[str, Cause]
    """For each example tried, by its id, the cause before luck is taken off."""
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "task": self.task,
            "lost": self.lost,
            "tried": self.tried,
            "found": dict(self.found),
            "luck": dict(self.luck),
            "share": {cause: e.to_json() for cause, e in self.share.items()},
            "superficial": self.superficial.to_json(),
            "essential": self.essential.to_json(),
            "causes": dict(self.causes),
            "notes": list(self.notes),
        }


Try = Callable[[int, int], bool]
"""``found(i, j)``: whether what example i brought to light is a right answer to example j."""


def diagnose_all(
    one: Loaded,
    two: Loaded,
    tasks: Sequence[Task],
    found: Comparison,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Diagnosis]:
    """A diagnosis of each task that lost examples. lm-eval's own tasks are left out."""
    from holdfast.changes.tries import Offsets
    from holdfast.tasks.harness import HarnessTask

    progress = progress or Progress()
    offsets = Offsets(one, two, tasks, found)
    done = []
    for task in tasks:
        if isinstance(task, HarnessTask):
            continue
        pairs = found.answers[task.name]
        if any(after.score < before.score for before, after in pairs):
            progress.say(f"{task.name}: trying the lost examples again")
            done.append(diagnose(two, task, pairs, offsets, seed=seed, progress=progress))
    return done


def diagnose(
    two: Loaded,
    task: Task,
    pairs: Sequence[tuple[Answer, Answer]],
    offsets: Any,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> Diagnosis:
    """Try a task's lost examples again.

    Args:
        two: the tuned model.
        pairs: both models' answers to every example of the task.
        offsets: what :class:`holdfast.changes.tries.Offsets` made of both models.
    """
    from holdfast.changes.tries import debiased, lenient, prompted, ranked, realigned

    by_id = {e.id: e for e in task.examples}
    lost = [(by_id[a.id], b, a) for b, a in pairs if a.score < b.score]
    rng = np.random.default_rng(seed)
    chosen = [lost[int(i)] for i in np.sort(rng.permutation(len(lost))[:MOST])]
    examples = [e for e, _, _ in chosen]
    asked = replace(task, examples=tuple(examples))
    tries: dict[str, Try] = {}
    notes: list[str] = []
    if task.ask == "generate":
        tries["lenient"] = lenient(two, asked, answer_space(task))
        tries["ranked"] = ranked(two, asked, answer_space(task), rng)
    tries["debiased"] = debiased(two, asked, offsets, [a for _, _, a in chosen], notes)
    tries["prompted"] = prompted(two, asked)
    tries["realigned"] = realigned(two, task, asked, pairs, rng, notes)
    del progress
    return split(task, len(lost), examples, [a for _, _, a in chosen], tries, rng, tuple(notes))


def answer_space(task: Task) -> list[str]:
    """Every canonical answer of the task, each once."""
    return list(dict.fromkeys(e.references[0] for e in task.examples))


def split(
    task: Task,
    lost: int,
    examples: Sequence[Example],
    replies: Sequence[Answer],
    tries: Mapping[str, Try],
    rng: np.random.Generator,
    notes: tuple[str, ...] = (),
) -> Diagnosis:
    """Causes from tries: the first that finds, less what luck finds, with intervals."""
    n = len(examples)
    order = [name for name in TRIES if name in tries]
    hits = {name: np.array([tries[name](i, i) for i in range(n)], dtype=bool) for name in order}
    lucky = {name: np.zeros(n) for name in order}
    chance = np.zeros(len(CAUSES))
    rounds = [] if n < 2 else [_others(n, rng) for _ in range(SHUFFLES)]
    for other in rounds:
        guesses = {
            name: np.array([tries[name](i, int(j)) for i, j in enumerate(other)], dtype=bool)
            for name in order
        }
        for name in order:
            lucky[name] += guesses[name] / len(rounds)
        chance += np.bincount(_first(guesses, n), minlength=3) / (n * len(rounds))
    first = _first(hits, n)
    drawn = rng.integers(0, n, size=(RESAMPLES, n))
    replicates = np.array([_without_luck(first[rows], chance) for rows in drawn])
    value = _without_luck(first, chance)
    form = np.array([_in_form(task, a) for a in replies], dtype=float)
    return Diagnosis(
        task=task.name,
        lost=lost,
        tried=n,
        found={name: int(hits[name].sum()) for name in order},
        luck={name: 100 * float(lucky[name].mean()) for name in order},
        share={cause: _estimate(value[c], replicates[:, c], n) for c, cause in enumerate(CAUSES)},
        superficial=_estimate(1 - form.mean(), 1 - form[drawn].mean(1), n),
        essential=_estimate(form.mean(), form[drawn].mean(1), n),
        causes={e.id: CAUSES[int(c)] for e, c in zip(examples, first, strict=True)},
        notes=notes,
    )


def _first(hits: Mapping[str, np.ndarray[Any, Any]], n: int) -> np.ndarray[Any, Any]:
    """[n] index of the cause that the first way that found names."""
    cause = np.full(n, CAUSES.index("knowledge"))
    for name in reversed([name for name in TRIES if name in hits]):
        cause[hits[name]] = CAUSES.index(TRIES[name])
    return cause


def _without_luck(
    causes: np.ndarray[Any, Any], chance: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    """[3] shares that add up to 1, where examples that lost their knowledge were found by luck
    at the rates ``chance`` [3]: raw = share + gone * chance, gone = 1 - sum of the shares."""
    raw = np.bincount(causes, minlength=3) / len(causes)
    luck = chance[:2].sum()
    gone = min(1.0, raw[2] / (1 - luck)) if luck < 1 else raw[2]
    kept = np.maximum(raw[:2] - gone * chance[:2], 0.0)
    kept = kept * ((1 - gone) / kept.sum()) if kept.sum() > 0 else kept
    return np.array([kept[0], kept[1], 1 - kept.sum()])


def _others(n: int, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """[n] for each example another one, each taken once."""
    order = rng.permutation(n)
    other = np.empty(n, dtype=np.int64)
    other[order] = np.roll(order, 1)
    return other


def _in_form(task: Task, answer: Answer) -> bool:
    """Whether a wrong reply is an answer of the task's kind.

    Where a scorer reads replies (letters, numbers, yes or no, times), what it reads is. For
    free text: one of the task's answers; or, if its answers hardly come back, as many words at
    most as they have, written with letters or digits as they are.
    """
    if answer.parsed is None:
        return False
    if task.ask == "choices" or task.scorer not in ("exact", "contains", "f1", "anls"):
        return True
    space = {normalise(e.references[0]) for e in task.examples}
    said = normalise(answer.reply)
    if said in space:
        return True
    if len(space) <= len(task.examples) / 2:
        return False
    words = max(len(text.split()) for text in space)
    return len(said.split()) <= words and _signs(said) <= set().union(*map(_signs, space))


def _signs(text: str) -> set[str]:
    """What a text is written with: letters, digits, or both."""
    return {"letter" if c.isalpha() else "digit" for c in text if c.isalnum()}


def _estimate(value: float, drawn: np.ndarray[Any, Any], n: int) -> Estimate:
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    how = "percentile bootstrap over lost examples"
    if n < 2:
        return Estimate(100 * float(value), n=n, method=how)
    return Estimate(100 * float(value), 100 * float(low), 100 * float(high), n, LEVEL, how)
