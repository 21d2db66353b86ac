"""``holdfast.within``: the most learning inside a budget of forgetting, with a promise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.benchmarks.executors import Executor
from holdfast.benchmarks.grid import run_grid
from holdfast.budget.candidates import Recipe, Situation
from holdfast.budget.confirm import Checked, confirm, in_order
from holdfast.budget.prepare import Prepared, prepare
from holdfast.budget.result import Confirmed, Tried, Within, task_losses
from holdfast.budget.trials import Point, Trial, halving, make_room, measure, workers_of
from holdfast.changes.paired import Pairs
from holdfast.config import RunConfig
from holdfast.engine.tune import measure_base
from holdfast.errors import HoldfastError, RunError
from holdfast.measures.interval import Estimate
from holdfast.progress import Progress
from holdfast.runs.files import read_json, write_json
from holdfast.runs.lock import LOCK, Lock
from holdfast.trust import trusting

SETTING, RESULT = "search.json", "report.json"
EXAMPLES = 400
"""Examples of each task, at most, for both parts together."""


def search(
    config: RunConfig,
    *,
    budget: float,
    methods: Sequence[str] = (),
    old_data: str | None = None,
    adapters_only: bool = False,
    examples: int = EXAMPLES,
    workers: int | None = None,
    on: Executor = "local",
    progress: Progress | None = None,
) -> Within:
    """Search for the most learning inside ``budget`` points, and confirm what was found.

    Args:
        config: model, data, kept tasks (``tasks``), folder and training settings. A learning
            rate in it replaces the search for one; ``steps`` is the longest length.
        methods: a plan of the user's own, instead of :data:`holdfast.budget.CANDIDATES`.
        workers, on: how many trials at a time, and where
            (:func:`holdfast.benchmarks.grid.run_grid`).

    Raises as :func:`holdfast.api.within`.
    """
    progress = progress or Progress()
    with trusting(config.trust):
        prepared = prepare(
            config,
            budget=budget,
            methods=methods,
            situation=Situation("", old_data, adapters_only),
            examples=examples,
            progress=progress,
        )
        prepared.refuse_too_few()
        lock = Lock(prepared.setting.folder)
        lock.take()
        try:
            return _Search(prepared, workers, on, progress).go()
        finally:
            lock.drop()


def calibrate(
    prepared: Prepared, workers: int | None, progress: Progress
) -> tuple[list[Point], dict[str, str]]:
    """The points of the shortest trials of a search, and which could not be finished, and why."""
    work = _Search(prepared, workers, "local", progress)
    return work.explore(prepared.recipes, prepared.lengths[:1]), work.failed


class _Search:
    """One process's work on a search."""

    def __init__(
        self, prepared: Prepared, workers: int | None, on: Executor, progress: Progress
    ) -> None:
        self.prepared, self.setting = prepared, prepared.setting
        self.workers, self.on, self.progress = workers, on, progress
        self.failed: dict[str, str] = {}
        self.known: dict[str, dict[str, Any]] = {}
        """What the base answered: asked once for all trials."""
        self.learned: dict[Point, Estimate] = {}
        """On the examples that the search did not see."""

    def go(self) -> Within:
        from holdfast.report.budget import write_budget_report

        folder = self.setting.folder
        self._same_search()
        pool = self.explore(self.prepared.recipes, self.prepared.lengths)
        if not pool and self.failed:
            name, reason = next(iter(self.failed.items()))
            raise RunError(f"not one trial could be finished; {name}: {reason}")
        order = in_order(pool, self.setting.budget)
        self.progress.say(
            f"{len(pool)} models were looked at; up to {len(order)} are now asked what the search "
            "did not see, the safest first"
        )
        checked = confirm(order, self._ask, self.setting.budget)
        found = self._result(pool, checked)
        if found.chosen is not None:
            self._publish(checked[sum(c.kept for c in checked) - 1].point)
        write_json(folder / RESULT, found.to_json())
        write_budget_report(found, folder)
        return found

    def explore(self, recipes: Sequence[Recipe], lengths: Sequence[int]) -> list[Point]:
        """Every point of every trial, on the examples that the search may see."""
        first = Trial(recipes[0], recipes[0].rates[0], lengths[0], 0)
        self.progress.say("asking the base model")
        base = measure_base(self.setting.member(first).config, self.setting.folder / "base")
        make_room()

        def run(trials: Sequence[Trial]) -> Mapping[Trial, Sequence[Point]]:
            self.progress.say(f"{len(trials)} trials of {trials[0].steps} steps")
            members = {self.setting.member(t).name: t for t in trials}
            failures = run_grid(
                [self.setting.member(t) for t in trials],
                known=base.path,
                workers=workers_of(self.workers),
                on=self.on,
                progress=self.progress,
            )
            for f in failures:
                self.failed[f.member.name] = f.reason
                del members[f.member.name]
            found = {}
            for trial in members.values():
                found[trial] = self._measure(trial)
                self._say(trial, found[trial])
            return found

        return halving(recipes, lengths, self.setting.budget, run)

    def _measure(self, trial: Trial) -> Sequence[Point]:
        try:
            points, self.known = measure(self.setting, trial, self.known)
        except HoldfastError as error:
            if isinstance(error, RunError):
                raise
            self.failed[trial.name] = str(error)
            return []
        return points

    def _say(self, trial: Trial, points: Sequence[Point]) -> None:
        inside = [p for p in points if p.loss <= self.setting.budget and p.gain > 0]
        if inside:
            best = max(inside, key=lambda p: p.gain)
            said = f"learned {best.gain:+.1f} at a loss of {best.loss:.1f} ({best.name})"
        else:
            said = "nothing learned inside the budget"
        self.progress.say(f"  {trial.name}: {said}")

    def _ask(self, point: Point) -> Mapping[str, Pairs]:
        with self.setting.attempts(point.trial, self.known) as attempts:
            learned = attempts.test(point.candidate).test_learned
            assert learned is not None
            self.learned[point] = learned
            pairs = attempts.pairs(point.candidate, "test")
            self.known = attempts.base_rows()
        lost = sum(p.lost for p in pairs.values()), sum(p.gained for p in pairs.values())
        self.progress.say(f"  {point.name}: {lost[0]} answers lost, {lost[1]} gained")
        return pairs

    def _publish(self, point: Point) -> None:
        with self.setting.attempts(point.trial, self.known) as attempts:
            attempts.live.become(point.candidate.blend)
            facts = {"budget": self.setting.budget, "trial": point.name}
            attempts.live.save(self.setting.folder / "model", facts)

    def _result(self, pool: Sequence[Point], checked: Sequence[Checked[Point]]) -> Within:
        tried = {p: _tried(p) for p in pool}
        sequence = tuple(
            Confirmed(
                tried[c.point],
                self.learned[c.point],
                c.bound,
                task_losses(c.pairs),
                c.kept,
            )
            for c in checked
        )
        return Within(
            model=self.setting.template.model,
            out=str(self.setting.folder),
            budget=self.setting.budget,
            keep=tuple(t.name for t in self.setting.questions.tasks["held_out"]),
            tried=tuple(tried.values()),
            sequence=sequence,
            excluded={r.name: r.reason for r in self.prepared.excluded},
            failed=self.failed,
            facts=self.prepared.facts(),
        )

    def _same_search(self) -> None:
        """Refuse a folder that holds another search: its unseen examples would be seen."""
        file = self.setting.folder / SETTING
        told = self.prepared.told()
        if not file.exists():
            others = {p.name for p in file.parent.iterdir()} - {LOCK}
            if others:
                raise RunError(
                    f"{file.parent} is not empty and holds no search ({min(others)}, ...); choose "
                    "another --out, so that nothing of yours is overwritten."
                )
            write_json(file, told)
            return
        there = read_json(file)
        if there != told:
            held = there if isinstance(there, dict) else {}
            differs = sorted(k for k in told if held.get(k) != told[k])
            raise RunError(
                f"{self.setting.folder} holds another search (other {', '.join(differs)}); choose "
                "another --out."
            )


def _tried(point: Point) -> Tried:
    t, c = point.trial, point.candidate
    return Tried(t.name, t.recipe.name, t.learning_rate, t.steps, c.blend.rest, c.learned, c.lost)
