"""``holdfast tune``: teach a model one skill or a sequence of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli._console import TerminalProgress, output, people, print_json
from holdfast.cli._trust import AllowCode, AllowOutside, AllowPickle
from holdfast.config import override, read_yaml, resolve
from holdfast.progress import Progress

if TYPE_CHECKING:
    from holdfast.runs import Run

Model = Annotated[
    str | None,
    typer.Argument(
        help="The model: a lab name (lab:vlm), a folder, a hub id, or an earlier run. "
        "May be left out if --config names it.",
        show_default=False,
    ),
]
Data = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        "-d",
        help="What to learn: a .jsonl, .json, .parquet or .csv file, a folder, a hub id, or a lab "
        "skill (lab:count). Give it several times for a sequence of stages.",
        show_default=False,
    ),
]
Test = Annotated[
    list[str] | None,
    typer.Option(
        "--test",
        help="What learning is measured on, one for each --data in the same order. Without it a "
        "lab skill has its own test, and a tenth of other data is held back.",
        show_default=False,
    ),
]
Method = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        "-m",
        help="How to learn: a name from 'holdfast list methods', with settings after a colon "
        "(lora:rank=8,scope=sa-proj). Several combine.",
        show_default=False,
    ),
]
Tasks = Annotated[
    list[str] | None,
    typer.Option(
        "--tasks",
        "-t",
        help="What must not be forgotten: tasks or suites (lab:held-out, a .jsonl file, "
        "lm_eval:NAME), scored before the first stage and after each.",
        show_default=False,
    ),
]


def command(
    model: Model = None,
    data: Data = None,
    method: Method = None,
    tasks: Tasks = None,
    test: Test = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="A run.yaml; options given here replace its values."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            "-s",
            metavar="KEY=VALUE",
            help="Any setting, for example train.epochs=3 or evaluate.limit=200.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The run's folder. By default under runs/."),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            "--learning-rate", "--lr", help="Peak rate (train.learning_rate).", show_default=False
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option("--steps", help="Steps of each stage (train.steps).", show_default=False),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", show_default=False)] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            help="Points of the kept tasks that may be lost, such as 1%. Recipe, learning rate, "
            "length and interpolation are then chosen by short runs; --method fixes the recipe.",
            show_default=False,
        ),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            "--keep",
            "-k",
            help="With --budget: what must not be lost, as --tasks. Repeatable. A lab model has "
            "general tasks of its own.",
            show_default=False,
        ),
    ] = None,
    examples: Annotated[
        int,
        typer.Option(
            help="With --budget: at most so many of each task, a quarter of them for the search.",
            min=8,
        ),
    ] = 400,
    old_data: Annotated[
        str | None,
        typer.Option(
            "--old-data",
            help="With --budget: data of what the model knows, for methods that read it again.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="With --budget: runs at a time, by default one for each core, or one on a GPU.",
            min=1,
            show_default=False,
        ),
    ] = None,
    evaluate_share: Annotated[
        float | None,
        typer.Option(
            "--evaluate-share",
            help="Score samples of the tasks while training goes on, for this share of its time "
            "(evaluate.share), such as 0.1.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check everything, print the plan and its cost, and stop."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON on standard output.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No bars, no notices.")] = False,
    allow_code: AllowCode = False,
    allow_pickle: AllowPickle = False,
    allow_outside: AllowOutside = False,
) -> None:
    """Teach a model, keep what it knew, and measure both.

    Scores every target skill and every held-out task before the first stage and after each,
    saves what changed, and prints what was learned and what was lost, with intervals. Killed
    at any moment, the same command goes on where it stopped.

    [bold]Examples[/bold]

      holdfast tune lab:vlm --data lab:count --method gate-up --tasks lab:held-out

      holdfast tune Qwen/Qwen2.5-VL-3B-Instruct --data mine.jsonl --method sa-proj --dry-run

      holdfast tune lab:vlm -d lab:count -d lab:clock -m mlp -m lwf -t lab:held-out

      holdfast tune MODEL --data mine.jsonl --keep general.jsonl --budget 1%

    With --budget the exit code is 0 if a model inside it was found, 10 if none was, 11 if the
    examples are too few to tell.
    """
    from holdfast.engine.preflight import preflight
    from holdfast.engine.tune import tune
    from holdfast.engine.world import world

    first = world().first
    values = gather(model, data, test, method, tasks, config, out, seed)
    options = {
        "train.learning_rate": learning_rate,
        "train.steps": steps,
        "evaluate.share": evaluate_share,
    }
    for key, given in options.items():
        if given is not None:
            override(values, f"{key}={given!r}")
    allowed = {"remote_code": allow_code, "pickle": allow_pickle, "outside": allow_outside}
    for key in (k for k, given in allowed.items() if given):
        override(values, f"trust.{key}=true")
    for assignment in set_ or []:
        override(values, assignment)
    progress = Progress() if quiet or as_json or not first else TerminalProgress()
    if budget is not None or keep:
        from holdfast.cli import _within

        _within.command(
            values, budget or "1%", keep or [], old_data, examples, workers,
            dry_run=dry_run, as_json=as_json, progress=progress,
        )  # fmt: skip
        return
    values.setdefault("out", default_out(values))
    resolved = resolve(values)
    if dry_run and not first:
        return
    if dry_run:
        from holdfast.report.run import dry_run as described

        facts = preflight(resolved, progress=progress).facts()
        print_json(facts) if as_json else output.print(described(facts))
        return
    run = tune(resolved, progress=progress)
    if first:
        show(run, as_json=as_json, quiet=quiet)


def show(run: Run, *, as_json: bool, quiet: bool) -> None:
    """Write a finished run's report and print what it says."""
    from holdfast.report import tables
    from holdfast.report.run import write_report

    page, summary, row = write_report(run)
    if as_json:
        print_json({"run": str(run.path), "row": row.to_json(), **summary.to_json()})
        return
    if not quiet:
        output.print(tables.accuracy(summary).rich())
    output.print(tables.verdict(row), markup=False)
    people.print(f"report: {page}\nmodel:  {run.model}", markup=False)


def gather(
    model: str | None,
    data: list[str] | None,
    test: list[str] | None,
    method: list[str] | None,
    tasks: list[str] | None,
    config: Path | None,
    out: Path | None,
    seed: int | None,
) -> dict[str, Any]:
    """The configuration file's values with the options laid over them."""
    values = read_yaml(config) if config is not None else {}
    given = {"model": model, "methods": method, "tasks": tasks, "seed": seed}
    values |= {k: v for k, v in given.items() if v is not None and v != []}
    if data:
        tests = list(test or [])
        if len(tests) > len(data):
            raise typer.BadParameter("there are more --test than --data")
        pairs = zip(data, [*tests, *[None] * (len(data) - len(tests))], strict=True)
        values["data"] = [{"data": d, "test": t} if t else {"data": d} for d, t in pairs]
    if out is not None:
        values["out"] = str(out)
    return values


def default_out(values: dict[str, Any]) -> str:
    """A folder name that says what the run is."""

    def plain(text: object) -> str:
        word = str(text).rstrip("/").rsplit("/", 1)[-1]
        return "".join(c if c.isalnum() or c in "-_." else "-" for c in word)

    methods = values.get("methods") or ["run"]
    methods = methods if isinstance(methods, list) else [methods]
    stages = values.get("data") or [""]
    first = stages[0] if isinstance(stages, list) else stages
    first = first.get("data", "") if isinstance(first, dict) else first
    parts = [plain(values.get("model", "model")), "+".join(plain(m) for m in methods), plain(first)]
    return "runs/" + ".".join(p[:60] for p in parts if p)
