"""What stops a run, said in one sentence: what happened, at which step, on what, and the way on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from holdfast.errors import DataError, HoldfastError, Interrupted, RunError
from holdfast.runs.files import explain, failed_write
from holdfast.signals import Signals
from holdfast.tasks.batches import is_out_of_memory

SHOWN = 3
"""Names of examples in a message."""


@dataclass
class Place:
    """Where a run is; kept up to date by whoever works."""

    work: str = ""
    """What is being done: ``stage 1 of 2 (birds)``, ``the loading of the model``."""
    step: int = 0
    """The optimizer step, from 1; 0 outside of training."""
    steps: int = 0
    rows: Callable[[int], Sequence[str]] = lambda step: ()
    """Names of the examples of a step."""
    micro_batch: int = 0
    """Examples at once."""
    batch: int = 0
    """Examples of a step."""
    saved: Callable[[], int] = lambda: 0
    """The step of the newest checkpoint."""
    command: str = "the same command"
    """What goes on with the run."""
    signals: Signals = field(default_factory=Signals)
    say: Callable[[str], None] = lambda text: None

    def __str__(self) -> str:
        if not self.step:
            return f"during {self.work}"
        names = list(self.rows(self.step))
        examples = f", on {listed(names)}" if names else ""
        return f"at step {self.step} of {self.steps} of {self.work}{examples}"

    @property
    def way_on(self) -> str:
        saved = self.saved() if self.step else 0
        point = f" from the checkpoint of step {saved}" if saved else ""
        return f"What was measured is kept; to go on{point}: {self.command}"


def listed(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"the example{'s' if len(names) > 1 else ''} {', '.join(names[:SHOWN])}{more}"


@contextmanager
def telling(place: Place) -> Iterator[None]:
    """Turn what ends the work inside into a sentence about ``place``.

    Raises:
        Interrupted: with what was saved and the way on.
        RunError: for a full disk, memory that ran out, a worker process that died. Errors that
            are sentences already get the place and the way on; anything else is a defect and
            keeps its traceback, with the place as a note.
    """
    try:
        yield
    except Interrupted as stop:
        raise Interrupted(stop.signal, f"interrupted {place}. {place.way_on}") from None
    except KeyboardInterrupt:
        raise
    except _Said:
        raise
    except DataError as error:
        text = f"{str(error).rstrip('.')}; {place}. {place.way_on}"
        raise DataError(text, error.problems) from error
    except HoldfastError as error:
        if isinstance(error, RunError):
            raise _Said(f"{str(error).rstrip('.')}; {place}. {place.way_on}") from error
        raise
    except Exception as error:
        sentence = _sentence(error, place)
        if sentence is None:
            error.add_note(f"This happened {place}. {place.way_on}")
            raise
        raise _Said(sentence) from error


class _Said(RunError):
    """Has its place and way on in it already."""


def _sentence(error: Exception, place: Place) -> str | None:
    if is_out_of_memory(error) or isinstance(error, MemoryError):
        return f"memory ran out {place}. {_smaller(place)}{place.way_on}{_changed(place)}"
    if (failed := failed_write(error)) is not None:
        what = explain(failed, Path(failed.filename or "a file of the run")).rstrip(".")
        return f"{what}; {place}. {place.way_on}"
    if "DataLoader worker" in str(error):
        first = str(error).strip().splitlines()[0]
        return (
            f"a process that prepares examples died ({first}), {place}. Often memory ran out. "
            f"{place.way_on}"
        )
    return None


def _smaller(place: Place) -> str:
    if not place.micro_batch:
        return ""
    if place.micro_batch > 1:
        return f"{place.micro_batch} examples at once are too many. "
    return "A single example is too much: less memory is needed with a lower train.max_length. "


def _changed(place: Place) -> str:
    """Options that lower the memory without making it another run."""
    if place.micro_batch > 1:
        smaller = next(
            n for n in range(place.micro_batch // 2, 0, -1) if place.micro_batch % n == 0
        )
        return f" --set train.micro_batch_size={smaller}"
    return " --set train.gradient_checkpointing=true" if place.micro_batch else ""


class Losses:
    """Sees to it that no step and no checkpoint goes by with a loss that is not a number.

    On a CPU every loss is looked at when it is there. Elsewhere that would make the device wait,
    so they are looked at together, at every log and before every checkpoint.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self._unseen: list[tuple[int, Tensor]] = []

    def note(self, step: int, loss: Tensor) -> None:
        self._unseen.append((step, loss.detach()))
        if loss.device.type == "cpu":
            self.check()

    def check(self) -> None:
        """Raises :class:`RunError` naming the first step whose loss is not finite."""
        unseen, self._unseen = self._unseen, []
        for step, loss in unseen:
            if not math.isfinite(value := float(loss)):
                self.place.step = step
                raise _Said(self._lost(f"the loss became {value}"))

    def check_weights(self, weights: dict[str, Any]) -> None:
        """Raises :class:`RunError` if a checkpoint would hold what is not a number."""
        self.check()
        lost = [n for n, w in weights.items() if not bool(w.isfinite().all())]
        if lost:
            raise _Said(self._lost(f"{len(lost)} weights are no longer finite numbers ({lost[0]})"))

    def _lost(self, what: str) -> str:
        place = self.place
        return (
            f"{what} {place}. The last good checkpoint is kept, and so is what was measured. "
            f"The same command goes on from there ({place.command}); if it meets this again, "
            "begin another run with a lower learning rate or a longer warm-up "
            "(--set train.learning_rate=..., --set train.warmup=..., --out ...)."
        )
