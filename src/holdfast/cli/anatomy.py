"""``holdfast anatomy``: what a model is made of, and what training a part of it costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli._console import output, print_json
from holdfast.cli._trust import AllowCode

if TYPE_CHECKING:
    from rich.table import Table

    from holdfast.anatomy import Anatomy, Selection
    from holdfast.anatomy.flow import Load


def command(
    model: Annotated[
        str,
        typer.Argument(
            help="A lab name, a hub id, or a folder; a folder with only a config.json will do.",
            show_default=False,
        ),
    ],
    select: Annotated[
        str | None,
        typer.Option(
            "--select",
            "-s",
            help="What would train: a recipe (sa-proj, gate-up, last-2), or parts by role: "
            "'language.mlp.gate+up', 'language[8:16].attn', 'all - embed'.",
            show_default=False,
        ),
    ] = None,
    text_tokens: Annotated[
        int, typer.Option(help="Text tokens of one example, for the FLOPs.", min=1)
    ] = 256,
    image_size: Annotated[
        int | None,
        typer.Option(help="Pixels along an image's side; by default what the model names.", min=1),
    ] = None,
    scores: Annotated[
        bool, typer.Option("--scores", help="Count attention scores in the FLOPs too.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Everything as JSON, part by part.")
    ] = False,
    allow_code: AllowCode = False,
) -> None:
    """Name every weight of a model by its role; no weights are read or downloaded.

    With --select: how much of the model a selector trains, what memory that needs, and the
    training FLOPs that are left. Without: the same for each published recipe.

    [bold]Example[/bold]

      holdfast anatomy lab:vlm --select language.mlp.gate+up
    """
    from holdfast.anatomy import anatomy, load_meta
    from holdfast.anatomy.cost import default_load
    from holdfast.trust import Trust, trusting

    with trusting(Trust(remote_code=allow_code)):
        found = anatomy(load_meta(_location(model)))
    load = default_load(found, text_tokens, image_size or 0, scores)
    chosen = found.select(select if select is not None else "all")
    if as_json:
        print_json({"model": model} | report(found, chosen, load))
        return
    _print(found, chosen, load, recipes=select is None)


def report(found: Anatomy, chosen: Selection, load: Load) -> dict[str, Any]:
    """What ``--json`` prints: counts, memory in bytes, FLOPs, and every part."""
    taken = set(chosen.parts)
    memory = found.memory(chosen)
    return {
        "family": found.family,
        "selector": chosen.text,
        "selected_parameters": chosen.count,
        "total_parameters": found.count,
        "share": chosen.count / found.count,
        "flops_ratio": found.flops_ratio(chosen, load),
        "positions": {
            "language": load.language,
            "vision": load.vision,
            "projector": load.projector,
        },
        "memory": {
            "optimizer": memory.optimizer,
            "gradients": memory.gradients,
            "weights": memory.weights,
        },
        "notes": [*found.notes, *chosen.notes],
        "parts": [
            {
                "tower": p.tower,
                "block": p.block,
                "unit": p.unit,
                "also": list(p.also),
                "parameter": p.parameter,
                "aliases": list(p.aliases),
                "rows": str(p.rows) if p.rows is not None else None,
                "bias": p.bias,
                "count": p.count,
                "selected": p in taken,
            }
            for p in found.parts
        ],
    }


def _location(model: str) -> str:
    """Where a model's configuration is; for a tuned model its base's."""
    from holdfast.models.saving import read_delta
    from holdfast.models.source import DELTA, resolve

    source = resolve(model)
    if source.folder is not None and (source.folder / DELTA).exists():
        return resolve(str(read_delta(source.folder)["base"])).location
    return source.location


def _print(found: Anatomy, chosen: Selection, load: Load, recipes: bool) -> None:
    output.print(_parts_table(found, chosen, marked=not recipes))
    if recipes:
        output.print(_recipes_table(found, load))
    else:
        _print_cost(found, chosen, load)
    for note in (*found.notes, *chosen.notes):
        output.print(f"Note: {note}", markup=False)


def _print_cost(found: Anatomy, chosen: Selection, load: Load) -> None:
    memory = found.memory(chosen)
    lines = (
        f"'{chosen.text}' selects {chosen.count:,} of {found.count:,} parameters "
        f"({_percent(chosen.count / found.count)}).",
        f"Optimizer state {_size(memory.optimizer)} (AdamW, float32), gradients "
        f"{_size(memory.gradients)} (float32), weights {_size(memory.weights)} (float32 where "
        "they train, else bfloat16).",
        f"Training FLOPs left: {found.flops_ratio(chosen, load):.3f} of training everything; a "
        f"forward pass alone is 0.333. {_load_in_words(load)}",
    )
    for line in lines:
        output.print(line, markup=False)


def _load_in_words(load: Load) -> str:
    image = f", {load.projector:.0f} of them of an image ({load.vision:.0f} patches)"
    tokens = f"{load.language:.0f} tokens{image if load.projector else ''}"
    seen = tokens if load.language else f"{load.vision:.0f} patches or pixels"
    return f"Counted for {seen}, attention scores {'included' if load.scores else 'left out'}."


def _parts_table(found: Anatomy, chosen: Selection, marked: bool) -> Table:
    from rich.table import Table

    table = Table(title=f"{found.family}: {found.count:,} parameters", title_justify="left")
    for name in ("tower", "blocks", "part"):
        table.add_column(name)
    for name in ("parameters", "share", *(("selected",) if marked else ())):
        table.add_column(name, justify="right")
    for group in found.groups(chosen.parts):
        cells = [group.tower, group.blocks, group.unit, f"{group.count:,}"]
        cells.append(_percent(group.count / found.count))
        if marked:
            cells.append(f"{group.selected:,}" if group.selected else "")
        table.add_row(*cells, style="bold" if marked and group.selected else None)
    return table


def _recipes_table(found: Anatomy, load: Load) -> Table:
    from rich.table import Table

    from holdfast.anatomy.recipes import RECIPES
    from holdfast.errors import SelectorError

    table = Table(title="What the published recipes train", title_justify="left")
    table.add_column("recipe")
    for name in ("parameters", "share", "optimizer + gradients", "FLOPs left"):
        table.add_column(name, justify="right")
    for name in (*RECIPES, "vision", "projector", "last-1"):
        try:
            chosen = found.select(name)
        except SelectorError:
            continue
        memory = found.memory(chosen)
        table.add_row(
            name,
            f"{chosen.count:,}",
            _percent(chosen.count / found.count),
            _size(memory.optimizer + memory.gradients),
            f"{found.flops_ratio(chosen, load):.3f}",
        )
    return table


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%" if share >= 0.001 or share == 0 else "<0.1%"


def _size(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
