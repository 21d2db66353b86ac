"""A contact sheet: what a data set looks like, at a glance."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from holdfast.data.records import Record

_COLUMNS, _PICTURE, _CELL, _MARGIN = 6, 144, 168, 12
_LINE, _QUESTION_LINES, _LINE_LENGTH = 15, 4, 26
_INK, _ANSWER = (60, 60, 60), (20, 110, 60)


def contact_sheet(records: Sequence[Record], out: Path) -> Path:
    """Write ``records`` as a PNG: picture (if any), question in grey, answer in green."""
    pictured = any(record.images for record in records)
    height = (_PICTURE if pictured else 0) + _LINE * (_QUESTION_LINES + 2) + _MARGIN
    rows = -(-len(records) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * _CELL + _MARGIN, rows * height + _MARGIN), (255, 255, 255))
    for i, record in enumerate(records):
        row, column = divmod(i, _COLUMNS)
        _cell(sheet, _MARGIN + column * _CELL, _MARGIN + row * height, record)
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out, "PNG")
    return out


def _cell(sheet: Image.Image, x: int, y: int, record: Record) -> None:
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    if record.images and record.images[0].data is not None:
        picture = Image.open(io.BytesIO(record.images[0].data))
        sheet.paste(picture.resize((_PICTURE, _PICTURE), Image.Resampling.NEAREST), (x, y))
        y += _PICTURE
    for line in _wrapped(record.prompt().messages[-1].text, _QUESTION_LINES):
        draw.text((x, y), line, fill=_INK, font=font)
        y += _LINE
    for line in _wrapped(record.answer(), 2):
        draw.text((x, y), line, fill=_ANSWER, font=font)
        y += _LINE


def _wrapped(text: str, most: int) -> list[str]:
    """``text`` in at most ``most`` lines, the last with an ellipsis if there is more."""
    lines = [part for line in text.splitlines() for part in textwrap.wrap(line, _LINE_LENGTH)]
    return lines if len(lines) <= most else [*lines[: most - 1], lines[most - 1] + " ..."]
