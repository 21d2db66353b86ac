"""``NAME:key=value,key=value``: what may stand behind the name of a task."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, get_args

from holdfast.errors import UnknownName, UsageError

Value = str | int | bool
_TAIL = re.compile(r"^(?P<name>.+?):(?P<options>\w+=[^,=]*(?:,\w+=[^,=]*)*)$", re.DOTALL)
_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def split_options(name: str, kinds: Mapping[str, object]) -> tuple[str, dict[str, Value]]:
    """The name in front of its options, and the options as ``kinds`` wants them.

    Args:
        kinds: ``int`` (1 or more), ``bool``, ``str`` or a ``Literal`` for each option that
            there is.

    Raises:
        UnknownName: an option that does not exist.
        UsageError: a value that is not of its kind.
    """
    match = _TAIL.match(name)
    if match is None:
        return name, {}
    found: dict[str, Value] = {}
    for pair in match["options"].split(","):
        key, value = pair.split("=")
        if key not in kinds:
            raise UnknownName("task option", key, kinds)
        found[key] = _value(key, value.strip(), kinds[key], name)
    return match["name"], found


def _value(key: str, text: str, kind: object, name: str) -> Value:
    if kind is bool:
        if text.lower() not in _TRUTH:
            raise UsageError(f"'{name}': {key}={text!r} is not true or false")
        return _TRUTH[text.lower()]
    if kind is int:
        if not text.isascii() or not text.isdigit():
            raise UsageError(f"'{name}': {key}={text!r} is not a whole number")
        return int(text)
    known = get_args(kind)
    if known and text not in known:
        raise UsageError(f"'{name}': {key}={text!r}; there is: {', '.join(known)}")
    return text


Ask = Literal["generate", "choices"]
