"""Keeps what a plan's pieces carry between stages, and gives it back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from holdfast.carried import AGAIN, MEMORY, Ended, Rehearses, Remembers, Running, State
from holdfast.errors import ConfigError, PlanConflict, RunError
from holdfast.plan import Plan
from holdfast.runs.files import explain, failed_write, writing

FOLDER = "carried"


def pieces(plan: Plan) -> Iterator[Any]:
    """What a plan is made of, slot by slot."""
    yield from (p for p in (plan.feed, plan.adapt) if p is not None)
    yield from (*plan.learn, *plan.update, *plan.settle)


def remembering(plan: Plan) -> list[Remembers]:
    """The pieces that carry something. Raises :class:`PlanConflict` if two have one name."""
    known = {id(p): p for p in pieces(plan)}  # one object may fill two slots
    found = [p for p in known.values() if isinstance(p, Remembers)]
    names = [p.name for p in found]
    for name in names:
        if names.count(name) > 1:
            raise PlanConflict(
                f"'{plan.name}' has {names.count(name)} pieces called '{name}' that carry "
                "something from stage to stage; keep one of them."
            )
    return found


def recall(plan: Plan, folder: Path | None) -> Plan:
    """The plan of the next stage.

    Args:
        folder: of the stage before; None in the first.

    Raises:
        RunError: what a piece kept there is missing or damaged.
    """
    known = {p.name: p.recall(_read(folder, p.name) if folder else {}) for p in remembering(plan)}
    if not known:
        return plan

    def now(piece: Any) -> Any:
        return known[piece.name] if isinstance(piece, Remembers) else piece

    return replace(
        plan,
        feed=now(plan.feed) if plan.feed is not None else None,
        adapt=now(plan.adapt) if plan.adapt is not None else None,
        learn=tuple(map(now, plan.learn)),
        update=tuple(map(now, plan.update)),
        settle=tuple(map(now, plan.settle)),
    )


def keep(plan: Plan, ended: Ended, folder: Path | None) -> dict[str, dict[str, Tensor]]:
    """What every piece keeps at the end of a stage, the feed's first.

    Args:
        plan: the stage's, as :func:`recall` returned it.
        folder: of the stage, to write to; None in a process that does not write.

    Raises:
        RunError: a file cannot be written.
    """
    held: dict[str, dict[str, Tensor]] = {}
    for piece in remembering(plan):
        state = {n: v.detach().cpu().contiguous() for n, v in piece.keep(ended).items()}
        if isinstance(piece, Rehearses):
            ended = replace(ended, memory=tuple(piece.recall(state).exemplars()))
        if folder is not None:
            _write(folder, piece.name, state)
        held[piece.name] = state
    return held


def check(plan: Plan, folder: Path) -> None:
    """Raise :class:`RunError` unless a stage's folder holds what the plan's pieces kept."""
    for piece in remembering(plan):
        _read(folder, piece.name)


def rehearsed(plan: Plan, stages: Sequence[Sequence[Any]]) -> dict[str, Sequence[Any]]:
    """The sources that a recalled plan's feed remembers.

    Args:
        stages: every earlier stage's own data, encoded.
    """
    if not isinstance(plan.feed, Rehearses):
        return {}
    return _sources(stages, plan.feed.exemplars())


def foreseen(plan: Plan, stages: Sequence[Sequence[Any]], seed: int) -> dict[str, Sequence[Any]]:
    """Sources like those that :func:`rehearsed` will return, before anything was trained."""
    if not isinstance(plan.feed, Rehearses):
        return {}
    return _sources(stages, plan.feed.foresee([len(s) for s in stages], seed))


def _sources(
    stages: Sequence[Sequence[Any]], places: Sequence[tuple[int, int]]
) -> dict[str, Sequence[Any]]:
    if not places:
        return {}
    memory = Recalled(stages, places)
    return {MEMORY: memory, AGAIN: memory}


class Recalled(Sequence[Any]):
    """Examples of earlier stages as one source."""

    def __init__(self, stages: Sequence[Sequence[Any]], places: Sequence[tuple[int, int]]) -> None:
        self.stages, self.places = stages, list(places)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, place: Any) -> Any:
        stage, index = self.places[place]
        return self.stages[stage - 1][index]


def no_other_memory(plan: Plan, given: Mapping[str, Any]) -> None:
    """Raise :class:`ConfigError` if the user gives a source that the engine fills."""
    taken = [name for name in (MEMORY, AGAIN) if name in given]
    if taken and isinstance(plan.feed, Rehearses):
        raise ConfigError(
            f"a stage gives the source '{taken[0]}', and '{plan.owners.get('feed', plan.name)}' "
            "fills it with examples of earlier stages; give the source another name."
        )


def running_state(plan: Plan) -> dict[str, Tensor]:
    """What a checkpoint holds of pieces that gather state within a stage."""
    return {
        f"{piece.name}/{key}": value.detach().cpu().contiguous()
        for piece in pieces(plan)
        if isinstance(piece, Running)
        for key, value in piece.state().items()
    }


def load_running_state(plan: Plan, held: Mapping[str, Tensor]) -> None:
    """Give the pieces back what :func:`running_state` returned."""
    for piece in pieces(plan):
        if isinstance(piece, Running):
            start = f"{piece.name}/"
            piece.load({k.removeprefix(start): v for k, v in held.items() if k.startswith(start)})


def _file(folder: Path, name: str) -> Path:
    return folder / FOLDER / f"{name}.safetensors"


def _write(folder: Path, name: str, state: State) -> None:
    from safetensors.torch import save_file

    file = _file(folder, name)
    try:
        with writing(file) as temporary:
            save_file(dict(state), temporary, metadata={"format": "pt"})
    except Exception as error:
        failure = failed_write(error)
        if failure is None:
            raise
        raise RunError(explain(failure, file)) from error


def _read(folder: Path, name: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = _file(folder, name)
    try:
        state: dict[str, Tensor] = load_file(file)
    except (OSError, SafetensorError, ValueError) as error:
        raise RunError(
            f"{file} is missing or damaged ({error}): it holds what '{name}' carries to the next "
            f"stage. Delete {folder / 'done.json'} and run the same command again."
        ) from None
    return state
