"""One HTML file from a document: everything is inside it, and it asks for nothing.

Every text goes through Jinja's escaping and, before that, through :func:`holdfast.text.safe_text`
(control characters, directions, halves of surrogates). A policy in the page allows its own
script and style by their hashes and nothing else, so that even a mark that slipped through
could neither run nor load anything.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from holdfast.measures.interval import Estimate
from holdfast.report import svg
from holdfast.report.blocks import Document, Intervals
from holdfast.runs.files import write_text
from holdfast.text import safe_text

LONGEST_NAME, LONGEST_LINE = 160, 4000
"""Characters of a name in a table, and of any line."""
_NEGATIVE = re.compile(r"(?<![\w.\-])-(?=\d)")


def write_html(path: Path, page: Document) -> Path:
    """Write a page. Raises :class:`holdfast.errors.RunError` if it cannot be written."""
    write_text(path, render(page))
    return path


def render(page: Document) -> str:
    """The page's HTML; the same for the same document."""
    from holdfast import __version__

    templates = _templates()
    style = Markup(templates.get_template("style.css").render())
    script = Markup(_source("page.js"))
    return templates.get_template("page.html.j2").render(
        page=page,
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
        footer=f"Written by Holdfast {__version__}. The same numbers are in the JSON and the "
        "Markdown file beside this one.",
    )


@cache
def _templates() -> Environment:
    found = Environment(
        loader=PackageLoader("holdfast.report"),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=False,
    )
    found.filters |= {
        "safe_line": _line,
        "cut": _cut,
        "lines": _lines,
        "minus": _minus,
        "sentence": _sentence,
        "value": _value,
        "bounds": _bounds,
        "percent": _percent,
    }
    found.globals |= {"scale": _scale, "interval": svg.interval, "shares": svg.shares}
    return found


def _source(name: str) -> str:
    loader = _templates().loader
    assert loader is not None
    return loader.get_source(_templates(), name)[0]


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return "sha256-" + base64.b64encode(digest).decode()


def _line(text: object) -> str:
    return _cut(text, LONGEST_LINE)


def _cut(text: object, most: int = LONGEST_NAME) -> str:
    """Text on one line, shortened with a note of how long it is."""
    whole = str(text)
    shown = safe_text(whole[:most])
    return shown if len(whole) <= most else f"{shown}… ({len(whole):,} characters)"


def _lines(text: object, most: int = 1200) -> str:
    """Text with its line breaks, shortened."""
    whole = str(text)
    shown = safe_text(whole[:most], lines=True)
    return shown if len(whole) <= most else f"{shown}… ({len(whole):,} characters)"


def _minus(text: object) -> str:
    return _NEGATIVE.sub("−", _cut(text))


def _sentence(text: object) -> str:
    return _NEGATIVE.sub("−", _line(text))


def _value(e: Estimate) -> str:
    if e.value != e.value:
        return "not measured"
    text = format(e, "+.1f").partition(" ")[0]
    zero = text.strip("+-0.") == ""
    return text.lstrip("+-") if zero else text.replace("-", "−")


def _bounds(e: Estimate, digits: int = 1) -> str:
    if e.value != e.value or e.low != e.low or e.high != e.high:
        return ""
    low, high = (svg.number(v, digits) for v in (e.low, e.high))
    return f"[{low}, {high}]"


def _percent(e: Estimate) -> str:
    return "–" if e.value != e.value else f"{e.value:.0f}%"


def _scale(block: Intervals) -> svg.Axis:
    ends: list[Any] = [v for r in block.rows for v in (r.estimate.low, r.estimate.high)]
    return svg.axis([*ends, *(r.estimate.value for r in block.rows)], zero=True)
