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

from holdfast.cli import (
    advise,
    anatomy,
    bench,
    compare,
    demo,
    evaluate,
    export,
    lab,
    list_,
    merge,
    order,
    prepare,
    probe,
    repair,
    report,
    tune,
    watch,
)
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
from holdfast.network import settle
from holdfast.redact import redacted
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
app.command("advise")(advise.command)
app.command("evaluate")(evaluate.command)
app.command("compare")(compare.command)
app.command("repair")(repair.command)
app.command("merge")(merge.command)
app.command("probe")(probe.command)
app.command("report")(report.command)
app.command("watch")(watch.command)
app.command("order")(order.command)
app.command("anatomy")(anatomy.command)
app.command("list")(list_.command)
app.command("export")(export.command)
app.command("demo")(demo.command)
app.add_typer(prepare.app, name="prepare")
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
    given = list(arguments) if arguments is not None else sys.argv[1:]
    if _stands_by(given):
        return 0
    try:
        with Signals():
            # not app(): that makes an exit without a word of every interrupt
            command = typer.main.get_command(app)
            with command.make_context("holdfast", given) as context:
                result = command.invoke(context)
        return result if isinstance(result, int) else 0
    except typer.Exit as stop:
        return int(stop.exit_code)
    except Misused as error:
        if _speaks(2):
            _complain(error)
        return 2
    except HoldfastError as error:
        code = next((code for kind, code in CODES.items() if isinstance(error, kind)), 1)
        if _speaks(code):
            people.print("[bold red]error:[/bold red]", end=" ")
            text = safe_text(redacted(str(error)), lines=True)
            people.print(text, markup=False, soft_wrap=True)  # its commands can be copied
        return code
    except (KeyboardInterrupt, typer.Abort) as error:
        ended = error if isinstance(error, Interrupted) else error.__cause__
        if not isinstance(ended, Interrupted):
            ended = Interrupted(signal.SIGINT)
        if _speaks(ended.code):
            people.print(safe_text(str(ended), lines=True), markup=False, soft_wrap=True)
        return ended.code
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except Exception as error:
        if not _speaks(1):
            return 1
        return _disk(error)


def _stands_by(arguments: Sequence[str]) -> bool:
    """Whether a launcher started this process and its command is the first one's alone."""
    verb = next((a for a in arguments if not a.startswith("-")), None)
    return verb != "tune" and int(os.environ.get("RANK", "0")) > 0


def _speaks(code: int) -> bool:
    """Whether this process is the one that says what went wrong, of those that share a run."""
    from holdfast.engine.world import world

    try:
        return world().fail(code)
    except HoldfastError:  # they never met
        return int(os.environ.get("RANK", "0")) == 0


def _disk(error: Exception) -> int:
    """A sentence and an exit code if ``error`` is about a file or the disk; else it goes on."""
    from holdfast.runs.files import failed_write

    failed = failed_write(error)
    if failed is None:
        raise error
    if failed.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f": {failed.filename} could not be written" if failed.filename else ""
        text = f"the disk is full{where}. What was measured is kept; make room and run again."
    elif failed.filename is not None:
        text = f"{str(failed.filename)[:200]!r} cannot be used: {failed.strerror or failed}."
    else:
        raise error
    people.print("[bold red]error:[/bold red]", end=" ")
    people.print(safe_text(text), markup=False)
    return CODES[RunError]


def _complain(error: Any) -> None:
    """A complaint about the command line itself, which quotes what was typed."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return
    typed = error.format_message()
    people.print("[bold red]error:[/bold red]", end=" ")
    people.print(safe_text(redacted(typed), lines=True), markup=False)
    context = getattr(error, "ctx", None)
    if context is not None:
        people.print(f"See '{context.command_path} --help'.", markup=False)


def _hush() -> None:
    """Leave out what libraries say to the programmer; a user who sets the variable hears it."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal without our characters
    settle()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    for module in ("transformers", "peft", "accelerate", "torch"):
        warnings.filterwarnings("ignore", category=FutureWarning, module=module)
