"""Text from data, made safe for the place where it is shown."""

from __future__ import annotations

import re
import unicodedata

_MARKUP = re.compile(r"[\\`*_\[\]#|~$<>&]|://|@")
_BLOCK = re.compile(r"^(\d*)([-+=.)])")
_HTML = {"<": "&lt;", ">": "&gt;", "&": "&amp;", "://": ":&#47;/", "@": "&#64;"}
"""Many readers of Markdown make a link of a bare address: its marks are written as entities."""


def plain(text: object) -> str:
    """One line without control or direction characters: they are shown as escapes."""
    return "".join(
        c if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") else _escaped(c)
        for c in str(text)
    )


def markdown(text: object) -> str:
    """``text`` as a Markdown reader shows it literally, within a line or a table cell."""
    return _MARKUP.sub(lambda m: _HTML.get(m.group(), "\\" + m.group()), plain(text))


def paragraph(text: object) -> str:
    """``text`` as a paragraph of its own: its beginning starts no list, rule or code block."""
    return _BLOCK.sub(r"\1\\\2", markdown(str(text).strip()))


def _escaped(c: str) -> str:
    return f"\\x{ord(c):02x}" if ord(c) < 0x100 else f"\\u{ord(c):04x}"
