"""What is wrong with data: collected, escaped, and reported together."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.errors import DataError

SHOWN = 10
"""How many problems a message spells out; the rest are counted."""
WIDTH = 80
"""How many characters of a quoted value are shown."""
KEPT = 10_000
"""How many problems are kept as text; beyond that they are only counted."""


def shown(value: object, width: int = WIDTH) -> str:
    """``value`` as it may be put on a terminal: quoted, one line, no control characters."""
    if isinstance(value, str | bytes):
        clipped = value[: width + 1]
        text = ascii(clipped) if isinstance(clipped, bytes) else repr(clipped)
    elif isinstance(value, dict):
        text = "{" + ", ".join(repr(str(k)[:width]) for k in list(value)[:20]) + "}"
    elif isinstance(value, list | tuple):
        inner = "..." if width < 10 else shown(value[0], width // 2) if value else ""
        text = f"[{inner}{', ...' if len(value) > 1 else ''}]"
    elif isinstance(value, int) and abs(value) >= 10**60:
        text = f"an integer of {value.bit_length()} bits"
    else:
        text = repr(value)
    return text if len(text) <= width else text[: width - 3] + "..."


class Problems:
    """Collects the problems of one source, and raises them all as one error.

    Args:
        source: the file or data set that they belong to, as it is named to the user.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.found: list[str] = []
        self.count = 0

    def add(self, place: str, found: str, expected: str) -> None:
        """``place``: line and field, ``found``: what is there, ``expected``: what should be."""
        self.count += 1
        if len(self.found) < KEPT:
            self.found.append(f"{place}: {found}; expected {expected}")

    def extend(self, other: Problems) -> None:
        """Take over another source's problems, each with its source's name."""
        self.count += other.count
        room = max(0, KEPT - len(self.found))
        self.found.extend(f"{other.source}: {line}" for line in other.found[:room])

    def __bool__(self) -> bool:
        return self.count > 0

    def raise_if_any(self) -> None:
        """Raises:
        DataError: with every problem, the first ten spelled out in the message.
        """
        if self.count:
            raise data_error(self.source, self.found, self.count)


def data_error(
    source: str,
    problems: Sequence[str],
    count: int | None = None,
    *,
    what: tuple[str, str] = ("problem", "problems"),
) -> DataError:
    """One error for many problems: the first ten in the message, all of them in ``problems``."""
    count = len(problems) if count is None else count
    lines = [f"{source}: {count} {what[count != 1]}, nothing of it is used"]
    lines += [f"  {line}" for line in problems[:SHOWN]]
    if count > SHOWN:
        lines.append(f"  ... and {count - SHOWN} more")
    return DataError("\n".join(lines), problems)
