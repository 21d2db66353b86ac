"""Where the runs of a grid work: processes of this machine, or tasks of a Ray cluster."""

from __future__ import annotations

import gc
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal, cast, get_args

from holdfast.config import RunConfig
from holdfast.errors import HoldfastError, UnknownName, need

Executor = Literal["local", "ray"]

Submit = Callable[[RunConfig, Path | None], "Future[str | None]"]
"""Begins a run; its future holds None once it is finished, else why not."""

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
    """Processes of this machine, each of which does one run after another."""
    workers = min(count, workers or os.cpu_count() or 1)
    every = [_Worker() for _ in range(workers)]
    idle: SimpleQueue[_Worker] = SimpleQueue()
    for worker in every:
        idle.put(worker)
    pool = ThreadPoolExecutor(workers)

    def do(config: RunConfig, known: Path | None) -> str | None:
        worker = idle.get()
        try:
            return worker.do(config, known)
        finally:
            idle.put(worker)

    try:
        yield lambda config, known: pool.submit(do, config, known), f"{workers} cores"
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in every:
            worker.stop()
        raise
    pool.shutdown()
    for worker in every:
        worker.end()


class _Worker:
    """A process for one run after another; after one that failed, a new process.

    A run that is killed takes nothing with it but itself, and one that failed leaves nothing
    behind in the memory that the next one works in.
    """

    def __init__(self) -> None:
        self.process: BaseProcess | None = None
        self.connection: Connection | None = None

    def do(self, config: RunConfig, known: Path | None) -> str | None:
        """Do a run. Returns None when it is finished, else why not."""
        process, connection = self._ready()
        try:
            connection.send((work, config, known))
            reason: str | None = connection.recv()
        except (EOFError, OSError):  # it ended without a word
            process.join()
            self.end()
            return death(process.exitcode)
        if reason is not None:
            self.end()
        return reason

    def _ready(self) -> tuple[BaseProcess, Connection]:
        if self.process is None or self.connection is None:
            context = get_context("spawn")
            self.connection, theirs = context.Pipe()
            self.process = context.Process(target=_serve, args=(theirs,))
            self.process.start()
            theirs.close()
        return self.process, self.connection

    def end(self) -> None:
        """Let the process end."""
        if self.connection is not None:
            self.connection.close()
        if self.process is not None:
            self.process.join()
        self.process = self.connection = None

    def stop(self) -> None:
        """End the process in the middle of its work."""
        if self.process is not None:
            self.process.terminate()


def _serve(connection: Connection) -> None:
    """What a worker's process does: runs, until nobody asks for more."""
    from holdfast.engine import surveys

    surveys.keep()
    with suppress(EOFError, KeyboardInterrupt):
        while True:
            work, config, known = connection.recv()
            connection.send(work(config, known))
            gc.collect()  # a model is full of cycles


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
