"""Text from data, made safe to show on a page."""

from __future__ import annotations

import re

from holdfast.text import safe_text

_MARKUP = re.compile(r"[\\`*_\[\]#|~$<>&]|://|@")
_BLOCK = re.compile(r"^(\d*)([-+=.)])")
_HTML = {"<": "&lt;", ">": "&gt;", "&": "&amp;", "://": ":&#47;/", "@": "&#64;"}
"""Many readers of Markdown make a link of a bare address: its marks are written as entities."""


def markdown(text: object) -> str:
    """``text`` as a Markdown reader shows it literally, within a line or a table cell."""
    return _MARKUP.sub(lambda m: _HTML.get(m.group(), "\\" + m.group()), safe_text(text))


def paragraph(text: object) -> str:
    """``text`` as a paragraph of its own: its beginning starts no list, rule or code block."""
    return _BLOCK.sub(r"\1\\\2", markdown(str(text).strip()))
