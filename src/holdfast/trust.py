"""What is refused unless the user says that it may be.

    remote_code   run Python that a model folder brings along (``auto_map``)
    pickle        read weights from pickle files, which can run code when they are read
    outside       follow image paths and links that lead out of the data's folder
    max_pixels    the largest image that is decoded

A run says so in its configuration (``trust: {remote_code: true}``), so that ``run.yaml`` shows
it; Python says so with ``with trusting(Trust(remote_code=True)): ...``. It holds for the whole
process while the block lasts, since images are read in threads.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Concatenate, ParamSpec, TypeVar

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from holdfast.config import RunConfig

P = ParamSpec("P")
T = TypeVar("T")

MAX_PIXELS = 100_000_000
"""Decoded, 100 megapixels take 300 MB; no camera's picture is larger."""


class Trust(BaseModel):
    """What may be done with files that somebody else made."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    remote_code: bool = False
    """Run the Python that a model's folder brings along. It can do whatever you can do."""
    pickle: bool = False
    """Read weights from pickle files (.bin) where there are no safetensors."""
    outside: bool = False
    """Follow image paths and links that lead out of the data's folder."""
    max_pixels: Annotated[int, Field(ge=1)] = MAX_PIXELS
    """Width times height of the largest image that is decoded."""


_now = Trust()


def trusted() -> Trust:
    """What may be done now; nothing of it, unless :func:`trusting` says so."""
    return _now


@contextmanager
def trusting(trust: Trust) -> Iterator[None]:
    """Allow what ``trust`` allows, in this process, until the block ends."""
    global _now
    before, _now = _now, trust
    try:
        yield
    finally:
        _now = before


def as_configured(
    function: Callable[Concatenate[RunConfig, P], T],
) -> Callable[Concatenate[RunConfig, P], T]:
    """A function of a run's configuration, allowed what that configuration trusts."""

    @functools.wraps(function)
    def inner(config: RunConfig, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with trusting(config.trust):
            return function(config, *args, **kwargs)

    return inner
