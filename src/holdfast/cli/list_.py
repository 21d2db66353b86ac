"""``holdfast list``: what there is."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from holdfast.cli._console import output, print_json

if TYPE_CHECKING:
    from holdfast.methods import Described


class Kind(StrEnum):
    methods = "methods"
    merges = "merges"
    tasks = "tasks"
    models = "models"
    data = "data"
    scorers = "scorers"
    families = "families"
    recipes = "recipes"
    probes = "probes"


def command(
    kind: Annotated[Kind, typer.Argument(help="What to list.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON on standard output.")] = False,
) -> None:
    """List methods, merges and probes (with papers), tasks, models, data, scorers, families,
    recipes."""
    rows = ROWS[kind]()
    if as_json:
        print_json(rows)
        return
    columns = list(rows[0]) if rows else []
    table = Table(show_header=True, header_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column == "name")
    for row in rows:
        table.add_row(*(_cell(row[c]) for c in columns))
    output.print(table)


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}={v}" for k, v in value.items())
    return "" if value is None else str(value)


def _methods() -> list[dict[str, Any]]:
    from holdfast.methods import describe

    return _described(describe())


def _merges() -> list[dict[str, Any]]:
    from holdfast.changes.merge import MERGES
    from holdfast.methods import describe

    return _described(describe(MERGES))


def _described(found: Iterable[Described]) -> list[dict[str, Any]]:
    return [
        {
            "name": d.name,
            "summary": d.summary,
            "settings": {k: "required" if v is ... else v for k, v in d.settings.items()},
            "paper": d.paper,
        }
        for d in found
    ]


def _tasks() -> list[dict[str, Any]]:
    from holdfast import lab

    return [{"name": n, "summary": s} for n, s in (lab.datasets() | lab.suites()).items()] + [
        {"name": "FILE.jsonl", "summary": "a file of your own, in any format that tune reads"},
        {"name": "lm_eval:NAME", "summary": "a task of lm-eval (NAME@FOLDER for local task files)"},
    ]


def _models() -> list[dict[str, Any]]:
    from holdfast import lab

    return [{"name": n, "summary": s} for n, s in lab.models().items()] + [
        {"name": "FOLDER", "summary": "a Hugging Face model folder, or a run"},
        {"name": "ORG/NAME", "summary": "a hub id"},
    ]


def _data() -> list[dict[str, Any]]:
    from holdfast import lab

    return [{"name": n, "summary": s} for n, s in lab.datasets().items()]


def _scorers() -> list[dict[str, Any]]:
    from holdfast.tasks.scorers import SCORERS

    return [{"name": e.name, "summary": e.summary, "paper": e.paper} for e in SCORERS]


def _families() -> list[dict[str, Any]]:
    from holdfast.anatomy.families import COMPOSITES, LAYOUTS

    rows = [(n, f"{row.tower} tower") for row in LAYOUTS for n in row.types]
    rows += [(n, "multimodal") for row in COMPOSITES for n in row.types]
    return [{"name": n, "kind": kind} for n, kind in sorted(set(rows))]


def _recipes() -> list[dict[str, Any]]:
    from holdfast.anatomy.recipes import RECIPES

    rows = [{"name": n, "selector": s, "summary": about} for n, (s, about) in RECIPES.items()]
    towers = {"vision": "the vision tower", "projector": "what maps it into the language model"}
    blocks = {"last-N": "language[-N:]", "first-N": "language[:N]"}
    rows += [{"name": n, "selector": n, "summary": about} for n, about in towers.items()]
    return rows + [{"name": n, "selector": s, "summary": ""} for n, s in blocks.items()]


def _probes() -> list[dict[str, Any]]:
    from holdfast.probes import PROBES

    return [
        {
            "name": e.name,
            "summary": e.summary,
            "in training": "yes" if e.value.prepare is not None else "no",
            "paper": e.paper,
        }
        for e in PROBES
    ]


ROWS = {
    Kind.methods: _methods,
    Kind.merges: _merges,
    Kind.tasks: _tasks,
    Kind.models: _models,
    Kind.data: _data,
    Kind.scorers: _scorers,
    Kind.families: _families,
    Kind.recipes: _recipes,
    Kind.probes: _probes,
}
