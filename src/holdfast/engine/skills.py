"""What a stage teaches: records to train on, and a task that measures the learning."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from holdfast.config import RunConfig, Stage
from holdfast.data import DataSet, Record, read
from holdfast.errors import DataError, UsageError
from holdfast.tasks import Task, load_task, task_from_records

MOST_HELD_BACK = 500


@dataclass(frozen=True)
class Skill:
    """One stage's data."""

    label: str
    records: DataSet
    task: Task
    """Scored as a target; its name is the stage's label."""
    format: str
    """How the data was read, for the user to see."""
    notices: tuple[str, ...] = ()
    """What was done to the data on the way, for the user to see."""
    held_back: int = 0
    sources: Mapping[str, DataSet] = field(default_factory=dict)
    """What the stage reads beside the records, by name."""


def open_skills(config: RunConfig) -> list[Skill]:
    """Read every stage's data and its test, whole, before any weights load.

    Raises:
        DataError: data that cannot be used (all problems of a file at once), or too little.
        UnknownName: a lab skill or a task that does not exist.
    """
    return [_open(stage, config) for stage in config.data]


def _open(stage: Stage, config: RunConfig) -> Skill:
    data = read(stage.data, image_root=stage.image_root)
    test = stage.test or (stage.data if stage.data.startswith("lab:") else None)
    if test is not None:
        train, held_back = list(range(len(data))), list[int]()
        tasks = load_task(test, model=config.model, limit=config.evaluate.limit)
    else:
        train, held_back = split(data, stage.hold_back, config.seed)
        tasks = [_held_back_task(stage.label, [data[i] for i in held_back])]
    if len(tasks) != 1:
        raise UsageError(
            f"'{test or stage.data}' is {len(tasks)} tasks ({', '.join(t.name for t in tasks)}); "
            "the test of a stage is one task."
        )
    examples = tasks[0].examples[: config.evaluate.limit]
    task = replace(tasks[0], name=stage.label, examples=examples)
    train = _enough(train, config)
    records = data if len(train) == len(data) else _some(data, train)
    sources = {name: read(source) for name, source in stage.sources.items()}
    return Skill(stage.label, records, task, data.format, data.notices, len(held_back), sources)


def _held_back_task(label: str, records: list[Record]) -> Task:
    if any(r.raw for r in records):
        raise DataError(
            f"'{label}' is plain text: it asks nothing that an answer could be scored on. "
            "Give a test of its own with --test."
        )
    try:
        return task_from_records(label, records)
    except DataError as error:
        raise DataError(
            f"what was held back of '{label}' makes no test ({error}). "
            "Give a test of its own with --test."
        ) from None


def _enough(train: list[int], config: RunConfig) -> list[int]:
    """Where the steps are fewer than an epoch, as many records as they read, at random."""
    if config.train.steps is None:
        return train
    wanted = config.train.steps * config.train.batch_size
    if wanted >= len(train):
        return train
    return sorted(random.Random(config.seed).sample(train, wanted))


def split(data: DataSet, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices to train on and to hold back, seeded; records that share an image stay together.

    Raises :class:`DataError` when nothing would be left on one of the sides.
    """
    groups: dict[object, list[int]] = {}
    for index in range(len(data)):
        record = data[index]
        images = tuple(i.path or i.data for i in record.images)
        groups.setdefault(images or index, []).append(index)
    order = list(groups.values())
    random.Random(seed).shuffle(order)
    wanted = min(MOST_HELD_BACK, max(1, round(share * len(data))))
    held: list[int] = []
    while order and len(held) < wanted:
        held += order.pop()
    train = [i for group in order for i in group]
    if not train:
        raise DataError(
            f"{data.source} is too small to hold records back for a test ({len(data)} records); "
            "give a test of its own with --test."
        )
    return sorted(train), sorted(held)


def _some(data: DataSet, indices: list[int]) -> DataSet:
    """Those records of a data set."""
    return DataSet(
        [data[i] for i in indices], source=data.source, name=data.name, format=data.format
    )
