"""SIGINT, SIGTERM and SIGHUP end a run in order: a checkpoint first, then the process."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from holdfast.errors import Interrupted

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Signals:
    """Within ``with``, a signal raises :class:`Interrupted`: at once, or, inside :meth:`held`, when
    that ends. A second one does not wait.

    Signals that the process was told to ignore (``nohup``) stay ignored; outside the main
    thread, where no handler can be set, everything stays as it is.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._held = 0
        self._before: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in ENDING:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before.clear()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        waits = self._held > 0 and self.received is None
        self.received = number
        if not waits:
            raise Interrupted(number)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within, the first signal is only noted, in ``received``; it is raised at the end."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
        if self.received is not None and not self._held:
            raise Interrupted(self.received)
