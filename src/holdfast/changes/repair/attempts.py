"""A search that remembers: every candidate is asked once, also after a kill."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.changes.paired import Pairs
from holdfast.changes.repair.blend import BASE, TUNED, Blend
from holdfast.changes.repair.candidates import Candidate, Method
from holdfast.changes.repair.live import Live
from holdfast.changes.repair.questions import (
    HALVES,
    Half,
    Questions,
    Scored,
    lost,
    paired_scores,
)
from holdfast.errors import RunError, UsageError
from holdfast.measures.interval import Estimate
from holdfast.progress import Progress
from holdfast.runs.files import Lines
from holdfast.tasks.room import BatchSize

FILE = "candidates.jsonl"


class Attempts:
    """What was tried so far, in memory and in ``candidates.jsonl``.

    Args:
        live: the model.
        budget: points of the held-out tasks that may be lost.
        folder: where the file is; None keeps nothing.
        setting: what the scores depend on. A folder in which another search was kept is refused.
        inside: whether a loss on the half that chooses keeps the budget; by default where the
            upper end of its interval does.
        known: :meth:`base_rows` of another search with the same base and questions.

    Raises:
        RunError: the folder holds another search, or cannot be written.
    """

    def __init__(
        self,
        live: Live,
        questions: Questions,
        budget: float,
        *,
        folder: Path | None,
        setting: Mapping[str, Any],
        batch_size: BatchSize = "auto",
        progress: Progress | None = None,
        inside: Callable[[Estimate], bool] | None = None,
        known: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.live, self.questions, self.budget = live, questions, budget
        self._inside = inside or (lambda loss: loss.high <= budget)
        self.batch_size, self.progress = batch_size, progress or Progress()
        self.candidates: dict[str, Candidate] = {}
        self._rows: dict[str, dict[str, Any]] = {}
        self._asked: dict[tuple[Half, tuple[float, ...]], str] = {}
        self._lines = Lines(folder / FILE) if folder is not None else None
        self._open(dict(setting))
        for key, row in (known or {}).items():
            if key not in self._rows:
                self._keep(key, dict(row))
        self._sizes = {n: live.parameter(n).numel() for n in live.ends.changed}
        self.base, self._base_scores = self._known("base", "ends", BASE)
        self.tuned, _ = self._known("tuned", "ends", TUNED)

    def try_(
        self, name: str, method: Method, blend: Blend, facts: Mapping[str, Any] | None = None
    ) -> Candidate:
        """Ask a candidate on the half that chooses, unless it was asked before."""
        return self._known(name, method, blend, facts)[0]

    def tried(self, name: str) -> bool:
        return name in self.candidates

    def test(self, candidate: Candidate) -> Candidate:
        """Ask a candidate on the other half."""
        before = self._scored("base", BASE, "test")
        after = self._scored(candidate.name, candidate.blend, "test")
        tested = candidate.tested(*self._against(before, after, "test"))
        self.candidates[candidate.name] = tested
        return tested

    def remember(self, name: str, compute: Callable[[], Any]) -> Any:
        """A JSON value that took long to compute, from the file if it is there."""
        key = f"kept {name}"
        if key not in self._rows:
            self._keep(key, {"value": compute()})
        return self._rows[key]["value"]

    def pairs(self, candidate: Candidate, half: Half) -> dict[str, Pairs]:
        """The base's and a candidate's scores of each held-out task, asked if they were not."""
        before = self._scored("base", BASE, half)
        after = self._scored(candidate.name, candidate.blend, half)
        clusters = self._rows[f"{half} base"]["clusters"]
        return paired_scores(before.held_out, after.held_out, clusters)

    def base_rows(self) -> dict[str, dict[str, Any]]:
        """What the base answered so far, for another search that asks the same of it."""
        keys = [f"{half} base" for half in HALVES]
        return {key: self._rows[key] for key in keys if key in self._rows}

    def base_scores(self) -> Scored:
        """The base's, on the half that chooses."""
        return self._base_scores

    def _known(
        self, name: str, method: Method, blend: Blend, facts: Mapping[str, Any] | None = None
    ) -> tuple[Candidate, Scored]:
        scored = self._scored(name, blend, "select", method=method)
        if name not in self.candidates:
            before = scored if name == "base" else self._base_scores
            learned, loss = self._against(before, scored, "select")
            self.candidates[name] = Candidate(
                name=name,
                method=method,
                blend=blend,
                learned=learned,
                lost=loss,
                inside=self._inside(loss),
                share=self._share(blend),
                seconds=self._rows[f"select {name}"]["seconds"],
                facts=dict(facts or {}),
            )
        return self.candidates[name], scored

    def _scored(self, name: str, blend: Blend, half: Half, **said: Any) -> Scored:
        key = f"{half} {name}"
        row = self._rows.get(key)
        if row is not None and Blend.from_json(row["blend"]) != blend:
            raise RunError(
                f"'{name}' was another candidate in the search that is kept here; choose another "
                "--out."
            )
        if row is None and (same := self._asked.get((half, self._effective(blend)))):
            row = {**self._rows[same], **said, "key": key, "blend": blend.to_json(), "seconds": 0.0}
            self._keep(key, row)
        if row is None:
            began = time.perf_counter()
            self.live.become(blend)
            found = self.questions.ask(
                self.live.model, self.live.loaded.processor, half, batch_size=self.batch_size
            )
            if name == "base":
                said["clusters"] = self.questions.clusters[half]
            seconds = time.perf_counter() - began
            row = {"blend": blend.to_json(), "scores": found.to_json(), "seconds": seconds, **said}
            self._keep(key, row)
        self._asked.setdefault((half, self._effective(blend)), key)
        return Scored.from_json(self._rows[key]["scores"])

    def _effective(self, blend: Blend) -> tuple[float, ...]:
        """Equal for blends that are the same weights under two names."""
        ends = self.live.ends
        return tuple(s for name in ends.changed for s in blend.of(ends.parts(name)))

    def _against(self, before: Scored, after: Scored, half: Half) -> tuple[Estimate, Estimate]:
        clusters = self._rows[f"{half} base"]["clusters"]
        learned = -lost(before.learned, after.learned, clusters)
        return learned, lost(before.held_out, after.held_out, clusters)

    def _share(self, blend: Blend) -> float:
        total = kept = 0.0
        for name, size in self._sizes.items():
            parts = self.live.ends.parts(name)
            shares = blend.of(parts)
            counts = [p.count for p in parts] or [size]
            total += sum(counts)
            kept += sum(s * c for s, c in zip(shares, counts, strict=True))
        return kept / total

    def _open(self, setting: dict[str, Any]) -> None:
        if self._lines is None:
            return
        rows = self._lines.read()
        if not rows:
            self._keep("setting", {"setting": setting})
            return
        self._rows = {str(row["key"]): row for row in rows if "key" in row}
        there = self._rows.get("setting", {}).get("setting")
        if there != setting:
            differs = sorted(k for k in setting if (there or {}).get(k) != setting[k])
            raise RunError(
                f"{self._lines.path} holds another search (other {', '.join(differs) or 'file'}); "
                "choose another --out."
            )

    def _keep(self, key: str, row: dict[str, Any]) -> None:
        held = {"key": key, **row}
        self._rows[key] = held
        if self._lines is not None:
            self._lines.path.parent.mkdir(parents=True, exist_ok=True)
            self._lines.append(held)


@dataclass
class Allowance:
    """How many more candidates a method may ask."""

    left: int

    def __post_init__(self) -> None:
        if self.left < 1:
            raise UsageError(f"evaluations={self.left}: at least one candidate must be asked.")

    def take(self) -> bool:
        """Whether there is one more; it is then taken."""
        self.left -= 1
        return self.left >= 0
