"""Two models on the same examples in the same conditions."""

from __future__ import annotations

import dataclasses
import gc
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args
from urllib.parse import quote

import numpy as np

from holdfast.changes.paired import Pairs
from holdfast.changes.verdict import MARGIN, Gated, Judged, Verdict, gate, judge, mean_loss
from holdfast.errors import UsageError, need
from holdfast.measures.answers import became
from holdfast.measures.interval import LEVEL, Estimate, finite
from holdfast.progress import Progress
from holdfast.runs.files import write_json, write_text

if TYPE_CHECKING:
    from holdfast.changes.diagnose import Diagnosis
    from holdfast.models.loading import Loaded
    from holdfast.tasks import Answer, Task, TaskResult

NOISE_ROWS = 5
"""Rows of a batch when a model is asked again, to see what batching alone changes."""


@dataclass(frozen=True)
class Comparison:
    """What two models replied to the same examples, and what may be said about the change."""

    base: str
    tuned: str
    tasks: tuple[Judged, ...]
    mean: Estimate
    """Change of the mean over tasks, in points."""
    answers: Mapping[str, tuple[tuple[Answer, Answer], ...]]
    """For each task, pairs (before, after), one for each example."""
    gated: Gated | None = None
    margin: float = MARGIN
    """Points within which a change counts as none."""
    diagnoses: tuple[Diagnosis, ...] = ()
    """For each task with lost examples, whether the loss is format, drift or knowledge."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Names, hashes, versions and the command that repeats this."""

    @property
    def overall(self) -> Verdict:
        """Of the pair: *worse* if any task is, then *better*; *unchanged* if every task is, or
        if none is either and the whole interval of the mean lies within the margin."""
        said = {j.verdict for j in self.tasks}
        if said & {"worse", "better"}:
            return "worse" if "worse" in said else "better"
        small = -self.margin <= self.mean.low and self.mean.high <= self.margin
        return "unchanged" if said <= {"unchanged"} or small else "undecided"

    @property
    def verdict(self) -> str:
        """One sentence."""
        by = {v: [j.task for j in self.tasks if j.verdict == v] for v in get_args(Verdict)}
        number = _count(len(self.tasks), "task")
        if self.overall == "unchanged":
            text = f"Nothing changed on {number} that can be told from chance"
            if by["undecided"]:
                text += f": {self.mean:+.1f} points on the mean, undecided alone on "
                text += _listed(by["undecided"])
            return f"{text}."
        said = [
            f"{name} on {_listed(by[name])}"
            for name in ("worse", "better", "undecided")
            if by[name]
        ]
        if by["unchanged"]:
            said.append(f"unchanged on {_count(len(by['unchanged']), 'task')}")
        text = "; ".join(said)
        return f"{text[0].upper()}{text[1:]}: {self.mean:+.1f} points on the mean."

    def rows(self) -> list[dict[str, Any]]:
        """One plain row for each task."""
        return [_row(j) for j in self.tasks]

    def examples(self, only: Literal["lost", "gained", "all"] = "all") -> list[dict[str, Any]]:
        """One plain row for each example: both replies, both scores, what became of it."""
        rows = [
            {
                "task": task,
                "id": before.id,
                "references": list(before.references),
                "before": before.reply,
                "after": after.reply,
                "score_before": before.score,
                "score_after": after.score,
                "read_before": before.parsed,
                "read_after": after.parsed,
                "became": became(before, after),
            }
            for task, pairs in self.answers.items()
            for before, after in pairs
        ]
        return rows if only == "all" else [row for row in rows if row["became"] == only]

    def causes(self) -> list[dict[str, Any]]:
        """One plain row for each task and cause: its share of the lost examples, in percent."""
        return [
            {
                "task": d.task,
                "cause": cause,
                "share": finite(e.value),
                "low": finite(e.low),
                "high": finite(e.high),
                "tried": d.tried,
                "lost": d.lost,
            }
            for d in self.diagnoses
            for cause, e in d.share.items()
        ]

    def frame(self, of: Literal["tasks", "examples", "causes"] = "tasks") -> Any:
        """The rows as a pandas data frame. Raises :class:`MissingExtra` without pandas."""
        pandas = need("pandas", "data")
        if of == "causes":
            return pandas.DataFrame(self.causes())
        return pandas.DataFrame(self.rows() if of == "tasks" else self.examples())

    def to_json(self) -> dict[str, Any]:
        """Everything but the answers, as plain values."""
        return {
            "base": self.base,
            "tuned": self.tuned,
            "verdict": self.verdict,
            "overall": self.overall,
            "margin": self.margin,
            "mean_change": self.mean.to_json(),
            "gate": _gate_json(self.gated),
            "tasks": self.rows(),
            "diagnoses": [d.to_json() for d in self.diagnoses],
            "facts": dict(self.facts),
        }


