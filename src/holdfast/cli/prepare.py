"""``holdfast prepare``: data that a method reads, written to a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli._console import people

app = typer.Typer(no_args_is_help=True, help="Write data that a method reads: texts, styles.")


@app.command("texts")
def texts(
    model: Annotated[str, typer.Argument(help="A lab name, a folder, a hub id, or a run.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .jsonl file to write.")],
    n: Annotated[int, typer.Option("--n", help="How many.")] = 1000,
    prompts: Annotated[
        str | None, typer.Option("--prompts", help="Data whose questions the model answers.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens")] = 128,
    temperature: Annotated[float, typer.Option("--temperature")] = 1.0,
) -> None:
    """General samples that the model writes itself, for gere and other methods that replay."""
    from holdfast.engine.preparing import write_texts

    count = write_texts(
        model, out, n=n, prompts=prompts, seed=seed, max_new_tokens=max_new_tokens,
        temperature=temperature,
    )  # fmt: skip
    people.print(f"written: {out} ({count} texts)", markup=False)


@app.command("styles")
def styles(
    data: Annotated[str, typer.Argument(help="A file, a folder, a hub id, or a lab name.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .jsonl file to write.")],
    share: Annotated[float, typer.Option("--share", help="Of all records, 0 to 1.")] = 0.2,
    only: Annotated[
        list[str] | None, typer.Option("--style", help="short, yes_no, choice, brief, detail.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    teacher: Annotated[
        str | None,
        typer.Option("--teacher", help="A model, or an endpoint (http://HOST/v1), for free text."),
    ] = None,
    teacher_model: Annotated[
        str, typer.Option("--teacher-model", help="What the endpoint calls its model.")
    ] = "default",
    image_root: Annotated[Path | None, typer.Option("--image-root")] = None,
) -> None:
    """A share of a data set asked and answered in other styles (SEFE's ASD)."""
    from holdfast.engine.preparing import write_styles

    counts = write_styles(
        data, out, share=share, styles=only, seed=seed, teacher=teacher,
        teacher_model=teacher_model, image_root=image_root,
    )  # fmt: skip
    said = ", ".join(f"{style} {count}" for style, count in counts.items())
    people.print(f"written: {out} ({said})", markup=False)
