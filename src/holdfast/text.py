"""Text from data and users, made safe to show on a terminal."""

from __future__ import annotations

import unicodedata

_UNSAFE = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
"""Unicode categories that move the cursor, colour, hide or reverse text, or are no text."""


def safe_text(text: object, *, lines: bool = False) -> str:
    """``text`` with control and direction characters shown as escapes.

    Args:
        lines: leave line breaks as they are (for messages of our own).
    """
    return "".join(
        c if (lines and c == "\n") or unicodedata.category(c) not in _UNSAFE else escaped(c)
        for c in str(text)
    )


def escaped(c: str) -> str:
    """One character as its escape."""
    return f"\\x{ord(c):02x}" if ord(c) < 0x100 else f"\\u{ord(c):04x}"
