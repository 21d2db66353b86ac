"""``holdfast tune --budget``: say what may be lost; the rest is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer

from holdfast.cli._console import output, people, print_json
from holdfast.config import resolve
from holdfast.errors import UsageError
from holdfast.progress import Progress

NOTHING, TOO_FEW = 10, 11
"""Exit codes: nothing was shown to be inside the budget; the examples are too few to show it."""


def command(
    values: dict[str, Any],
    budget: str,
    keep: Sequence[str],
    old_data: str | None,
    examples: int,
    workers: int | None,
    *,
    dry_run: bool,
    as_json: bool,
    progress: Progress,
) -> None:
    """A search within a budget, or its plan; leaves with the exit code if none was found."""
    from holdfast.budget.prepare import TooFewExamples
    from holdfast.budget.search import search
    from holdfast.engine.world import world

    if world().size > 1:
        raise UsageError(
            "a search starts its trials as processes of their own; run it without a launcher, and "
            "give --workers."
        )
    asked = points(budget)
    methods = _settle(values, keep)
    config = resolve(values)
    chosen: dict[str, Any] = {
        "budget": asked,
        "methods": methods,
        "old_data": old_data,
        "examples": examples,
    }
    try:
        if dry_run:
            _plan(config, chosen, workers, as_json, progress)
            return
        found = search(config, **chosen, workers=workers, progress=progress)
    except TooFewExamples as error:
        people.print(f"[bold red]error:[/bold red] {error}", soft_wrap=True)
        raise typer.Exit(TOO_FEW) from None
    if as_json:
        print_json(found.to_json())
    else:
        from holdfast.report.budget import budget_tables

        for table in budget_tables(found):
            output.print(table.rich())
        output.print(found.verdict, markup=False)
    people.print(f"report: {config.out}/report.html\nmodel:  {found.result}", markup=False)
    if found.chosen is None:
        raise typer.Exit(NOTHING)


def _settle(values: dict[str, Any], keep: Sequence[str]) -> list[str]:
    """Fill in the configuration of a search; gives the methods that the user chose."""
    from holdfast.cli.tune import default_out

    if values.get("tasks"):
        raise UsageError("with --budget the tasks that must not be lost are named with --keep.")
    given = values.get("methods") or []
    methods = [given] if isinstance(given, str) else list(given)
    values["tasks"] = list(keep)
    values["methods"] = methods or ["within"]
    values.setdefault("out", default_out(values))
    return methods


def _plan(
    config: Any, chosen: dict[str, Any], workers: int | None, as_json: bool, progress: Progress
) -> None:
    from holdfast.budget.candidates import Situation
    from holdfast.budget.prepare import prepare
    from holdfast.report.budget import plan_lines
    from holdfast.trust import trusting

    with trusting(config.trust):
        situation = Situation("", chosen.pop("old_data"))
        prepared = prepare(config, situation=situation, **chosen, progress=progress)
        prepared.refuse_too_few()
        facts = prepared.facts() | prepared.cost(workers)
    print_json(facts) if as_json else output.print(plan_lines(facts), markup=False)


def points(text: str, option: str = "--budget") -> float:
    """'1%' or '1' as points."""
    try:
        value = float(text.strip().removesuffix("%"))
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise UsageError(f"{option} {text}: give points between 0 and 100, such as 1%.")
    return value
