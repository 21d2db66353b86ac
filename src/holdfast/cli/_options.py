"""Options that several verbs have, said once."""

from __future__ import annotations

from typing import Annotated

import typer

from holdfast.cli._console import TerminalProgress
from holdfast.errors import UsageError
from holdfast.progress import Progress

Before = Annotated[
    str, typer.Argument(help="The model before: a lab name, a folder, a hub id, or a run.")
]
After = Annotated[str, typer.Argument(help="The model after, from us or from anywhere.")]
Tasks = Annotated[
    list[str],
    typer.Option(
        "--tasks",
        "-t",
        help="Tasks or suites: lab:held-out, a .jsonl file, lm_eval:NAME. Repeatable.",
        show_default=False,
    ),
]
Limit = Annotated[int | None, typer.Option(help="At most so many examples of each task.", min=1)]
BatchSize = Annotated[
    int | None, typer.Option(help="Examples at once; by default what fits.", min=1)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and only that.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No bars.")]


def bars(*, hidden: bool) -> Progress:
    """What shows how far the work is: bars in the terminal, or nothing."""
    return Progress() if hidden else TerminalProgress()


def points(text: str, option: str) -> float:
    """'1%' or '1' as points. Raises :class:`UsageError` outside 0 to 100."""
    try:
        value = float(text.strip().removesuffix("%"))
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise UsageError(f"{option} {text}: give points between 0 and 100, such as 1%.")
    return value
