"""Run many runs side by side: resumable one by one, and one that fails spoils no other."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from holdfast.benchmarks.executors import Executor, executor
from holdfast.config import RunConfig
from holdfast.progress import Advance, Progress
from holdfast.runs import Run

TICK = 0.5
"""Seconds between looks at what the members have done."""


@dataclass(frozen=True)
class Member:
    """One run of a grid."""

    name: str
    config: RunConfig
    recipe: str
    learning_rate: float
    seed: int
    order: str = "default"


@dataclass(frozen=True)
class Failure:
    """A member that could not be finished, and why."""

    member: Member
    reason: str


def run_grid(
    members: Sequence[Member],
    *,
    known: Path | None = None,
    workers: int | None = None,
    on: Executor = "local",
    progress: Progress | None = None,
) -> list[Failure]:
    """Run every member that is not finished, several at a time.

    Args:
        members: what to run; each has a folder of its own (``config.out``).
        known: a run with scores of the base that members may take over.
        workers: how many at a time; by default one for each core. Each uses one torch thread.
        on: ``local``: a process of this machine for each member; ``ray``: a task of a Ray
            cluster (``RAY_ADDRESS``), or of one on this machine. Its machines share the folders.
        progress: shows a bar over all members.

    Returns:
        The members that failed, whatever they died of, each with its reason, which is also in
        ``error.txt`` in its folder; the others are finished and readable at ``config.out``.

    Raises:
        MissingExtra: ``on="ray"`` and Ray is not installed.
    """
    progress = progress or Progress()
    left = [m for m in members if not is_finished(m)]
    if len(left) < len(members):
        progress.say(f"{len(members) - len(left)} of {len(members)} runs are finished already")
    if not left:
        return []
    failures: list[Failure] = []
    with executor(on, len(left), workers) as (submit, where), ExitStack() as stack:
        futures = {submit(m.config, known): m for m in left}
        advance = stack.enter_context(progress.bar(f"{len(left)} runs on {where}"))
        _follow(futures, advance, progress, failures)
    return failures


def _follow(
    futures: dict[Future[str | None], Member],
    advance: Advance,
    progress: Progress,
    failures: list[Failure],
) -> None:
    waiting = dict(futures)
    while waiting:
        for future, member in list(waiting.items()):
            if not future.done():
                continue
            del waiting[future]
            error = future.exception()
            reason = f"its process died ({error})" if error is not None else future.result()
            _keep(member, reason)
            reason = _short(reason, member)
            if reason is not None:
                failures.append(Failure(member, reason))
                progress.say(f"{member.name} failed: {reason}")
            else:
                progress.say(f"{member.name} is done")
        done = sum(_share(m) for m in waiting.values()) + len(futures) - len(waiting)
        advance(round(100 * done), 100 * len(futures))
        time.sleep(TICK)


def _keep(member: Member, reason: str | None) -> None:
    """The reason of a failure beside the run, and none beside one that went well."""
    folder = Path(member.config.out)
    with suppress(OSError):
        (folder / "error.txt").unlink(missing_ok=True)
        if reason is not None and folder.is_dir():
            (folder / "error.txt").write_text(reason + "\n", encoding="utf-8")


def _short(reason: str | None, member: Member) -> str | None:
    first, *more = (reason or "").strip().splitlines() or [""]
    where = f" (see {member.config.out}/error.txt)" if more else ""
    return None if reason is None else first + where


def is_finished(member: Member) -> bool:
    """Whether this very run is finished: a folder's name alone does not say what is in it."""
    path = Path(member.config.out)
    return (path / "finished.json").exists() and Run.read(path).config == member.config


def _share(member: Member) -> float:
    """How much of a running member is done, read off its folder."""
    steps = member.config.train.steps
    path = Path(member.config.out)
    if steps is None or not (path / "measurements.jsonl").exists():
        return 0.0
    rows = Run(path, member.config).measurements.read(lambda r: r["kind"] == "train")
    if not rows:
        return 0.0
    whole = steps * len(member.config.data)
    done: float = (rows[-1]["stage"] - 1) * steps + rows[-1]["step"]
    return min(1.0, done / whole)
