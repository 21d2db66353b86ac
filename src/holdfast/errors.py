"""What can go wrong, as a tree.

    HoldfastError
    ├── UsageError (ValueError)        what was asked for cannot be done as asked
    │   ├── UnknownName                a method, task, model ... that does not exist
    │   ├── SelectorError              a selector that is malformed or selects nothing
    │   ├── PlanConflict               two methods want the same exclusive slot
    │   └── ConfigError                a run's configuration is wrong
    ├── DataError (ValueError)         a record, an image or a data file is wrong
    ├── ModelError (ValueError)        a model folder or hub id cannot be used
    ├── MissingExtra (ImportError)     an optional dependency is not installed
    └── RunError (RuntimeError)        a run directory cannot be used, or a run had to stop

Every message is a sentence for the user: what was given, what was expected, what to do.
The command line prints the message without a traceback; anything else that is raised is
a defect of ours and keeps its traceback.

Beside the tree stands :class:`Interrupted` (KeyboardInterrupt): somebody wanted the work to end.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Sequence
from types import ModuleType


class HoldfastError(Exception):
    """The root: catch this to catch everything that Holdfast raises on purpose."""


class UsageError(HoldfastError, ValueError):
    """What was asked for cannot be done as asked. The caller changes the request."""


class UnknownName(UsageError):
    """A name that does not exist. The message lists what exists and the nearest match."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, sorted(known)
        super().__init__(f"there is no {kind} '{name}'{nearest(name, self.known)}")

    def __reduce__(self) -> tuple[type[UnknownName], tuple[str, str, list[str]]]:
        return (type(self), (self.kind, self.name, self.known))


class SelectorError(UsageError):
    """A selector is malformed, names an unknown role, or selects nothing."""


class PlanConflict(UsageError):
    """Two methods fill the same exclusive slot of a plan; the message names both."""


class ConfigError(UsageError):
    """A run's configuration has an unknown key, a wrong type or an impossible value."""


class DataError(HoldfastError, ValueError):
    """Data that cannot be used. ``problems`` holds every problem found, not only the first."""

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        self.problems = list(problems)
        super().__init__(message)

    def __reduce__(self) -> tuple[type[DataError], tuple[str, list[str]]]:
        return (type(self), (str(self), self.problems))


class ModelError(HoldfastError, ValueError):
    """A model folder or hub id cannot be used: no weights, an unknown family, a wrong hash."""


class RunError(HoldfastError, RuntimeError):
    """A run directory cannot be used, or a run had to stop; what was measured is kept."""


class Interrupted(KeyboardInterrupt):
    """A signal asked the process to end, and it has put its things in order.

    No :class:`HoldfastError`: nothing went wrong, and code that goes on after an error must not
    go on after this. The command line exits with ``code``.
    """

    def __init__(
        self, signal: int, message: str = "interrupted; run the same command to go on."
    ) -> None:
        self.signal = signal
        super().__init__(message)

    @property
    def code(self) -> int:
        """The exit code that shells give: 130 for SIGINT, 143 for SIGTERM."""
        return 128 + self.signal

    def __reduce__(self) -> tuple[type[Interrupted], tuple[int, str]]:
        return (type(self), (self.signal, str(self)))


class MissingExtra(HoldfastError, ImportError):
    """An optional dependency is missing; the message has the line that installs it."""


def nearest(name: str, known: Sequence[str]) -> str:
    """The tail of an error about an unknown name: the nearest match, then all that exists."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean '{close[0]}'?" if close else ";"
    return f"{hint} There is: {', '.join(known) if known else 'nothing'}."


def need(module: str, extra: str) -> ModuleType:
    """Import ``module``, or raise :class:`MissingExtra` with the line that installs ``extra``."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtra(
            f"{module.split('.')[0]} is needed for this and is not installed; "
            f"run: pip install 'holdfast[{extra}]'"
        ) from error
