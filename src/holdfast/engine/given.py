"""Sources of data that a method names and a stage was not given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from holdfast.config import RunConfig
from holdfast.data import DataSet
from holdfast.data.random_words import RANDOM_WORDS, random_words
from holdfast.engine.calibrating import calibration
from holdfast.plan import Plan

GENERAL = "general"
"""What methods call general texts unless told otherwise."""


def with_sources(config: RunConfig, plan: Plan) -> RunConfig:
    """``config`` with what the plan reads and a stage's ``sources`` leave out.

    A source that is called by what it is read from (``lab:...``, or a file's path) is read from
    there; ``general`` is the lab's set for a lab model. Others are left for the stage to give.
    """
    wanted = (*(plan.feed.sources if plan.feed is not None else ()), *calibration(plan))
    known = {name: found for name in wanted if (found := read_from(name, config.model))}
    if not known:
        return config
    stages = [s.model_copy(update={"sources": {**known, **s.sources}}) for s in config.data]
    return config.model_copy(update={"data": stages})


def read_from(name: str, model: str) -> str | None:
    """What a source of that name is read from if a stage does not say; None: it has to."""
    if name.startswith("lab:") or (Path(name).suffix and Path(name).is_file()):
        return name
    return f"lab:{GENERAL}" if name == GENERAL and model.startswith("lab:") else None


def made_of(plan: Plan, records: DataSet, tokenizer: Any, seed: int) -> dict[str, DataSet]:
    """The sources that a plan reads and that are made of a stage's own data."""
    wanted = plan.feed.sources if plan.feed is not None else ()
    return {n: random_words(records, tokenizer, seed) for n in wanted if n == RANDOM_WORDS}
