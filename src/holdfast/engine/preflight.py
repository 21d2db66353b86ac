"""Everything that can be checked before weights load, and what the run will cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.anatomy import Anatomy, Selection, anatomy, load_meta
from holdfast.config import RunConfig, Train
from holdfast.data import Encoder, Survey
from holdfast.data.counting import EncodedSet
from holdfast.engine import carrying
from holdfast.engine.feeding import Schedule, Sources, schedule
from holdfast.engine.fitting import check_questions, check_tokens
from holdfast.engine.given import made_of, with_sources
from holdfast.engine.scoring import load_tasks
from holdfast.engine.skills import Skill, open_skills
from holdfast.engine.surveys import Reader
from holdfast.engine.trackers import check_trackers
from holdfast.errors import ConfigError, UsageError
from holdfast.methods import plan as combine
from holdfast.models.code import code_note
from holdfast.models.loading import load_processor, pick_device
from holdfast.models.source import DELTA, Source, fetch, resolve
from holdfast.plan import Plan
from holdfast.progress import Progress
from holdfast.tasks import Task
from holdfast.tasks.batches import context_length
from holdfast.trust import as_configured


@dataclass(frozen=True)
class Preflight:
    """A run that has been checked and not started."""

    config: RunConfig
    plan: Plan
    source: Source
    base: Source
    folder: Path
    """The base's files."""
    processor: Any
    skills: list[Skill]
    surveys: list[Survey]
    held_out: list[Task]
    found: Anatomy
    selection: Selection | None
    """What trains; None where an adapter decides."""
    train: Train
    """With the learning rate filled in."""
    sources: list[dict[str, EncodedSet]]
    """For each stage, what it reads beside its own data."""
    schedules: list[Schedule]
    """For each stage, which examples its steps and passes read."""

    def steps(self) -> list[int]:
        return [len(planned.steps) for planned in self.schedules]

    def stage_facts(self) -> list[dict[str, Any]]:
        """What each stage will read, as JSON values."""
        return [
            {
                "name": skill.label,
                "format": skill.format,
                "records": len(skill.records),
                "held_back": skill.held_back,
                "supervised_tokens": counted.supervised,
                "images": counted.images,
                "sources": {name: len(examples) for name, examples in others.items()},
                "steps": len(planned.steps),
                "passes": planned.passes * planned.world,
                "padding": planned.padding,
                "test_examples": len(skill.task.examples),
            }
            for skill, counted, planned, others in zip(
                self.skills, self.surveys, self.schedules, self.sources, strict=True
            )
        ]

    def facts(self) -> dict[str, Any]:
        """The dry run as JSON values."""
        from holdfast.engine.cost import estimate

        return {
            "model": self.config.model,
            "base": self.base.name,
            "plan": self.plan.name,
            "learning_rate": self.train.learning_rate,
            "stages": self.stage_facts(),
            "held_out": {t.name: len(t.examples) for t in self.held_out},
            "total_parameters": self.found.count,
            **estimate(self),
        }


@as_configured
def preflight(config: RunConfig, *, progress: Progress | None = None) -> Preflight:
    """Check a run whole. Nothing is written and no weights load.

    Raises:
        HoldfastError: whatever is wrong with names, data, selector, model or settings.
    """
    progress = progress or Progress()
    check_trackers(config.train.report_to)
    plan = combine(list(config.methods))
    config = with_sources(config, plan)
    source = resolve(config.model)
    folder = fetch(source)
    base, base_folder = source, folder
    if (folder / DELTA).exists():
        from holdfast.models.saving import find_base, read_delta

        facts = read_delta(folder)
        if facts["structure"]:
            raise UsageError(
                f"{config.model} has modules of an earlier method in it "
                f"({facts['structure']['kind']}); tune its base instead."
            )
        base, base_folder = find_base(facts)
    if said := code_note(base_folder):
        progress.say(said)
    shape = load_meta(str(base_folder))
    found, room = anatomy(shape), context_length(shape)
    selection = plan.selection(found, config.seed * 1000 + 1)
    if selection is None and plan.adapt is None:
        raise UsageError(
            f"'{plan.name}' says neither which weights train nor which modules to add; combine it "
            "with a recipe (--method gate-up), see 'holdfast list methods'."
        )
    if plan.adapt is not None:
        adapted = load_meta(str(base_folder))
        plan.adapt.attach(adapted, anatomy(adapted))  # what it cannot adapt, it refuses here
    train = _with_rate(config, plan, progress)
    processor = load_processor(base_folder)
    carrying.remembering(plan)
    skills = open_skills(config)
    held_out = load_tasks(config.tasks, model=base.name, limit=config.evaluate.limit)
    _distinct(skills, held_out)
    reader = Reader(base_folder, processor, train.loss_on, train.max_length or room, progress)
    surveys, sources, schedules = _stages(config, plan, train, skills, reader)
    for skill, counted in zip(skills, surveys, strict=True):
        check_tokens(shape, reader.encoder, counted.encoded, skill.label)
    asked = [*(skill.task for skill in skills), *held_out]
    check_questions(shape, Encoder(processor), asked, progress)
    return Preflight(
        config, plan, source, base, base_folder, processor, skills, surveys, held_out, found,
        selection, train, sources, schedules,
    )  # fmt: skip


def _stages(
    config: RunConfig,
    plan: Plan,
    train: Train,
    skills: Sequence[Skill],
    reader: Reader,
) -> tuple[list[Survey], list[dict[str, EncodedSet]], list[Schedule]]:
    """For each stage: its own data and its other sources, read and counted, and its steps."""
    surveys: list[Survey] = []
    sources: list[dict[str, EncodedSet]] = []
    schedules: list[Schedule] = []
    for stage, skill in enumerate(skills, 1):
        surveys.append(reader.survey(skill.label, skill.records, skill.notices))
        made = made_of(plan, skill.records, reader.encoder.tokenizer, config.seed * 1000 + stage)
        others = {
            name: reader.survey(f"{skill.label}, {name}", data, data.notices).encoded
            for name, data in {**made, **skill.sources}.items()
        }
        carrying.no_other_memory(plan, others)
        sources.append(others)
        earlier = [counted.encoded for counted in surveys[:-1]]
        schedules.append(
            schedule(
                plan,
                Sources(
                    surveys[-1].encoded,
                    others | carrying.foreseen(plan, earlier, config.seed),
                ),
                train,
                seed=config.seed * 1000 + stage,
                device=pick_device(None).type,
                packed=train.packing == "on",
            )
        )
    return surveys, sources, schedules


def _with_rate(config: RunConfig, plan: Plan, progress: Progress) -> Train:
    """The training settings with a learning rate; the method's own where none was given."""
    if config.train.learning_rate is not None:
        return config.train
    if config.model.startswith("lab:"):
        from holdfast import lab

        rate, why = lab.LEARNING_RATE, "the lab's own"
    elif plan.learning_rate is not None:
        rate, why = plan.learning_rate, f"the paper's, for '{plan.name}' and models of billions"
    else:
        raise ConfigError(
            f"'{plan.name}' has no learning rate of its own; give one with --learning-rate."
        )
    progress.say(f"learning rate: {rate:g} ({why}; --learning-rate sets another)")
    return config.train.model_copy(update={"learning_rate": rate})


def _distinct(skills: list[Skill], held_out: list[Task]) -> None:
    both = {s.label for s in skills} & {t.name for t in held_out}
    if both:
        raise ConfigError(
            f"'{min(both)}' is both learned and held out; a task is one or the other. "
            "Leave it out of --tasks, or give the stage a name of its own."
        )
