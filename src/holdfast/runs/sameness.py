"""Whether a folder's run and the one that is asked for are the same."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from holdfast.config import RunConfig, read_yaml, resolve
from holdfast.errors import ConfigError, RunError

HOW = frozenset(
    {
        "out",
        "train.micro_batch_size",
        "train.gradient_checkpointing",
        "train.save_every",
        "train.report_to",
        "train.packing",
        "train.cache",
        "train.cache_gib",
        "evaluate.batch_size",
    }
)
"""Settings that say how the work is done and not what is done: they may change half way, so that
a run that ran out of memory can go on in smaller pieces. Sums of other lengths round otherwise;
to the bit, a run repeats itself only if they stay."""


def held_config(file: Path) -> RunConfig:
    """The configuration in a ``run.yaml``. Raises :class:`RunError` for one that is torn or
    that is not a run's."""
    try:
        return resolve(read_yaml(file))
    except ConfigError as error:
        raise RunError(
            f"{file} is damaged or is not the configuration of a run of this version ({error}): "
            "restore the file, or choose another --out."
        ) from None


def differences(held: RunConfig, wanted: RunConfig) -> list[str]:
    """What two runs were told differently, as text; :data:`HOW` apart."""
    a, b = held.model_dump(mode="json"), wanted.model_dump(mode="json")
    return [
        f"{key}: {there!r} there, {here!r} now"
        for key, there, here in _differing(a, b)
        if key not in HOW
    ]


def refuse_other(path: Path, changes: list[str]) -> None:
    """Raise :class:`RunError` if there are ``changes``."""
    if changes:
        raise RunError(
            f"{path} holds another run ({'; '.join(changes[:4])}"
            f"{'; ...' if len(changes) > 4 else ''}). Choose another --out, or go on with that "
            f"run: {command(path)}"
        )


def command(path: Path) -> str:
    """The command that goes on with the run in a folder."""
    return f"holdfast tune --config {shlex.quote(str(path / 'run.yaml'))}"


def _differing(a: Any, b: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(a, dict) and isinstance(b, dict):
        return [
            d
            for k in dict.fromkeys([*a, *b])
            for d in _differing(a.get(k), b.get(k), f"{key}.{k}" if key else k)
        ]
    return [] if a == b else [(key, a, b)]
