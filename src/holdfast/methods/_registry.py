"""The table of methods, and how a method's settings are read and checked."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ParamSpec, get_args, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError

from holdfast.errors import ConfigError, UnknownName
from holdfast.plan import Plan
from holdfast.registry import Entry, Registry

P = ParamSpec("P")

Count = Annotated[int, Field(ge=1)]
"""A whole number, at least 1."""
Share = Annotated[float, Field(ge=0, le=1)]
"""A number from 0 to 1."""
Probability = Annotated[float, Field(ge=0, lt=1)]
"""A number from 0 up to, not including, 1."""
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""A finite number above 0."""
Finite = Annotated[float, Field(allow_inf_nan=False)]
"""A finite number."""
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""A finite number, 0 or above."""

METHODS: Registry[Callable[..., Plan]] = Registry(
    "method",
    "holdfast.methods.narrow",
    "holdfast.methods.gere",
    "holdfast.methods.lora",
    "holdfast.methods.reg_lora",
    "holdfast.methods.adapters",
    "holdfast.methods.lwf",
    "holdfast.methods.keep",
    "holdfast.methods.wise_ft",
    "holdfast.methods.merging",
    "holdfast.methods.two_experts",
    "holdfast.methods.hft",
    "holdfast.methods.mora",
    "holdfast.methods.l2m",
    "holdfast.methods.expert_gates",
    "holdfast.methods.sapt",
    "holdfast.methods.selfless",
    "holdfast.methods.fpf",
    "holdfast.methods.sparcl",
    "holdfast.methods.er",
    "holdfast.methods.der",
    "holdfast.methods.anchored",
    "holdfast.methods.refresh",
    "holdfast.methods.dmt",
    "holdfast.methods.view_batch",
    "holdfast.methods.delt",
    "holdfast.methods.reinforcement",
    "holdfast.methods.token_weighted",
    "holdfast.methods.gem",
    "holdfast.methods.power_law",
    "holdfast.methods.scole",
    "holdfast.methods.sparse_memory",
)
"""Every method by name: ours, and third parties' (entry-point group ``holdfast.methods``)."""


@dataclass(frozen=True)
class Described:
    """One row of ``holdfast list methods``."""

    name: str
    summary: str
    paper: str
    settings: dict[str, object]
    """Each setting with its default; ``...`` for one that must be given."""


def published(
    name: str, *, summary: str, paper: str
) -> Callable[[Callable[P, Plan]], Callable[P, Plan]]:
    """Register a function that returns a plan as the method ``name``.

    The function's annotations are what its settings are checked against, and its plan is
    named as a user would write it: ``lora:rank=8`` for ``lora(rank=8)``.
    """

    def add(function: Callable[P, Plan]) -> Callable[P, Plan]:
        @functools.wraps(function)
        def build(*args: P.args, **kwargs: P.kwargs) -> Plan:
            given = _bind(name, function, args, kwargs)
            return _named(name, function, given)

        METHODS.register(name, summary=summary, paper=paper)(build)
        return build

    return add


def build(entry: Entry[Callable[..., Plan]], settings: Mapping[str, object]) -> Plan:
    """The plan of a registered method with checked settings."""
    return _named(entry.name, entry.value, _bind(entry.name, entry.value, (), settings))


def checked_settings(
    name: str, function: Callable[..., object], settings: Mapping[str, object]
) -> dict[str, object]:
    """Settings of a registered function that is no method, checked as a method's are."""
    return _bind(name, function, (), settings)


def describe(registry: Registry[Any] = METHODS) -> list[Described]:
    """Every method with its settings and their defaults, in the order of registration.

    Args:
        registry: another one whose entries are functions of settings.
    """
    return [
        Described(entry.name, entry.summary, entry.paper, _defaults(entry.value))
        for entry in registry
    ]


def _defaults(function: Callable[..., object]) -> dict[str, object]:
    return {
        p.name: ... if p.default is p.empty else p.default
        for p in inspect.signature(function).parameters.values()
    }


def _bind(
    name: str,
    function: Callable[..., object],
    args: tuple[object, ...],
    settings: Mapping[str, object],
) -> dict[str, object]:
    """Settings by name, each checked and converted to its annotated type."""
    signature = inspect.signature(function)
    unknown = [key for key in settings if key not in signature.parameters]
    if unknown:
        raise UnknownName(f"setting of '{name}' called", unknown[0], signature.parameters)
    try:
        given = signature.bind(*args, **settings).arguments
    except TypeError as error:
        raise ConfigError(f"'{name}': {error}. Its settings: {_signature(function)}.") from None
    hints = get_type_hints(function, include_extras=True)
    return {key: _checked(name, key, value, hints.get(key, Any)) for key, value in given.items()}


def _checked(name: str, key: str, value: object, hint: Any) -> object:
    if isinstance(value, str) and value.lower() == "none" and _takes_none(hint):
        return None
    try:
        # A text setting is converted ('8' to 8); a Python value must already have its type.
        return TypeAdapter(hint).validate_python(value, strict=not isinstance(value, str))
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise ConfigError(f"'{name}' was given {key}={value!r}: {reason}.") from None


def _takes_none(hint: Any) -> bool:
    return type(None) in get_args(hint)


def _named(name: str, function: Callable[..., Plan], given: Mapping[str, object]) -> Plan:
    original: Callable[..., Plan] = inspect.unwrap(function)
    defaults = _defaults(original)
    changed = {k: v for k, v in given.items() if v != defaults[k]}
    return replace(original(**given), name=spell(name, changed), owners={})


def spell(name: str, settings: Mapping[str, object]) -> str:
    """A method as a user would write it; :func:`holdfast.methods.method` reads it back."""
    pairs = ",".join(f"{key}={_written(value)}" for key, value in settings.items())
    return f"{name}:{pairs}" if pairs else name


def _written(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    if re.fullmatch(r"[\w.+*\[\]:-]+", text):
        return text
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'


def _signature(function: Callable[..., object]) -> str:
    settings = _defaults(function)
    if not settings:
        return "none"
    return ", ".join(k if v is ... else f"{k}={v!r}" for k, v in settings.items())
