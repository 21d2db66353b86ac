"""What a stage teaches: records to train on, and a task that measures the learning."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from holdfast.config import RunConfig, Stage
from holdfast.data import DataSet, Record, read
from holdfast.errors import DataError, UsageError
from holdfast.tasks import Task, load_task, task_from_records

MOST_HELD_BACK = 500


@dataclass(frozen=True)
class Skill:
    """One stage's data."""

    label: str
    records: Sequence[Record]
    task: Task
    """Scored as a target; its name is the stage's label."""
    format: str
    """How the data was read, for the user to see."""
    held_back: int = 0


def open_skills(config: RunConfig) -> list[Skill]:
    """Read every stage's data and its test, whole, before any weights load.

    Raises:
        DataError: data that cannot be used (all problems of a file at once), or too little.
        UnknownName: a lab skill or a task that does not exist.
    """
    return [_open(stage, config) for stage in config.data]


def _open(stage: Stage, config: RunConfig) -> Skill:
    data = read(stage.data)
    limit = config.evaluate.limit
    test = stage.test or (stage.data if stage.data.startswith("lab:") else None)
    if test is not None:
        tasks = load_task(test, model=config.model, limit=limit)
        if len(tasks) != 1:
            raise UsageError(
                f"'{test}' is a suite of {len(tasks)} tasks; the test of a stage is one task."
            )
        return Skill(stage.label, data, replace(tasks[0], name=stage.label), data.format)
    train, held_back = split(data, stage.hold_back, config.seed)
    task = task_from_records(stage.label, [data[i] for i in held_back])
    if limit is not None:
        task = replace(task, examples=task.examples[:limit])
    return Skill(stage.label, _Picked(data, train), task, data.format, len(held_back))


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


class _Picked(Sequence[Record]):
    """Some records of a data set, without a copy."""

    def __init__(self, data: DataSet, indices: list[int]) -> None:
        self.data, self.indices = data, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Record:  # type: ignore[override]
        return self.data[self.indices[index]]
