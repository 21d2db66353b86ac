"""What a run is told: typed, complete, printable, and checked before anything loads.

One YAML file holds a run. Its keys are the fields below; ``key=value`` overrides reach
nested keys with dots (``train.learning_rate=1e-4``). The resolved configuration is saved
with the run, and reading it back repeats the run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from holdfast.errors import ConfigError, UsageError, nearest
from holdfast.plan import NEW
from holdfast.redact import redacted
from holdfast.safeyaml import LONGEST, load_yaml
from holdfast.text import safe_text
from holdfast.trust import Trust


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("must be a finite number")
    return value


def _text(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be empty")
    if safe_text(value) != value:
        raise ValueError("must be text on one line, without control characters")
    return value


Text = Annotated[str, AfterValidator(_text)]
Finite = Annotated[float, BeforeValidator(_number), AfterValidator(_finite)]
Positive = Annotated[Finite, Field(gt=0)]
Share = Annotated[Finite, Field(ge=0, le=1)]
Count = Annotated[int, BeforeValidator(_number), Field(ge=1, le=2**53)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Stage(_Strict):
    """One skill: what is read, and what its learning is measured on."""

    data: Text
    """A file, a folder, a hub id, or a lab name such as ``lab:count``."""
    test: Text | None = None
    """A task. None: the task of the same name in the lab; else records held back from ``data``."""
    image_root: Text | None = None
    """The folder that the images of ``data`` lie in, where it is not the data's own."""
    hold_back: Share = 0.1
    """Share of ``data`` held back for the test where there is no ``test`` (at most 500 records)."""
    sources: dict[str, str] = {}
    """Further data by name, for a method whose feed reads it (general texts, replayed skills)."""
    name: Text | None = None
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
    batch_by: Literal["examples", "tokens"] = "examples"
    """``tokens``: a step reads as many supervised tokens as ``batch_size`` examples have on
    average, to within the longest answer, so the number of its examples varies."""
    bucket_steps: Count = 1
    """Sort the examples of so many steps by length and cut them anew: less padding, but other
    examples share a step than by chance. 1: each step keeps the examples drawn for it."""
    micro_batch_size: Count | None = None
    """Examples per forward pass on one device, like lengths together; None: the whole share of
    a device, in several passes only where that saves padding and keeps the device busy."""
    packing: Literal["auto", "off", "on"] = "auto"
    """Read a pass as one row without padding, each example attending to itself alone. ``auto``:
    where the model runs with an attention kernel that skips the rest (flash, flex)."""
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
    gradient_checkpointing: bool | Literal["auto"] = "auto"
    """Compute activations twice to keep fewer of them; ``auto``: where they would not fit."""
    cache: Text = "auto"
    """What is the same in every epoch is computed once and kept: ``auto`` (in memory, for larger
    models also in the user's cache folder or ``HOLDFAST_CACHE``), ``off``, or a folder."""
    cache_gib: Positive = 20.0
    """GiB of disk that the cache may take; what was used longest ago goes first."""
    save_every: Count | None = None
    """Steps between checkpoints; None: ten times in a stage."""
    report_to: list[Text] = []
    """Trackers that losses and scores go to: wandb, tensorboard, mlflow ..., as transformers
    names them. Nothing is sent anywhere by default."""


class Evaluate(_Strict):
    """How tasks are asked."""

    limit: Count | None = None
    """At most this many examples of each task."""
    batch_size: Count | Literal["auto"] = "auto"
    share: Annotated[Finite, Field(gt=0, lt=1)] | None = None
    """Score samples of the tasks while training goes on, for this share of its time (0.1)."""
    every: Count | None = None
    """The same at every so many steps, whatever it takes."""
    sample: Count = 64
    """Examples of each task that are asked then; the same ones each time."""
    limits: list[str] = []
    """What a task may lose meanwhile: ``[TASK:]POINTS[=warn|lower|stop]``, such as 5=stop."""

    @model_validator(mode="after")
    def _readable(self) -> Evaluate:
        from holdfast.measures.limits import Limit

        for text in self.limits:
            try:
                Limit.read(text)
            except UsageError as error:
                raise ValueError(str(error)) from None
        if self.limits and self.share is None and self.every is None:
            raise ValueError("limits are looked at while training: give share or every too")
        return self


