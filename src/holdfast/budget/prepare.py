"""Everything about a search that can be checked and said before anything trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from holdfast.budget.bound import needed, smallest
from holdfast.budget.candidates import Recipe, Situation, recipes
from holdfast.budget.trials import (
    GRIDS,
    HALVINGS,
    Setting,
    Trial,
    count,
    digest,
    lengths,
    workers_of,
)
from holdfast.changes.repair.questions import Questions
from holdfast.config import RunConfig
from holdfast.engine.preflight import Preflight, preflight
from holdfast.engine.scoring import load_tasks
from holdfast.engine.skills import open_task
from holdfast.errors import UsageError
from holdfast.progress import Progress
from holdfast.tasks.harness import HarnessTask

SHARE = 0.25
"""Of each task's examples, the part that the search may see."""
DEFAULT_KEEP = "lab:held-out"
"""What a lab model has to keep where nobody says it."""


class TooFewExamples(UsageError):
    """The kept tasks have too few examples for any model to be shown to keep the budget."""


@dataclass(frozen=True)
class Prepared:
    """A search that has been checked and not started."""

    setting: Setting
    recipes: tuple[Recipe, ...]
    excluded: tuple[Recipe, ...]
    lengths: tuple[int, ...]
    checked: Preflight
    """The first recipe's run at its full length."""

    @cached_property
    def sizes(self) -> list[int]:
        """Unseen examples of each kept task; those of lm-eval's are not known beforehand."""
        asked = self.setting.questions.examples("held_out", "test")
        return [len(examples) for examples in asked.values()]

    @cached_property
    def smallest(self) -> float:
        """What a model that answers as the base does could be shown to have lost at most."""
        if any(isinstance(t, HarnessTask) for t in self.setting.questions.tasks["held_out"]):
            return 0.0
        return smallest(self.sizes)

    def refuse_too_few(self) -> None:
        """Raise :class:`TooFewExamples` where the search could not end well."""
        budget = self.setting.budget
        if self.smallest <= budget:
            return
        if budget <= 0:
            raise TooFewExamples("no number of examples can show that nothing at all was lost.")
        count, tasks = sum(self.sizes), len(self.sizes)
        enough = needed(tasks, budget)
        whole = -(-enough * 4 // 3)
        raise TooFewExamples(
            f"with {count} unseen examples (of {tasks} kept task{'s' if tasks > 1 else ''}; a "
            f"quarter of each task is the search's) a loss of {budget:g}% cannot be confirmed even "
            f"if no answer changes: it could be {self.smallest:.2f}%. About {whole:,} examples of "
            "each task are needed. Give more, or a larger --budget."
        )

    @property
    def trials(self) -> list[int]:
        """How many trials each length has."""
        return count(self.recipes, self.lengths)

    @property
    def asked(self) -> dict[str, int]:
        """Questions of a model in each part."""
        asked = self.setting.questions
        return {
            part: sum(
                len(e) for role in ("learned", "held_out")
                for e in asked.examples(role, part).values()
            )
            for part in ("select", "test")
        }  # fmt: skip

    def told(self) -> dict[str, Any]:
        """What decides the search's outcome: a folder holds one such search."""
        template = self.setting.template.model_dump(mode="json")
        left = {k: v for k, v in template.items() if k not in ("out", "methods", "tasks")}
        return {
            **left,
            "keep": template["tasks"],
            "budget": self.setting.budget,
            "recipes": {r.name: list(r.rates) for r in self.recipes},
            "old data": self.setting.situation.old_data,
            "lengths": list(self.lengths),
            "questions": digest(self.setting.questions),
        }

    def facts(self) -> dict[str, Any]:
        """The plan of the search as JSON values."""
        asked = self.setting.questions
        return {
            "model": self.setting.template.model,
            "skills": [t.name for t in asked.tasks["learned"]],
            "keep": {
                task: {part: len(asked.examples("held_out", part).get(task, ()))
                       for part in ("select", "test")}
                for task in (t.name for t in asked.tasks["held_out"])
            },
            "budget": self.setting.budget,
            "smallest_loss": self.smallest,
            "recipes": {r.name: list(r.rates) for r in self.recipes},
            "excluded": {r.name: r.reason for r in self.excluded},
            "lengths": list(self.lengths),
            "trials": self.trials,
            "seed": self.setting.template.seed,
        }  # fmt: skip

    def cost(self, workers: int | None) -> dict[str, float]:
        """Seconds of the search, from a trial of the first recipe."""
        from holdfast.engine.cost import estimate

        found = estimate(self.checked)
        steps = sum(self.checked.steps())
        a_step = (found["seconds"] - found["seconds_asking"]) / max(1, steps)
        a_question = found["seconds_asking"] / max(1, found["questions"])
        stages = len(self.checked.skills)
        trained = sum(n * s * stages for n, s in zip(self.trials, self.lengths, strict=True))
        points = [len(GRIDS[min(i, 1)]) + HALVINGS + 1 for i in range(len(self.lengths))]
        searched = 1 + sum(n * p for n, p in zip(self.trials, points, strict=True))
        confirmed = 4  # the base and, mostly, no more than three others
        asking = a_question * (searched * self.asked["select"] + confirmed * self.asked["test"])
        training = a_step * trained / min(workers_of(workers), max(self.trials))
        return {
            "seconds": training + asking,
            "seconds_training": training,
            "seconds_asking": asking,
            "memory_bytes": found["memory_bytes"],
        }


def prepare(
    config: RunConfig,
    *,
    budget: float,
    methods: Sequence[str] = (),
    situation: Situation | None = None,
    offered: Sequence[Recipe] | None = None,
    examples: int,
    progress: Progress | None = None,
) -> Prepared:
    """Check a search whole: names, data, model, recipes. Nothing is written, no weights load.

    Args:
        situation: its model is filled in, and its learning rate is the configuration's.
        offered: recipes to try, instead of those that the situation gives.

    Raises:
        UsageError: a budget that is none, no kept task, no recipe that fits.
        HoldfastError: as :func:`holdfast.engine.preflight.preflight`.
    """
    progress = progress or Progress()
    _check(budget, examples)
    family, found = shape(config.model)
    config = config.model_copy(update={"tasks": list(config.tasks) or default_keep(family)})
    situation = replace(
        situation or Situation(family), model=family, rate=config.train.learning_rate
    )
    if offered is None:
        offered = recipes(situation, found, methods, seed=config.seed * 1000 + 1)
    fitting = tuple(r for r in offered if not r.reason)
    if not fitting:
        reasons = "; ".join(f"{r.name}: {r.reason}" for r in offered)
        raise UsageError(f"no recipe fits: {reasons}.")
    questions = _questions(config, family, examples)
    first = fitting[0]
    setting = Setting(config, situation, questions, budget, Path(config.out), progress)
    given = setting.member(_full(first, config)).config
    steps = {"train": given.train.model_copy(update={"steps": config.train.steps})}
    limited = {"evaluate": config.evaluate.model_copy(update={"limit": examples})}
    checked = preflight(
        given.model_copy(update={**steps, **limited, "tasks": config.tasks}), progress=progress
    )
    longest = config.train.steps or max(checked.steps())
    return Prepared(
        setting,
        fitting,
        tuple(r for r in offered if r.reason),
        lengths(longest),
        checked,
    )


def _full(recipe: Recipe, config: RunConfig) -> Trial:
    return Trial(recipe, recipe.rates[len(recipe.rates) // 2], config.train.steps or 1, 0)


def location(model: str) -> str:
    """Where a model's configuration is; for a tuned model its base's."""
    from holdfast.models.saving import find_base, read_delta
    from holdfast.models.source import DELTA, resolve

    source = resolve(model)
    if source.folder is not None and (source.folder / DELTA).exists():
        return str(find_base(read_delta(source.folder))[1])
    return source.location


def shape(model: str) -> tuple[str, Any]:
    """The name of the model that ``model`` was made from, and the parts of it."""
    from holdfast.anatomy import anatomy, load_meta
    from holdfast.changes.compare import family

    return family(model), anatomy(load_meta(location(model)))


def default_keep(family: str) -> list[str]:
    """What a model keeps where nobody says it. Raises :class:`UsageError` where nobody knows."""
    if family.startswith("lab:"):
        return [DEFAULT_KEEP]
    raise UsageError(
        f"what should '{family}' keep? Give tasks with --keep: a .jsonl file of questions and "
        "answers that it can do now (mine.jsonl), or lm_eval:NAME, such as lm_eval:arc_easy. A "
        "lab model has general tasks of its own."
    )


def _questions(config: RunConfig, family: str, examples: int) -> Questions:
    limited = config.model_copy(
        update={
            "model": family,
            "evaluate": config.evaluate.model_copy(update={"limit": examples}),
        }
    )
    learned = [open_task(stage, limited) for stage in config.data]
    learned = [replace(t, examples=t.examples[:examples]) for t in learned]
    kept = load_tasks(config.tasks, model=family, limit=examples)
    return Questions(learned, kept, seed=config.seed, share=SHARE)


def _check(budget: float, examples: int) -> None:
    if not 0 <= budget <= 100:
        raise UsageError(f"budget={budget:g}: give points between 0 and 100, such as 1.")
    if examples < 8:
        raise UsageError(
            f"examples={examples}: at least 8 of each task are needed to split them into what "
            "the search sees and what it does not."
        )
