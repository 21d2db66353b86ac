"""Run many runs side by side: resumable one by one, and one that fails spoils no other."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from holdfast.config import RunConfig
from holdfast.errors import HoldfastError
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
    progress: Progress | None = None,
) -> list[Failure]:
    """Run every member that is not finished, several at a time.

    Args:
        members: what to run; each has a folder of its own (``config.out``).
        known: a run with scores of the base that members may take over.
        workers: processes; by default one for each core. Each uses one torch thread.
        progress: shows a bar over all members.

    Returns:
        The members that failed; the others are finished and readable at ``config.out``.
    """
    progress = progress or Progress()
    left = [m for m in members if not is_finished(m)]
    if len(left) < len(members):
        progress.say(f"{len(members) - len(left)} of {len(members)} runs are finished already")
    if not left:
        return []
    workers = min(len(left), workers or os.cpu_count() or 1)
    failures: list[Failure] = []
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_one_thread)
    try:
        futures = {pool.submit(_work, m, known): m for m in left}
        with ExitStack() as stack:
            advance = stack.enter_context(progress.bar(f"{len(left)} runs on {workers} cores"))
            _follow(futures, advance, progress, failures)
    except BaseException:
        for process in list((pool._processes or {}).values()):
            process.terminate()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()
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
            if reason is not None:
                failures.append(Failure(member, reason))
                progress.say(f"{member.name} failed: {reason}")
            else:
                progress.say(f"{member.name} is done")
        done = sum(_share(m) for m in waiting.values()) + len(futures) - len(waiting)
        advance(round(100 * done), 100 * len(futures))
        time.sleep(TICK)


def _one_thread() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import torch

    torch.set_num_threads(1)


def _work(member: Member, known: Path | None) -> str | None:
    """In a worker: None when finished, else why not."""
    from holdfast.engine.tune import tune

    try:
        tune(member.config, known=known)
    except HoldfastError as error:
        return str(error)
    except Exception:  # the other members go on; the traceback is kept whole beside the run
        text = traceback.format_exc()
        (Path(member.config.out) / "error.txt").write_text(text, encoding="utf-8")
        return f"{text.strip().splitlines()[-1]} (see {member.config.out}/error.txt)"
    return None


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
