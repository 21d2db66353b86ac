"""``holdfast probe``: what a change did to a model's outputs and weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli._console import output, print_json
from holdfast.cli._options import AsJson, BatchSize, Quiet, bars
from holdfast.cli._trust import AllowCode, AllowOutside, AllowPickle, trust_of
from holdfast.errors import UsageError
from holdfast.progress import Progress

if TYPE_CHECKING:
    from holdfast.data.records import Record
    from holdfast.probes import Probe, ProbeResult, ProbeRow


def command(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="Two models: lab names, folders, hub ids, runs.",
            metavar="BASE TUNED",
            show_default=False,
        ),
    ] = None,
    names: Annotated[
        list[str] | None,
        typer.Option(
            "--probe",
            "-p",
            help="See: holdfast list probes. Repeatable; by default token-bias and divergence.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            "-d",
            help="Prompts: lab:captions, a .jsonl file. Repeatable.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[int, typer.Option(help="At most so many prompts of each.", min=1)] = 64,
    classes: Annotated[
        list[str] | None,
        typer.Option(
            "--class",
            help="numbers (if none is named), letters, yes-no or times. Repeatable.",
            show_default=False,
        ),
    ] = None,
    taught: Annotated[
        str | None,
        typer.Option(
            "--taught",
            help="Data that was taught: its answers' token classes are probed too.",
            show_default=False,
        ),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Of a reply that is written.", min=1)] = 32,
    batch_size: BatchSize = None,
    over: Annotated[
        list[Path] | None,
        typer.Option(
            "--over",
            help="Finished runs of a sweep (or a folder of them), instead of two models: "
            "which probe goes with forgetting? Repeatable.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write drift.html, .md and .json here.")
    ] = None,
    as_json: AsJson = False,
    every_row: Annotated[
        bool, typer.Option("--all", help="Show every block, not the one that moved most.")
    ] = False,
    quiet: Quiet = False,
    allow_code: AllowCode = False,
    allow_pickle: AllowPickle = False,
    allow_outside: AllowOutside = False,
) -> None:
    """Measure how a model's outputs and weights moved, whatever its scores say.

    [bold]Example[/bold]

      holdfast probe lab:vlm runs/count --data lab:captions --taught lab:count

      holdfast probe --over runs/sweep --data lab:captions
    """
    settings = {"max_new_tokens": max_new_tokens, "batch_size": batch_size or "auto",
                "classes": tuple(classes or ("numbers",))}  # fmt: skip
    progress = bars(hidden=quiet or as_json)
    with trust_of(allow_code, allow_pickle, allow_outside):
        probes = _probes(names, settings, taught)
        prompts = {name: _records(name, limit) for name in data or ()}
        if not prompts and not all(p.weights for p in probes):
            raise UsageError(
                "name the prompts to read with --data, such as lab:captions, or a .jsonl file; "
                "only --probe weights needs none."
            )
        if over:
            found = _over(over, probes, prompts, progress)
        else:
            found = _pair(models or [], probes, prompts)
    if out is not None:
        _write(out, found)
    if as_json:
        print_json(found["json"])
        return
    if over:
        from rich.markdown import Markdown

        output.print(Markdown(found["page"]))
        return
    _print(found["results"], every_row)


def _probes(
    names: list[str] | None, settings: dict[str, Any], taught: str | None
) -> dict[Probe, dict[str, Any]]:
    """The probes, each with those of the settings that it has."""
    from holdfast.probes import PROBES

    if taught is not None:
        settings = settings | {"task_answers": [r.answer() for r in _records(taught, 200)]}
    chosen = [PROBES[n].value for n in names or ("token-bias", "divergence")]
    return {p: {k: v for k, v in settings.items() if k in p.settings} for p in chosen}


def _records(source: str, limit: int) -> list[Record]:
    from holdfast.data import read

    split = "test" if source.startswith("lab:") else None
    return list(read(source, limit=limit, split=split))


def _pair(
    models: Sequence[str],
    probes: dict[Probe, dict[str, Any]],
    prompts: dict[str, list[Record]],
) -> dict[str, Any]:
    from holdfast.models.loading import load_all
    from holdfast.report.drift_page import drift_document

    if len(models) != 2:
        raise UsageError(
            f"{len(models)} models were named ({', '.join(models) or 'none'}); name two, BASE and "
            "TUNED, or runs with --over."
        )
    base, tuned = models
    results = [p(base, tuned, **s) for p, s in probes.items() if p.weights]
    if len(results) < len(probes):
        one, two = load_all(base), load_all(tuned)
        for p, s in probes.items():
            for name, records in prompts.items() if not p.weights else ():
                found = p(one.model, two.model, one.processor, records, **s)
                results.append(found.named(name))
    rows = [r.to_json() for r in results]
    return {
        "results": results,
        "json": {"base": base, "tuned": tuned, "results": rows},
        "page": _markdown(base, tuned, results),
        "document": drift_document(base, tuned, rows),
    }


def _over(
    folders: Sequence[Path],
    probes: dict[Probe, dict[str, Any]],
    prompts: dict[str, list[Record]],
    progress: Progress,
) -> dict[str, Any]:
    from holdfast.probes import relate
    from holdfast.probes._over_runs import measured, probe_runs, runs_in
    from holdfast.probes._relate import page
    from holdfast.report.drift_page import relation_document

    runs = runs_in(folders)
    forgetting = measured(runs)
    results = probe_runs(runs, probes, prompts, progress=progress)
    related = relate(results, forgetting)
    json = {
        "forgetting": forgetting,
        "related": [r.to_json() for r in related],
        "results": {run: [r.to_json() for r in many] for run, many in results.items()},
    }
    return {
        "results": [],
        "json": json,
        "page": page(related, forgetting),
        "document": relation_document(related, forgetting),
    }


def _write(folder: Path, found: dict[str, Any]) -> None:
    from holdfast.report.html import write_html
    from holdfast.runs.files import write_json, write_text

    write_text(folder / "drift.md", found["page"])
    write_html(folder / "drift.html", found["document"])
    write_json(folder / "drift.json", found["json"])


def _shown(result: ProbeResult, every_row: bool) -> list[ProbeRow]:
    """The rows of a result, of blocks only the one with the largest value."""
    if every_row:
        return list(result.rows)
    most: dict[tuple[str, ...], ProbeRow] = {}
    for row in result.rows:
        key = (row.measure, row.side, row.token_class, row.part, row.tower, str(row.block))
        if row.block is not None:
            key = (*key[:-1], "most")
        if key not in most or row.value > most[key].value:
            most[key] = row
    return list(most.values())


def _lines(result: ProbeResult, every_row: bool) -> list[tuple[str, str, str, str, str]]:
    lines: list[tuple[str, str, str, str, str]] = []
    for row in _shown(result, every_row):
        block = "" if row.block is None else f"block {row.block}"
        where = " ".join(w for w in (row.token_class, row.tower, block, row.part) if w)
        value = format(row.estimate, "+.4g" if row.side == "change" else ".4g")
        lines.append((row.measure, row.side, where, value, row.unit))
    return lines


def _print(results: Sequence[ProbeResult], every_row: bool) -> None:
    from rich.table import Table

    from holdfast.text import safe_text

    for result in results:
        title = safe_text(_title(result)).replace("[", "\\[")
        table = Table(title=title, title_justify="left", box=None, pad_edge=False)
        for name in ("measure", "of", "where", "value \\[95% interval]", "unit"):
            table.add_column(name, overflow="fold", no_wrap=name in ("measure", "of"))
        for line in _lines(result, every_row):
            table.add_row(*(safe_text(cell).replace("[", "\\[") for cell in line))
        output.print(table)
        output.print()


def _title(result: ProbeResult) -> str:
    data = result.rows[0].data if result.rows else ""
    return f"{result.probe}{f' on {data}' if data else ''}"


def _markdown(base: str, tuned: str, results: Sequence[ProbeResult]) -> str:
    lines = [f"# What changed from {base} to {tuned}", ""]
    for result in results:
        lines += [f"## {_title(result)}", "", "| measure | of | where | value | unit |",
                  "|---|---|---|---|---|"]  # fmt: skip
        lines += [f"| {' | '.join(line)} |" for line in _lines(result, every_row=True)]
        lines.append("")
    return "\n".join(lines)
