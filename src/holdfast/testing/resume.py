"""A run that is killed and goes on ends with the bits of one that was never killed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from holdfast.carried import AGAIN, MEMORY
from holdfast.methods import plan
from holdfast.plan import NEW, Plan
from holdfast.progress import Advance, Progress
from holdfast.testing.world import write_model, write_skill

_STEPS = 4
IN_THE_SECOND_STAGE = (2, 3)
MOMENTS = ((1, 3), (2, 1), IN_THE_SECOND_STAGE)
"""In the first stage; after it, before the second has saved anything; in the second."""


def check_resume(*methods: str, kills: Sequence[tuple[int, int]] = (IN_THE_SECOND_STAGE,)) -> None:
    """Run two stages of four steps, and again from what a kill leaves behind; compare all bits.

    A checkpoint is saved every two steps. The folder is copied at each moment, which is what
    SIGKILL would leave there, and each copy goes on with objects that are all new. Compared are
    the weights after both stages and all that pieces carry from the first to the second.

    Args:
        methods: names with settings, as on the command line. Where none of them says what
            trains, ``full`` is joined to them.
        kills: (stage from 1, step from 1): as soon as that step was made.

    Raises:
        AssertionError: a number differs, or a copy did not go on where it was left.
        HoldfastError: the methods do not go together, or not with the tiny model.
    """
    made = plan(list(methods))
    if made.train is None and made.adapt is None:
        methods = ("full", *methods)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        values = _values(folder, made, methods)
        watch = _Copies(folder, kills)
        _run(values, folder / "whole", watch)
        for stage, step in kills:
            cut = folder / f"cut-{stage}-{step}"
            assert cut.is_dir(), f"the run has no step {step} of stage {stage}"
            heard = _Copies(folder, ())
            _run(values, cut, heard)
            where = f"'{made.name}', killed at step {step} of stage {stage},"
            assert (f"going on after stage {stage - 1} of 2" in heard.said) == (stage > 1), where
            assert heard.first == (stage, step - (step - 1) % 2), (
                f"{where} went on at {heard.first}"
            )
            _same(folder / "whole", cut, where)


class _Copies(Progress):
    """Listens to a run, and copies its folder at given steps."""

    def __init__(self, folder: Path, kills: Sequence[tuple[int, int]]) -> None:
        self.folder, self.kills = folder, kills
        self.said: list[str] = []
        self.first: tuple[int, int] | None = None
        """Stage and step that were trained first."""

    def say(self, text: str) -> None:
        self.said.append(text)

    @contextmanager
    def bar(self, label: str) -> Iterator[Advance]:
        stage = int(label.split()[1]) if label.startswith("stage ") else 0

        def advance(done: int, total: int) -> None:
            if stage and self.first is None:
                self.first = (stage, done)
            if (stage, done) in self.kills:
                shutil.copytree(self.folder / "whole", self.folder / f"cut-{stage}-{done}")

        yield advance


def _values(folder: Path, made: Plan, methods: Sequence[str]) -> dict[str, Any]:
    """A run's configuration, without its folder."""
    skills = [write_skill(folder / f"{n}.jsonl", s) for n, s in (("next", 1), ("before", -1))]
    more = write_skill(folder / "more.jsonl", 2, n=10)
    return {
        "model": str(write_model(folder / "tiny")),
        "data": [
            {"data": str(s), "sources": dict.fromkeys(_sources(made), str(more))} for s in skills
        ],
        "methods": list(methods),
        "train": {
            "learning_rate": 1e-2,
            "steps": _STEPS,
            "batch_size": 4,
            "save_every": 2,
            "schedule": "constant_with_warmup",
        },
        "evaluate": {"limit": 1},
    }


def _sources(made: Plan) -> set[str]:
    """Names of the data that a stage must have beside its own."""
    from holdfast.data.random_words import RANDOM_WORDS

    named = {*getattr(made.feed, "sources", ()), getattr(made.adapt, "source", NEW)}
    return named - {NEW, MEMORY, AGAIN, RANDOM_WORDS}


def _run(values: dict[str, Any], out: Path, progress: Progress) -> None:
    from holdfast.config import resolve
    from holdfast.engine.tune import tune

    tune(resolve({**values, "out": str(out)}), progress=progress)


def _same(whole: Path, cut: Path, where: str) -> None:
    files = [f for s in ("01", "02") for f in (whole / "stages" / s).rglob("*.safetensors")]
    assert files, f"{where} saved nothing"
    for file in files:
        name = file.relative_to(whole)
        other = cut / name
        assert other.is_file(), f"{where} has no {name}"
        assert other.read_bytes() == file.read_bytes(), f"{where} ends with another {name}"
