"""Docstrings are plain text with a few Sphinx roles; this makes them Markdown for the site."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:class|func|meth|data|mod|attr|exc):`~?([^`]+)`")
_CODE = re.compile(r"(`[^`]+`)")
_SECTION = re.compile(r"(Args|Returns|Raises|Attributes|Yields):\s*$")
_JOINT = re.compile(r"( {4})(\w+(?:, \w+)+): (?=\S)")
_EXAMPLE = re.compile(r"Examples?:\s*$")


class PlainText(griffe.Extension):
    """Shapes ([N, V]), indices (A[k][j]) and placeholders (<image>) are text, not links or HTML."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)


def markdown(text: str) -> str:
    """``text`` with roles as code and brackets escaped, but for indented code and examples."""
    lines, within, session = [], "", False
    for line in _apart(text.splitlines()):
        if line and not line[0].isspace():
            within = "section" if _SECTION.match(line) else ""
            within = "example" if _EXAMPLE.match(line) else within
        session = line.startswith(">>>") or (session and bool(line.strip()))
        code = session or within == "example" or (within == "" and line.startswith("    "))
        lines.append(line if code else _escaped(_ROLE.sub(r"`\1`", line)))
    return _fenced("\n".join(lines))


def _apart(lines: list[str]) -> list[str]:
    """``a, b: text`` of a section as an entry each, of which the last has the text."""
    found: list[str] = []
    for line in lines:
        joint = _JOINT.match(line)
        if joint:
            *others, last = joint.group(2).split(", ")
            found += [f"{joint.group(1)}{name}: as ``{last}``." for name in others]
            line = f"{joint.group(1)}{last}: {line[joint.end() :]}"
        found.append(line)
    return found


def _fenced(text: str) -> str:
    """Console sessions that stand outside of an Examples section, as code blocks."""
    paragraphs = text.split("\n\n")
    return "\n\n".join(f"```pycon\n{p}\n```" if p.startswith(">>>") else p for p in paragraphs)


def _escaped(line: str) -> str:
    pieces = _CODE.split(line)
    pieces[::2] = [p.replace("[", r"\[").replace("<", "&lt;") for p in pieces[::2]]
    return "".join(pieces)
