"""Records as rows that any trainer reads, one JSON object a line."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from holdfast.data.convert import IMAGE_KEYS, PLACEHOLDER
from holdfast.data.dataset import DataSet
from holdfast.data.files import SUFFIXES, file_rows
from holdfast.data.problems import Problems
from holdfast.data.records import ImageRef, Record
from holdfast.errors import UsageError
from holdfast.runs.files import writing


def rows_of(data: DataSet) -> Sequence[Mapping[str, Any]]:
    """The rows as they stand in a data file; of anything else the records as chats or texts."""
    path = Path(data.source)
    if path.suffix.lower() in SUFFIXES and path.is_file():
        rows = itertools.islice(file_rows(path, Problems(data.source)), len(data))
        return [row for _, row in rows]
    return [row_of(record) for record in data]


def row_of(record: Record) -> dict[str, Any]:
    """``text``, or ``messages`` with ``<image>`` where an image stands, and ``images``."""
    meta = dict(record.meta)
    if record.raw:
        return {"id": record.id, "text": record.messages[0].text, **meta}
    messages = [
        {
            "role": message.role,
            "content": "".join(
                PLACEHOLDER + "\n" if part.kind == "image" else part.text for part in message.parts
            ),
        }
        for message in record.messages
    ]
    row: dict[str, Any] = {"id": record.id, "messages": messages}
    if record.images:
        row["images"] = [_image(image) for image in record.images]
    return {**row, **{k: v for k, v in meta.items() if k not in (*row, *IMAGE_KEYS)}}


def _image(image: ImageRef) -> str:
    if image.path is not None:
        return image.path
    data = image.data or b""
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def check_place(data: DataSet, out: Path, image_root: Path | None) -> None:
    """Raise :class:`UsageError` if the images of rows would not be found from ``out``."""
    path = Path(data.source)
    moved = path.is_file() and path.parent.resolve() != out.parent.resolve()
    if moved and image_root is None and any(i.path for r in data for i in r.images):
        raise UsageError(
            f"the image paths in {data.source} start from its folder, so the ordered data has to "
            f"lie there too: give --out {path.parent / out.name}, or --image-root FOLDER to both "
            "this command and whatever reads the result."
        )


def write_rows(
    out: Path, rows: Sequence[Mapping[str, Any]], order: Sequence[int], columns: Mapping[str, Any]
) -> None:
    """Write rows in an order, each with its value of every column."""

    def lines() -> Iterator[str]:
        for i in order:
            row = {**rows[i], **{name: values[i] for name, values in columns.items()}}
            yield json.dumps(row, ensure_ascii=False, default=str) + "\n"

    with writing(out) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as handle:
        handle.writelines(lines())
