"""Where the runs of a grid work: processes of this machine, or tasks of a Ray cluster."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal, cast, get_args

from holdfast.config import RunConfig
from holdfast.errors import HoldfastError, UnknownName, need

Executor = Literal["local", "ray"]

Submit = Callable[[RunConfig, Path | None], "Future[str | None]"]
"""Begins a run; its future holds None once it is finished, else why not."""

Work = Callable[[RunConfig, Path | None], str | None]

LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What a launcher tells its processes; a run of a grid is nobody's other half."""


def known_executor(name: str) -> Executor:
    """The executor of that name.

    Raises:
        UnknownName: there is none.
        MissingExtra: it is ``ray`` and Ray is not installed.
    """
    if name not in get_args(Executor):
        raise UnknownName("executor", name, get_args(Executor))
    if name == "ray":
        need("ray", "ray")
    return cast("Executor", name)


@contextmanager
def executor(name: Executor, count: int, workers: int | None) -> Iterator[tuple[Submit, str]]:
    """Within, what begins a run, and words for where. What is left at an error is ended."""
    makers = {"local": _local, "ray": _ray}
    with makers[known_executor(name)](count, workers) as made:
        yield made


@contextmanager
def _local(count: int, workers: int | None) -> Iterator[tuple[Submit, str]]:
    """A process for each run: one that is killed takes nothing with it but its own run."""
    workers = min(count, workers or os.cpu_count() or 1)
    alive: set[BaseProcess] = set()
    pool = ThreadPoolExecutor(workers)

    def submit(config: RunConfig, known: Path | None) -> Future[str | None]:
        return pool.submit(_in_process, alive, config, known)

    try:
        yield submit, f"{workers} cores"
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in list(alive):
            process.terminate()
        raise
    pool.shutdown()


def _in_process(alive: set[BaseProcess], config: RunConfig, known: Path | None) -> str | None:
    context = get_context("spawn")
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(theirs, work, config, known))
    process.start()
    alive.add(process)
    theirs.close()
    try:
        reason: str | None = mine.recv()
    except EOFError:  # it ended without a word
        process.join()
        return death(process.exitcode)
    finally:
        process.join()
        alive.discard(process)
        mine.close()
    return reason


def _child(out: Connection, work: Work, config: RunConfig, known: Path | None) -> None:
    out.send(work(config, known))


def work(config: RunConfig, known: Path | None, folder: str | None = None) -> str | None:
    """One run, in a process of its own: None when it is finished, else why not.

    Args:
        folder: from which the paths in the configuration are meant.
    """
    if folder is not None:
        os.chdir(folder)
    for name in LAUNCHER:
        os.environ.pop(name, None)
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import torch

    from holdfast.engine.tune import tune

    torch.set_num_threads(1)
    try:
        tune(config, known=known)
    except HoldfastError as error:
        return str(error)
    except Exception:
        text = traceback.format_exc().strip()
        return f"{text.splitlines()[-1]}\n{text}"
    return None


def death(code: int | None) -> str:
    """A sentence about a process that ended without a word."""
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        memory = "; often memory ran out" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{memory}. Run the same command to go on with it."
    return f"its process ended with exit code {code}."


@contextmanager
def _ray(count: int, workers: int | None) -> Iterator[tuple[Submit, str]]:
    ray: Any = need("ray", "ray")
    begun = not ray.is_initialized()
    if begun:
        there = os.environ.get("RAY_ADDRESS")
        local = {} if there else {"num_cpus": workers, "include_dashboard": False}
        ray.init(log_to_driver=False, logging_level="ERROR", **local)
    resources = ray.cluster_resources()
    device = {"num_gpus": 1} if resources.get("GPU") else {}
    # a crash is told and not tried again: the same command goes on with what is left
    task = ray.remote(num_cpus=1, max_retries=0, **device)(work)
    references: list[Any] = []

    def submit(config: RunConfig, known: Path | None) -> Future[str | None]:
        references.append(task.remote(config, known, os.getcwd()))
        future: Future[str | None] = references[-1].future()
        return future

    try:
        yield submit, f"a Ray cluster of {int(resources.get('CPU', 0))} cores"
    except BaseException:
        for reference in references:
            ray.cancel(reference, force=True)
        raise
    finally:
        if begun:
            ray.shutdown()
