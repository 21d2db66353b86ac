"""The processes that share a run: who the first is, what all agree on, and how all end together.

A launcher (``torchrun``, ``accelerate launch``) starts every process with the same command. The
first one alone prints and writes the run's files; what it reads off them, it tells the others.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

from holdfast.errors import RunError

T = TypeVar("T")

PATIENCE = timedelta(hours=24)
"""How long a process waits for the others: one may be asked questions while others are done."""

WATCH = 0.5
"""Seconds between looks at whether another process has failed."""

FAILED, CODE = "holdfast/failed", "holdfast/code"


@dataclass
class World:
    """The processes of one run. Made by :func:`world`."""

    rank: int = 0
    size: int = 1
    store: Any = None
    """Where processes leave each other notes (a torch ``Store``); None for one process."""
    failing: bool = False
    """Whether this process is on its way out with an error of its own."""
    _spoke: bool | None = field(default=None, repr=False)

    @property
    def first(self) -> bool:
        return self.rank == 0

    def agree(self, value: T) -> T:
        """What the first process has."""
        if self.size == 1:
            return value
        import torch.distributed as dist

        held = [value]
        dist.broadcast_object_list(held, src=0, device=_cpu())
        return held[0]

    def gather(self, value: T) -> list[T]:
        """What every process has, in their order."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        held: list[Any] = [None] * self.size
        dist.all_gather_object(held, value)
        return held

    def any(self, value: int) -> int:
        """The largest of all processes' numbers."""
        if self.size == 1:
            return value
        import torch
        import torch.distributed as dist

        held = torch.tensor(value)
        dist.all_reduce(held, op=dist.ReduceOp.MAX)
        return int(held)

    def wait(self) -> None:
        """Until all processes are here."""
        self.agree(None)
        self.gather(None)

    def fail(self, code: int) -> bool:
        """Note that this process ends with an error, so that the others end too.

        Returns True for the first process that says so: it is the one that speaks.
        """
        self.failing = True
        if self._spoke is None:
            self._spoke = self.size == 1 or self._claim(code)
        return self._spoke

    def _claim(self, code: int) -> bool:
        if self.store is None:  # the processes never met
            return self.first
        try:
            self.store.set(CODE, str(code))
            first = int(self.store.add(FAILED, 1)) == 1
        except RuntimeError:  # whoever kept the notes is gone
            return True
        if self.first and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            time.sleep(3 * WATCH)  # the notes go with this process
        return first

    @contextmanager
    def together(self) -> Iterator[None]:
        """Within, an error here ends the other processes."""
        try:
            yield
        except BaseException as error:
            self.fail(getattr(error, "code", None) or 1)
            raise


_joined: World | None = None


def world() -> World:
    """The processes that a launcher started; a world of one without a launcher.

    Raises :class:`RunError` if the others cannot be found.
    """
    global _joined
    if _joined is None:
        size = int(os.environ.get("WORLD_SIZE", "1"))
        _joined = World() if size == 1 else _join(int(os.environ["RANK"]), size)
    return _joined


def _join(rank: int, size: int) -> World:
    import torch
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    settle_launcher(os.environ)
    cuda = torch.cuda.is_available() and not _cpu_wanted(os.environ)
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    try:
        store, rank, size = next(iter(rendezvous("env://", rank, size)))
        if not dist.is_initialized():
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if cuda else "gloo",
                store=PrefixStore("holdfast", store),
                rank=rank,
                world_size=size,
                timeout=PATIENCE,
            )
    except (RuntimeError, ValueError, KeyError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise RunError(
            f"the {size} processes of this run do not find each other ({first}); start them with "
            "torchrun or accelerate launch, which set MASTER_ADDR, MASTER_PORT, RANK, WORLD_SIZE."
        ) from error
    here = World(rank, size, store)
    leaving = threading.Event()
    watch = threading.Thread(target=_watch, args=(here, store.clone(), leaving), daemon=True)
    watch.start()
    atexit.register(_stop, watch, leaving)
    return here


def _stop(watch: threading.Thread, leaving: threading.Event) -> None:
    """A thread that is inside the store when the interpreter ends would abort the process."""
    leaving.set()
    watch.join(10 * WATCH)


def _watch(here: World, store: Any, leaving: threading.Event) -> None:
    """End this process when another one says that it failed: it may be waiting for that one.

    A process that fails itself is left to say so."""
    while not leaving.wait(WATCH):
        try:
            failed = bool(store.check([FAILED]))
            code = int(store.get(CODE)) if failed else 0
        except RuntimeError:  # whoever kept the notes is gone: the launcher ends us, or nobody
            return
        if failed:
            time.sleep(WATCH)  # our own error may be the same one, and on its way
            if here.failing:
                return
            os._exit(code)


def settle_launcher(environment: MutableMapping[str, str]) -> None:
    """Take what a launcher asks of accelerate in the form in which it is right here.

    FSDP is FSDP2 in units of blocks; every process reads the weights itself, as it asks the
    whole model its questions; a model is spread only once it trains.
    """
    if environment.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        if environment.get("FSDP_VERSION", "1") != "2":
            strategy = environment.get("FSDP_RESHARD_AFTER_FORWARD", "FULL_SHARD").upper()
            if strategy not in ("TRUE", "FALSE"):
                shards = strategy in ("FULL_SHARD", "HYBRID_SHARD", "1", "4")
                environment["FSDP_RESHARD_AFTER_FORWARD"] = str(shards).lower()
            environment["FSDP_VERSION"] = "2"
        environment.setdefault("FSDP_AUTO_WRAP_POLICY", "TRANSFORMER_BASED_WRAP")
        environment["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    if environment.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true":
        environment["ACCELERATE_DEEPSPEED_ZERO3_INIT"] = "false"


def _cpu_wanted(environment: MutableMapping[str, str]) -> bool:
    return environment.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1", "yes")


def _cpu() -> Any:
    import torch

    return torch.device("cpu")
