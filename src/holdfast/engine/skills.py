"""What a stage teaches: records to train on, and a task that measures the learning."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from holdfast.config import RunConfig, Stage
from holdfast.data import DataSet, Record, read
from holdfast.data.styles import rewritten
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


def open_task(stage: Stage, config: RunConfig) -> Task:
    """What a stage's learning is measured on; its records are read only if it is held back of
    them. Raises as :func:`open_skills`."""
    if _test_of(stage) is None:
        return _open(stage, config).task
    return replace(_test_task(stage, config), name=stage.label)


def _open(stage: Stage, config: RunConfig) -> Skill:
    data = read(stage.data, image_root=stage.image_root)
    if _test_of(stage) is not None:
        train, held_back = list(range(len(data))), list[int]()
        task = _test_task(stage, config)
    else:
        train, held_back = split(data, stage.hold_back, config.seed)
        task = _held_back_task(stage.label, [data[i] for i in held_back])
    task = replace(task, name=stage.label, examples=task.examples[: config.evaluate.limit])
    train = _enough(train, config)
    records = data if len(train) == len(data) else _some(data, train)
    sources = {name: read(source) for name, source in stage.sources.items()}
    return Skill(stage.label, records, task, data.format, data.notices, len(held_back), sources)


def _test_of(stage: Stage) -> str | None:
    """The name of a stage's own test; None where records are held back instead."""
    return stage.test or (stage.data if stage.data.startswith("lab:") else None)


def _test_task(stage: Stage, config: RunConfig) -> Task:
    test = _test_of(stage)
    assert test is not None
    tasks = load_task(test, model=config.model, limit=config.evaluate.limit)
    if len(tasks) != 1:
        raise UsageError(
            f"'{test}' is {len(tasks)} tasks ({', '.join(t.name for t in tasks)}); "
            "the test of a stage is one task."
        )
    return tasks[0]


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

    Records that were rewritten in another style (``holdfast prepare styles``) are for training:
    a test keeps the data's own style. One whose image is held back with others is left out.

    Raises :class:`DataError` when nothing would be left on one of the sides.
    """
    groups: dict[object, list[int]] = {}
    own: set[int] = set()
    for index in range(len(data)):
        record = data[index]
        if not rewritten(record):
            own.add(index)
        images = tuple(i.path or i.data for i in record.images)
        groups.setdefault(images or index, []).append(index)
    order = list(groups.values())
    random.Random(seed).shuffle(order)
    wanted = min(MOST_HELD_BACK, max(1, round(share * len(data))))
    held: list[int] = []
    train: list[int] = []
    for group in reversed(order):
        mine = [i for i in group if i in own] if len(held) < wanted else []
        held += mine
        train += [] if mine else group
    if not train or not held:
        raise DataError(
            f"{data.source} is too small to hold records back for a test ({len(data)} records, "
            f"{len(own)} of them not rewritten in another style); "
            "give a test of its own with --test."
        )
    return sorted(train), sorted(held)


def _some(data: DataSet, indices: list[int]) -> DataSet:
    """Those records of a data set."""
    return DataSet(
        [data[i] for i in indices], source=data.source, name=data.name, format=data.format
    )