def compare(
    base: str,
    tuned: str,
    tasks: str | Sequence[str],
    *,
    limit: int | None = None,
    max_forgetting: float | None = None,
    margin: float = MARGIN,
    noise: bool = True,
    diagnose: bool = False,
    batch_size: int | Literal["auto"] = "auto",
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Ask two models the same questions, and say what changed.

    Args:
        base, tuned: lab names, folders, hub ids or runs; ours or anybody's.
        tasks: tasks and suites. A lab suite means what ``base`` was pre-trained on.
        limit: at most so many examples of each task.
        max_forgetting: points that may be lost on the mean over tasks; sets ``gated``.
        margin: points within which a change counts as none.
        noise: ask the base a second time in other batches, for what flips by itself.
        diagnose: try every lost example again, to split the loss into format, drift and
            knowledge (:mod:`holdfast.changes.diagnose`).
        out: a folder for the report, ``compare.json`` and every answer.

    Raises:
        UsageError, UnknownName, ModelError, DataError: checked before any weights load, as far
        as can be.

    Example:
        >>> found = holdfast.compare("lab:vlm", "runs/count", "lab:held-out")
        >>> print(found.verdict)
        >>> found.frame().sort_values("change")
    """
    from holdfast.engine.scoring import load_tasks
    from holdfast.models.source import resolve

    progress = progress or Progress()
    names = [tasks] if isinstance(tasks, str) else list(tasks)
    if not names:
        raise UsageError("name at least one task with --tasks.")
    for name in (base, tuned):
        resolve(name)
    chosen = load_tasks(names, model=family(base), limit=limit)
    line = ["holdfast", "compare", base, tuned, *(w for t in names for w in ("--tasks", t))]
    line += ["--limit", str(limit)] if limit is not None else []
    line += ["--max-forgetting", f"{max_forgetting:g}%"] if max_forgetting is not None else []
    line += ["--margin", f"{margin:g}"] if margin != MARGIN else []
    line += [] if noise else ["--no-noise"]
    line += ["--diagnose"] if diagnose else []
    one, before, again = _ask(base, chosen, batch_size, noise, progress)
    if not diagnose:
        one.model = None
        gc.collect()
    two, after, _ = _ask(tuned, chosen, batch_size, False, progress)
    found = compare_answers(
        before,
        after,
        base=base,
        tuned=tuned,
        again=again,
        margin=margin,
        max_forgetting=max_forgetting,
        facts=_facts(one, two, names, limit, shlex.join(line)),
    )
    if diagnose:
        from holdfast.changes.diagnose import diagnose_all

        split = diagnose_all(one, two, chosen, found, progress=progress)
        found = dataclasses.replace(found, diagnoses=tuple(split))
    if out is not None:
        from holdfast.report.compare_page import write_compare_report

        keep(found, Path(out))
        write_compare_report(Path(out), found, chosen)
    return found


def compare_answers(
    before: Sequence[TaskResult],
    after: Sequence[TaskResult],
    *,
    base: str = "before",
    tuned: str = "after",
    again: Sequence[TaskResult] | None = None,
    margin: float = MARGIN,
    max_forgetting: float | None = None,
    level: float = LEVEL,
    facts: Mapping[str, Any] | None = None,
) -> Comparison:
    """:func:`compare` for answers that are there already.

    Args:
        before, after: results of the same tasks on the same examples.
        again: the first model's results in other batches, for the noise floor.

    Raises:
        UsageError: the examples of a task are not the same on both sides.
    """
    pairs = {b.task: _paired(b, a) for b, a in _matched(before, after)}
    scores = {task: _scores(found) for task, found in pairs.items()}
    noise = None
    if again is not None:
        noise = {b.task: _flips(_paired(b, a)) for b, a in _matched(before, again)}
    judged = judge(scores, noise=noise, margin=margin, level=level)
    gated = None
    if max_forgetting is not None:
        gated = gate(scores, max_forgetting, noise=noise, level=level)
    return Comparison(
        base=base,
        tuned=tuned,
        tasks=tuple(judged),
        mean=-mean_loss(scores, level),
        answers=pairs,
        gated=gated,
        margin=margin,
        facts=dict(facts or {}),
    )


def keep(found: Comparison, folder: Path) -> Path:
    """Write ``compare.json`` and every pair of answers; returns the former's path."""
    for task, pairs in found.answers.items():
        rows = ({"before": dataclasses.asdict(b), "after": dataclasses.asdict(a)} for b, a in pairs)
        lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        write_text(folder / "examples" / f"{quote(task, safe='')}.jsonl", lines + "\n")
    write_json(folder / "compare.json", found.to_json())
    return folder / "compare.json"


def _ask(
    name: str,
    tasks: Sequence[Task],
    batch_size: int | Literal["auto"],
    noise: bool,
    progress: Progress,
) -> tuple[Loaded, list[TaskResult], list[TaskResult] | None]:
    from holdfast.models.loading import load_all
    from holdfast.tasks import evaluate

    progress.say(f"asking {name}")
    loaded = load_all(name)
    work = (loaded.model, loaded.processor, tasks)
    first = evaluate(*work, batch_size=batch_size, progress=progress)
    if not noise:
        return loaded, first, None
    progress.say(f"asking {name} again in batches of {NOISE_ROWS}, for the noise")
    return loaded, first, evaluate(*work, batch_size=NOISE_ROWS, progress=progress)


def family(base: str) -> str:
    """The lab name behind a run or a delta, which lab suites are defined by."""
    from holdfast.models.saving import read_delta
    from holdfast.models.source import DELTA, fetch, resolve

    folder = fetch(resolve(base))
    return str(read_delta(folder)["base"]) if (folder / DELTA).exists() else base


def _facts(
    one: Loaded, two: Loaded, tasks: Sequence[str], limit: int | None, command: str
) -> dict[str, Any]:
    import torch
    import transformers

    import holdfast

    return {
        "base_hash": one.hash,
        "tuned_on": two.base,
        "tuned_base_hash": two.hash,
        "tasks": list(tasks),
        "limit": limit,
        "holdfast": holdfast.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "repeat with": command,
    }


def _matched(
    before: Sequence[TaskResult], after: Sequence[TaskResult]
) -> list[tuple[TaskResult, TaskResult]]:
    there = {r.task: r for r in after}
    if [r.task for r in before] != [r.task for r in after]:
        raise UsageError(
            f"the two sides answered other tasks: {sorted({r.task for r in before} ^ set(there))}"
        )
    return [(r, there[r.task]) for r in before]


def _paired(before: TaskResult, after: TaskResult) -> tuple[tuple[Answer, Answer], ...]:
    there = {a.id: a for a in after.answers}
    if [a.id for a in before.answers] != [a.id for a in after.answers]:
        raise UsageError(
            f"'{before.task}': the two sides answered other examples; ask both with the same "
            "tasks and the same limit."
        )
    return tuple((a, there[a.id]) for a in before.answers)


def _scores(pairs: Sequence[tuple[Answer, Answer]]) -> Pairs:
    clusters = tuple(b.cluster for b, _ in pairs)
    return Pairs(
        np.array([b.score for b, _ in pairs]),
        np.array([a.score for _, a in pairs]),
        clusters if any(clusters) else (),
    )


def _flips(pairs: Sequence[tuple[Answer, Answer]]) -> int:
    return sum(b.score != a.score for b, a in pairs)


def _row(j: Judged) -> dict[str, Any]:
    return {
        "task": j.task,
        "n": j.n,
        "before": finite(j.before),
        "after": finite(j.after),
        "change": finite(j.change.value),
        "low": finite(j.change.low),
        "high": finite(j.change.high),
        "lost": j.lost,
        "gained": j.gained,
        "p": j.p,
        "p_adjusted": j.p_adjusted,
        "noise": j.noise,
        "verdict": j.verdict,
        "why": j.why,
        "needed": j.needed,
        "interval": j.change.method,
    }


def _gate_json(gated: Gated | None) -> dict[str, Any] | None:
    if gated is None:
        return None
    return {**dataclasses.asdict(gated), "loss": gated.loss.to_json()}


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'s' if n != 1 else ''}"


def _listed(names: Sequence[str], most: int = 4) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