class RunConfig(_Strict):
    """A run: a model, a sequence of stages, a method, and the tasks that must not suffer."""

    model: Text
    data: Annotated[list[Stage], Field(min_length=1)]
    methods: Annotated[list[Text], Field(min_length=1)]
    """Names with settings (``lora:rank=8``), combined from left to right."""
    tasks: list[Text] = []
    """Held-out tasks and suites, scored before the first stage and after each."""
    out: Text
    seed: Annotated[int, BeforeValidator(_number), Field(ge=0, le=4_000_000)] = 0
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    trust: Trust = Trust()
    """What is refused by default: a model's own code, pickle files, images outside the folder."""

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
        for stage in self.data:
            if NEW in stage.sources or "" in stage.sources:
                raise ValueError(
                    f"a source of stage '{stage.label}' is called "
                    f"'{NEW if NEW in stage.sources else ''}'; '{NEW}' is the stage's own data, "
                    "give the source another name"
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


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises :class:`ConfigError` with the line of the fault."""
    try:
        if path.stat().st_size > LONGEST:
            raise ConfigError(f"{path} has more than {LONGEST:,} bytes; a configuration is short")
        value = load_yaml(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start})") from None
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(
            f"{path}{', ' if str(error).startswith('line') else ': '}{error}"
        ) from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{path} holds a {type(value).__name__}; expected 'key: value' lines")
    return value


def override(config: dict[str, Any], assignment: str) -> None:
    """Put ``a.b=value`` into ``config``, in place. A value that is not YAML is text."""
    key, equals, value = assignment.partition("=")
    if not equals or not all(key.strip().split(".")):
        raise ConfigError(f"'{assignment:.200}' is not an assignment; write key=value")
    *path, last = key.strip().split(".")
    place = config
    for name in path:
        inner = place.get(name)
        inner = place[name] = {} if inner is None else inner
        if not isinstance(inner, dict):
            raise ConfigError(
                f"'{key:.200}': '{name}' holds {shortened(inner)}, which has no keys inside"
            )
        place = inner
    try:
        place[last] = load_yaml(value)
    except ValueError:
        place[last] = value


def resolve(values: Mapping[str, Any]) -> RunConfig:
    """A checked configuration.

    Raises :class:`ConfigError` that lists every fault at once, and for a secret in a setting: a
    run's folder keeps its configuration, and it would be there for everybody to read.
    """
    try:
        config = RunConfig.model_validate(dict(values))
    except ValidationError as error:
        faults = list(dict.fromkeys(_sentence(dict(e)) for e in error.errors(include_url=False)))
        more = f"; and {len(faults) - 20} more" if len(faults) > 20 else ""
        raise ConfigError("; ".join(faults[:20]) + more) from None
    return _no_secrets(config)


def _no_secrets(config: RunConfig) -> RunConfig:
    for where, text in _texts(config.model_dump(mode="json"), ""):
        if redacted(text) != text:
            raise ConfigError(
                f"'{where}' holds a secret ({redacted(text):.200}); a run's folder keeps its "
                "configuration, for whoever gets it to read. Name the model or file without it, "
                "and give tokens in the environment (HF_TOKEN)."
            )
    return config


def _texts(value: Any, where: str) -> Iterator[tuple[str, str]]:
    """Every text of a JSON value, with its place."""
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(inner, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _texts(inner, f"{where}.{number}")


def shortened(value: object, width: int = 60) -> str:
    """``repr(value)`` in at most ``width`` characters; text and lists are cut before that."""
    if isinstance(value, str | bytes | list | tuple):
        value = value[: width + 1]
    text = repr(value)
    return text if len(text) <= width else text[: width - 3] + "..."


def _sentence(error: Mapping[str, Any]) -> str:
    where = ".".join(str(p)[:60] for p in error["loc"])
    given = shortened(error.get("input"))
    if error["type"] == "extra_forbidden":
        return f"there is no setting '{where}'{nearest(str(error['loc'][-1]), _keys(error['loc']))}"
    if error["type"] == "missing":
        return f"'{where}' is missing"
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{where}: {message} (given: {given})" if where else message


def _keys(loc: Sequence[str | int]) -> list[str]:
    owner: type[BaseModel] = RunConfig
    inner: dict[str, type[BaseModel]] = {
        "train": Train,
        "evaluate": Evaluate,
        "data": Stage,
        "trust": Trust,
    }
    for name in loc[:-1]:
        if isinstance(name, str) and name in inner:
            owner = inner[name]
    return list(owner.model_fields)
