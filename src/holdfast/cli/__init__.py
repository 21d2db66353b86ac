"""The command line: one verb, one file. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

import errno
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import typer

from holdfast.cli import anatomy, bench, demo, evaluate, export, lab, list_, tune
from holdfast.cli._console import EXIT_CODES, people
from holdfast.errors import (
    DataError,
    HoldfastError,
    Interrupted,
    MissingExtra,
    ModelError,
    RunError,
    UsageError,
)
from holdfast.signals import Signals
from holdfast.text import safe_text

app = typer.Typer(
    name="holdfast",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help=(
        "Teach a language or multimodal model a new skill, and see what it forgot.\n\n"
        "Start with [bold]holdfast demo[/bold]: about five minutes, nothing to prepare. Then\n"
        "[bold]holdfast tune MODEL --data FILE --method gate-up --tasks TASKS[/bold]\n"
        "does the same to a model and data of your own."
    ),
    epilog=EXIT_CODES,
)
app.command("tune")(tune.command)
app.command("evaluate")(evaluate.command)
app.command("anatomy")(anatomy.command)
app.command("list")(list_.command)
app.command("export")(export.command)
app.command("demo")(demo.command)
app.add_typer(lab.app, name="lab")
app.add_typer(bench.app, name="bench")

Misused: type[Any] = typer.BadParameter.__mro__[2]
"""Every complaint about the command line itself; recent typers bring a click of their own."""

CODES: dict[type[HoldfastError], int] = {
    UsageError: 2,
    MissingExtra: 2,
    DataError: 3,
    ModelError: 4,
    RunError: 5,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns its exit code (see the foot of ``holdfast --help``)."""
    _hush()
    try:
        with Signals():
            given = list(arguments) if arguments is not None else None
            result = app(args=given, standalone_mode=False)
        return result if isinstance(result, int) else 0
    except typer.Exit as stop:
        return int(stop.exit_code)
    except Misused as error:
        error.show()
        return 2
    except HoldfastError as error:
        people.print("[bold red]error:[/bold red]", end=" ")
        people.print(safe_text(str(error), lines=True), markup=False)
        return next((code for kind, code in CODES.items() if isinstance(error, kind)), 1)
    except (KeyboardInterrupt, typer.Abort) as error:
        ended = error if isinstance(error, Interrupted) else error.__cause__
        if not isinstance(ended, Interrupted):
            ended = Interrupted(signal.SIGINT)
        people.print(safe_text(str(ended), lines=True), markup=False)
        return ended.code
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except Exception as error:
        return _full_disk(error)


def _full_disk(error: Exception) -> int:
    """A sentence and an exit code if ``error`` is about a disk that is full; else it goes on."""
    from holdfast.runs.files import failed_write

    failed = failed_write(error)
    if failed is None or failed.errno not in (errno.ENOSPC, errno.EDQUOT):
        raise error
    where = f": {failed.filename} could not be written" if failed.filename else ""
    people.print("[bold red]error:[/bold red]", end=" ")
    people.print(
        safe_text(f"the disk is full{where}. What was measured is kept; make room and run again."),
        markup=False,
    )
    return CODES[RunError]


def _hush() -> None:
    """Leave out what libraries say to the programmer; a user who sets the variable hears it."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    for module in ("transformers", "peft", "accelerate", "torch"):
        warnings.filterwarnings("ignore", category=FutureWarning, module=module)
