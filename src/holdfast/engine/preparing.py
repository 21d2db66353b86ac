"""Data files that methods read: samples of a model's own, a data set in more answer styles."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from holdfast.data import read
from holdfast.data.convert import PLACEHOLDER
from holdfast.data.records import Record
from holdfast.data.styles import STYLES, Style, Writer, diversify
from holdfast.errors import UnknownName, UsageError
from holdfast.runs.files import write_text


def write_texts(
    model: str, out: Path, *, n: int, prompts: str | None = None, seed: int = 0, **settings: Any
) -> int:
    """Let ``model`` write ``n`` general samples into ``out`` (JSON Lines).

    Each row says under ``written_by`` which model wrote it (name and hash), from which seed and
    with which settings.

    Args:
        prompts: data whose questions are answered; without, the model writes these too.
        settings: of :func:`holdfast.tasks.own_texts.own_texts`.

    Raises as that, and as reading a model or data set does.
    """
    from holdfast.models import load
    from holdfast.models.source import fetch, fingerprint, resolve
    from holdfast.tasks.own_texts import own_texts

    asked = [record.prompt() for record in read(prompts)] if prompts is not None else []
    if any(record.images for record in asked):
        raise UsageError(f"{prompts} has images; own texts are written for questions without.")
    loaded, processor = load(model)
    rows = own_texts(loaded, processor, n, prompts=asked, seed=seed, **settings)
    source = {
        "model": model,
        "hash": fingerprint(fetch(resolve(model))),
        "seed": seed,
        "prompts": prompts,
        **settings,
    }
    _write(out, ({**row, "written_by": {**source, "number": k}} for k, row in enumerate(rows)))
    return len(rows)


def write_styles(
    data: str,
    out: Path,
    *,
    share: float = 0.2,
    styles: Sequence[str] | None = None,
    seed: int = 0,
    teacher: str | None = None,
    teacher_model: str = "default",
    image_root: Path | None = None,
) -> dict[str, int]:
    """Write ``data`` with a share in other styles into ``out``; how many records of each style.

    Args:
        teacher: a model, or the address of an OpenAI-compatible endpoint.

    Raises as :func:`holdfast.data.styles.diversify`, and as reading data or a model does.
    """
    chosen: list[Style] = []
    for name in styles or STYLES:
        known = [style for style in STYLES if style == name]
        if not known:
            raise UnknownName("answer style", name, STYLES)
        chosen += known
    records = list(read(data, image_root=image_root))
    if any(image.path is None for record in records for image in record.images):
        raise UsageError(f"the images of {data} are not files, and rows of a file name files.")
    writer = _writer(teacher, teacher_model)
    made = diversify(records, share=share, styles=chosen, seed=seed, writer=writer)
    _write(out, map(_row, made))
    return dict(Counter(str(record.meta.get("style", "as it was")) for record in made))


def _writer(teacher: str | None, model: str) -> Writer | None:
    from holdfast.tasks.teachers import endpoint_teacher, local_teacher

    if teacher is None:
        return None
    if teacher.startswith(("http://", "https://")):
        return endpoint_teacher(teacher, model)
    from holdfast.models import load

    return local_teacher(*load(teacher))


def _row(record: Record) -> dict[str, Any]:
    turns = [
        {
            "role": message.role,
            "content": "".join(PLACEHOLDER if p.kind == "image" else p.text for p in message.parts),
        }
        for message in record.messages
    ]
    images = {"images": [image.path for image in record.images]} if record.images else {}
    return {**record.meta, "id": record.id, "messages": turns, **images}


def _write(out: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, text)
