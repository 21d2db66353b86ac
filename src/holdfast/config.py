"""What a run is told: typed, complete, printable, and checked before anything loads.

One YAML file holds a run. Its keys are the fields below; ``key=value`` overrides reach
nested keys with dots (``train.learning_rate=1e-4``). The resolved configuration is saved
with the run, and reading it back repeats the run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from holdfast.errors import ConfigError, nearest


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("must be a finite number")
    return value


Finite = Annotated[float, AfterValidator(_finite)]
Positive = Annotated[Finite, Field(gt=0)]
Share = Annotated[Finite, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Stage(_Strict):
    """One skill: what is read, and what its learning is measured on."""

    data: str
    """A file, a folder, a hub id, or a lab name such as ``lab:count``."""
    test: str | None = None
    """A task. None: the task of the same name in the lab; else records held back from ``data``."""
    hold_back: Share = 0.1
    """Share of ``data`` held back for the test where there is no ``test`` (at most 500 records)."""
    name: str | None = None
    """What tables call the stage; by default taken from ``data``."""

    @property
    def label(self) -> str:
        if self.name:
            return self.name
        if self.data.startswith("lab:"):
            return self.data
        return Path(self.data.rstrip("/")).stem or self.data


class Train(_Strict):
    """How each stage trains. Optimizer and schedule start anew with every stage."""

    learning_rate: Positive | None = None
    """Peak rate; None takes the method's own (its paper's), which suits models of billions."""
    steps: Count | None = None
    """Optimizer steps of a stage; None trains ``epochs``."""
    epochs: Positive = 1.0
    batch_size: Count = 32
    """Examples per optimizer step, over all devices and micro-batches."""
    micro_batch_size: Count | None = None
    """Examples per forward pass on one device; None: the whole share of a device."""
    weight_decay: Annotated[Finite, Field(ge=0)] = 0.0
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    warmup: Share = 0.03
    """Share of the steps over which the rate rises from 0."""
    max_grad_norm: Annotated[Finite, Field(ge=0)] = 1.0
    """Gradients are scaled down to this norm; 0 leaves them as they are."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """``bf16``: bfloat16 compute, trained weights kept in float32. ``auto``: that on a GPU."""
    loss_on: Literal["answer", "llava_next_compat", "all"] = "answer"
    max_length: Count | None = None
    """Tokens; longer text is cut, images never are. None: the model's positions."""
    gradient_checkpointing: bool = False
    save_every: Count | None = None
    """Steps between checkpoints; None: ten times in a stage."""


class Evaluate(_Strict):
    """How tasks are asked."""

    limit: Count | None = None
    """At most this many examples of each task."""
    batch_size: Count | Literal["auto"] = "auto"


class RunConfig(_Strict):
    """A run: a model, a sequence of stages, a method, and the tasks that must not suffer."""

    model: str
    data: Annotated[list[Stage], Field(min_length=1)]
    methods: Annotated[list[str], Field(min_length=1)]
    """Names with settings (``lora:rank=8``), combined from left to right."""
    tasks: list[str] = []
    """Held-out tasks and suites, scored before the first stage and after each."""
    out: str
    seed: Annotated[int, Field(ge=0, le=4_000_000)] = 0
    train: Train = Train()
    evaluate: Evaluate = Evaluate()

    @field_validator("data", mode="before")
    @classmethod
    def _stages(cls, value: Any) -> Any:
        items = [value] if isinstance(value, str | Mapping) else value
        if isinstance(items, Sequence):
            return [{"data": i} if isinstance(i, str) else i for i in items]
        return value

    @field_validator("methods", "tasks", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _labels(self) -> RunConfig:
        labels = [s.label for s in self.data]
        twice = {x for x in labels if labels.count(x) > 1}
        if twice:
            raise ValueError(
                f"two stages are called '{min(twice)}'; give one of them a name of its own "
                "(data: [{data: ..., name: ...}])"
            )
        micro, full = self.train.micro_batch_size, self.train.batch_size
        if micro is not None and full % micro:
            raise ValueError(
                f"train.batch_size {full} is not a multiple of train.micro_batch_size {micro}"
            )
        return self

    def dump(self) -> str:
        """The resolved configuration as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a key that stands twice is an error, not a silent last-one-wins."""

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


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises :class:`ConfigError` with the line of the fault."""
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start})") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise ConfigError(f"{path}, line {line}: {error.problem}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"{path} is not YAML: {error}") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{path} holds a {type(value).__name__}; expected 'key: value' lines")
    return value


def override(config: dict[str, Any], assignment: str) -> None:
    """Put ``a.b=value`` into ``config``, in place."""
    key, equals, value = assignment.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"'{assignment}' is not an assignment; write key=value")
    *path, last = key.strip().split(".")
    place = config
    for name in path:
        inner = place.setdefault(name, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"'{key}': '{name}' holds {inner!r}, which has no keys inside")
        place = inner
    try:
        place[last] = yaml.load(value, _Loader)
    except yaml.YAMLError:
        place[last] = value


def resolve(values: Mapping[str, Any]) -> RunConfig:
    """A checked configuration. Raises :class:`ConfigError` that lists every fault at once."""
    try:
        return RunConfig.model_validate(dict(values))
    except ValidationError as error:
        faults = [_sentence(dict(e)) for e in error.errors(include_url=False)]
        raise ConfigError("; ".join(dict.fromkeys(faults))) from None


def _sentence(error: Mapping[str, Any]) -> str:
    where = ".".join(str(p) for p in error["loc"])
    given = repr(error.get("input"))
    given = given if len(given) <= 60 else given[:57] + "..."
    if error["type"] == "extra_forbidden":
        return f"there is no setting '{where}'{nearest(str(error['loc'][-1]), _keys(error['loc']))}"
    if error["type"] == "missing":
        return f"'{where}' is missing"
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{where}: {message} (given: {given})" if where else message


def _keys(loc: Sequence[str | int]) -> list[str]:
    owner: type[BaseModel] = RunConfig
    inner: dict[str, type[BaseModel]] = {"train": Train, "evaluate": Evaluate, "data": Stage}
    for name in loc[:-1]:
        if isinstance(name, str) and name in inner:
            owner = inner[name]
    return list(owner.model_fields)
