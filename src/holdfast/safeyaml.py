"""Safe YAML, read strictly: nothing is run, nothing is guessed, nothing unfolds without end."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

LONGEST = 8 * 1024 * 1024
"""Characters. A configuration has a few hundred."""
DEEPEST = 100
"""Brackets inside one another. PyYAML's time grows with the square of it."""
MOST_VALUES = 100_000
"""With its aliases written out. A few lines of aliases of aliases stand for billions."""


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a key that stands twice is an error, not a silent last-one-wins, and in
    which only decimal digits are a number: ``010`` is not 8 and ``1:30`` is not 90."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is not text", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key '{key}' stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_GUESSED = {"int", "float", "timestamp", "value"}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, regex) for tag, regex in rows if tag.rpartition(":")[2] not in _GUESSED]
    for first, rows in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"[-+]?(?:0|[1-9][0-9]{0,999})\Z"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"(?:[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
    ),
    list("-+0123456789."),
)


def load_yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        ValueError: it is not YAML, or not such as is read here; the message has the line.
    """
    if len(text) > LONGEST:
        raise ValueError(f"it has more than {LONGEST:,} characters")
    if _brackets(text) > DEEPEST:
        raise ValueError("it is nested too deeply")
    try:
        value = yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise ValueError(f"{f'line {mark.line + 1}: ' if mark else ''}{error.problem}") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {error}") from None
    except (ValueError, LookupError, AttributeError, TypeError, OverflowError) as error:
        # PyYAML's constructors fail in these ways on a value that its tag does not fit
        raise ValueError(f"a value does not fit its tag ({error})") from None
    _refuse_bombs(value)
    return value


def _brackets(text: str) -> int:
    """How deep brackets are nested, those inside of quotes counted too."""
    depth = deepest = 0
    for sign in re.findall(r"[\[\]{}]", text):
        depth = depth + 1 if sign in "[{" else max(0, depth - 1)
        deepest = max(deepest, depth)
    return deepest


def _refuse_bombs(value: Any) -> None:
    left, count = [value], 0
    while left:
        item = left.pop()
        count += 1
        if count > MOST_VALUES:
            raise ValueError(f"with its aliases written out it has over {MOST_VALUES:,} values")
        if isinstance(item, Mapping):
            left.extend(item.values())
        elif isinstance(item, list | tuple | set):
            left.extend(item)
