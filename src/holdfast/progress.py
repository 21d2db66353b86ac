"""What long work says while it runs. The engine knows this; how it looks is the command line's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int, int], None]
"""``advance(done, total)``: so much is done of so much."""


class Progress:
    """Silent. The command line has one that draws bars."""

    def say(self, text: str) -> None:
        """A line for the user: a decision that was taken, a stage that begins."""

    @contextmanager
    def bar(self, label: str) -> Iterator[Advance]:
        """A bar for the time of the block; call what it yields as work gets done."""
        yield lambda done, total: None
