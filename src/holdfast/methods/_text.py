"""How methods are written in text: ``name``, ``name:key=value,key=value``, joined with ``|``."""

from __future__ import annotations

import re

from holdfast.errors import ConfigError

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_SHORT = re.compile(r"(first|last)-(\d+)")


def parse(text: str) -> tuple[str, dict[str, str]]:
    """The name and the settings of one method, all values still text.

    ``last-4`` and ``first-4`` are short for ``last-n:n=4`` and ``first-n:n=4``. A value may
    stand in single or double quotes, and must if it holds a comma or a ``|``; inside double
    quotes a backslash keeps the next character as it is.

    Raises:
        ConfigError: the text is not of this form, or a setting is given twice.
    """
    name, colon, rest = text.strip().partition(":")
    name = name.strip()
    if not _NAME.fullmatch(name):
        raise ConfigError(f"cannot read {text!r} as a method; {_FORM}.")
    settings: dict[str, str] = {}
    if short := _SHORT.fullmatch(name):
        name, settings = f"{short[1]}-n", {"n": short[2]}
    if not colon:
        return name, settings
    for piece in split(rest, ","):
        key, equals, value = piece.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key.isidentifier():
            raise ConfigError(f"cannot read {piece.strip()!r} in {text!r}; {_FORM}.")
        if key in settings:
            raise ConfigError(f"'{name}' was given the setting '{key}' twice in {text!r}.")
        settings[key] = _unquote(value.strip(), text)
    return name, settings


_FORM = "write name or name:key=value,key=value, with quotes around a value that holds a comma"


def split(text: str, separator: str) -> list[str]:
    """``text`` cut at every ``separator`` that is not inside quotes.

    Raises:
        ConfigError: a quote is opened and not closed.
    """
    pieces, quote, escaped = [""], "", False
    for character in text:
        if not quote and character == separator:
            pieces.append("")
            continue
        pieces[-1] += character
        if escaped:
            escaped = False
        elif quote == '"' and character == "\\":
            escaped = True
        elif quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
    if quote:
        raise ConfigError(f"a quote ({quote}) is opened and not closed in {text!r}.")
    return pieces


def _unquote(value: str, text: str) -> str:
    if not value:
        raise ConfigError(f"a setting has no value in {text!r}; {_FORM}.")
    if value[0] not in "'\"":
        return value
    if len(value) < 2 or value[-1] != value[0]:
        raise ConfigError(f"cannot read the value {value} in {text!r}; {_FORM}.")
    inner = value[1:-1]
    return re.sub(r"\\(.)", r"\1", inner) if value[0] == '"' else inner
