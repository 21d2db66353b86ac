"""``holdfast export``: a tuned model in a form that others read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli._console import people
from holdfast.cli._trust import AllowCode, AllowPickle, trust_of


def command(
    model: Annotated[str, typer.Argument(help="A run, or its model folder.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="A new folder.", show_default=False)],
    peft: Annotated[
        bool, typer.Option("--peft", help="Only the adapter, in PEFT's format.")
    ] = False,
    allow_code: AllowCode = False,
    allow_pickle: AllowPickle = False,
) -> None:
    """Write a tuned model as a full Hugging Face folder, or its adapter in PEFT's format.

    A finished run's folder brings its model card along: README.md with what was learned and
    what was forgotten.
    """
    from holdfast.models import export

    with trust_of(allow_code, allow_pickle, outside=False):
        export(model, out, form="peft" if peft else "huggingface")
    if (Path(model) / "finished.json").exists():
        from holdfast.report.card import write_card
        from holdfast.runs import Run

        write_card(Run.read(model), out, library="peft" if peft else "transformers")
    people.print(f"written: {out}", markup=False)
