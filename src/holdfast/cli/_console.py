"""How the command line speaks: people on the terminal, machines on standard output."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as Bars,
)
from rich.segment import Segment

from holdfast.progress import Advance, Progress
from holdfast.text import safe_text

EXIT_CODES = """\
Exit codes: 0 done; 1 a defect of ours; 2 the request is wrong; 3 the data; 4 the model;
5 the run stopped or its folder cannot be used; 10 a gate or a budget is not kept; 11 too few
examples to tell; 130 interrupted (SIGINT); 143 terminated (SIGTERM); 129 hung up (SIGHUP)."""


class SafeConsole(Console):
    """A console on which nothing that is shown can move the cursor, colour or reverse text.

    Names of files, models and tasks and every text of data end up here, in sentences, tables
    and bars; what is escaped at this last place cannot be forgotten at another.
    """

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            if segment.control is None and not segment.text.isprintable():
                yield segment._replace(text=safe_text(segment.text, lines=True))
            else:
                yield segment


people = SafeConsole(stderr=True, highlight=False, soft_wrap=False)
output = SafeConsole(highlight=False)


def print_json(value: Any) -> None:
    """One JSON value on standard output. What is not a number is null, never NaN."""
    text = json.dumps(_finite(value), indent=2, ensure_ascii=False)
    sys.stdout.write("".join(c if c == "\n" else _in_json(c) for c in text) + "\n")


def _in_json(c: str) -> str:
    """What :func:`safe_text` would escape, escaped as JSON does it."""
    if c.isprintable() or safe_text(c) == c:
        return c
    return json.dumps(c)[1:-1]


def _finite(value: Any) -> Any:
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value


class TerminalProgress(Progress):
    """Lines and bars on standard error, so that standard output stays for results."""

    def __init__(self, console: Console = people) -> None:
        self.console = console

    def say(self, text: str) -> None:
        self.console.print(safe_text(text), markup=False)

    @contextmanager
    def bar(self, label: str) -> Iterator[Advance]:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        shown = self.console.is_terminal
        with Bars(*columns, console=self.console, transient=True, disable=not shown) as bars:
            task = bars.add_task(safe_text(label), total=None)

            def advance(done: int, total: int) -> None:
                bars.update(task, completed=done, total=total)

            yield advance
