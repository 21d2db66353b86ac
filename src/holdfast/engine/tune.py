"""A run: a sequence of stages, everything scored before the first and after each."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from holdfast.carried import Ended
from holdfast.config import RunConfig
from holdfast.engine import carrying, memory
from holdfast.engine.continual import watchers
from holdfast.engine.preflight import Preflight, preflight
from holdfast.engine.provenance import provenance
from holdfast.engine.stage import needs_base, train_stage
from holdfast.engine.stops import Place, telling
from holdfast.engine.trackers import Trackers
from holdfast.engine.world import world
from holdfast.errors import ModelError, RunError
from holdfast.models.loading import default_dtype, load_model, pick_device, put
from holdfast.models.saving import check_delta, read_delta, save_delta, tensors_of
from holdfast.models.source import DELTA, fetch, fingerprint
from holdfast.progress import Progress
from holdfast.runs import Run
from holdfast.runs.follower import Follower
from holdfast.runs.run import Role
from holdfast.runs.sameness import command
from holdfast.tasks import Task, TaskResult, evaluate
from holdfast.trust import as_configured


@as_configured
def tune(config: RunConfig, *, progress: Progress | None = None, known: Path | None = None) -> Run:
    """Run a configuration to its end, from wherever an earlier process left it.

    Args:
        config: what to do.
        progress: told of stages, steps and scores.
        known: another run of the same base and tasks, whose scores before the first stage
            are taken over instead of measured again.

    Returns:
        The finished run; read its numbers with :func:`holdfast.measures.summarise`.

    Raises:
        HoldfastError: before any weights load, if a name, a setting, the data, the model or
            the run's folder is wrong; later, if the run has to stop: then the message names
            the step, its examples, and the command that goes on.
        Interrupted: a signal came (SIGINT, SIGTERM, SIGHUP). A stage that was training has
            saved a checkpoint.
    """
    here = world()
    progress = (progress if here.first else None) or Progress()
    place = Place(say=progress.say, batch=config.train.batch_size)
    with here.together():
        run = Run.start(config) if here.first else Follower(config)
        here.wait()
        try:
            with place.signals:
                if here.agree(run.finished):
                    progress.say(f"{run.path} is finished already; its numbers are read back.")
                    return run
                work = _Tuning(run, preflight(config, progress=progress), progress, known, place)
                work.go(work.load())
            here.wait()
            return run
        finally:
            run.unlock()


@as_configured
def measure_base(config: RunConfig, out: Path, *, progress: Progress | None = None) -> Run:
    """Score a configuration's model before any training, for runs that share it (``known``).

    Returns a run in ``out`` with the scores of stage 0 alone; it is taken up where it was left.

    Raises as :func:`tune`.
    """
    progress = progress or Progress()
    run = Run.start(config.model_copy(update={"out": str(out)}))
    place = Place(say=progress.say)
    try:
        with place.signals:
            if not run.finished:
                work = _Tuning(run, preflight(run.config), progress, None, place)
                work.load()
                work.begin()
                work.score(0)
                run.finish()
        return run
    finally:
        run.unlock()


class _Tuning:
    """One process's work on a run."""

    def __init__(
        self,
        run: Run,
        checked: Preflight,
        progress: Progress,
        known: Path | None,
        place: Place,
    ) -> None:
        self.run, self.checked, self.progress, self.known = run, checked, progress, known
        self.place, self.here = place, world()
        self.trackers = Trackers(run, checked.train, first=self.here.first)
        memory.reset()
        self.base_hash = fingerprint(checked.folder)
        self.device = pick_device(None)
        self.changed: list[str] = []
        """Names of weights that may differ from the base's."""
        self.base_weights: dict[str, Tensor] = {}
        """Their values when the run began (on the CPU)."""
        self.structure: Mapping[str, object] | None = None
        self.model: Any = None

    def begin(self) -> None:
        """Note what the run was told; from here on the folder is its own."""
        if self.run.taken_over:
            self.progress.say(
                f"{self.run.path} held a run that had measured nothing yet; this one takes its "
                f"place ({'; '.join(self.run.taken_over[:4])})"
            )
        self.run.begin()
        self.place.command = command(self.run.path)

    def go(self, done: int) -> None:
        """Everything that is left after stage ``done``."""
        self.begin()
        self.run.provenance(self._facts())
        try:
            self._mend(done)
            if done == 0:
                self.score(0)
            for stage in range(1, len(self.checked.skills) + 1):
                if stage > done:
                    self._train(stage)
                if stage >= done:
                    self.score(stage)
            self._publish(len(self.checked.skills))
            self.trackers.finished(self.model)
        finally:
            self.trackers.close()
            with suppress(RunError):  # the disk may be what stopped the run
                self.run.provenance(self._facts())
        self.run.finish()

    # The model, where it was left

    def load(self) -> int:
        """Load the model as the last finished stage left it. Returns that stage's number."""
        done = self.here.agree(self._last_whole() if self.here.first else 0)
        if done:
            self.progress.say(f"going on after stage {done} of {len(self.checked.skills)}")
        self._load_after(done)
        return done

    def _last_whole(self) -> int:
        """The last stage whose weights are there; one whose files are damaged is named, and
        trained again."""
        for stage in range(len(self.checked.skills), 0, -1):
            folder = self.run.stage_folder(stage)
            try:
                if self.run.stage_done(stage) is not None:
                    check_delta(folder)
                    if stage < len(self.checked.skills):
                        carrying.check(self.checked.plan, folder)
                    return stage
            except (RunError, ModelError) as error:
                self.progress.say(f"{error} Stage {stage} is trained again.")
                (folder / "done.json").unlink(missing_ok=True)
        return 0

    def _load_after(self, stage: int) -> None:
        """The model as it was after a stage (0: before the first)."""
        self.place.work = "the loading of the model"
        with telling(self.place):
            checked = self.checked
            self.model, self.structure = None, None
            self.changed, self.base_weights = [], {}
            begun = fetch(checked.source)
            self.progress.say(f"loading {checked.source.name}")
            self.model = load_model(checked.folder, self._dtype())
            if (begun / DELTA).exists():
                self._lay(begun, keep=False)
            if stage:
                self._lay(self.run.stage_folder(stage), keep=True)
            self.model.to(self.device)
            self.model.eval()

    def _mend(self, done: int) -> None:
        """Ask again what an earlier stage answered, where the answers are damaged."""
        mended = False
        for stage in range(done):
            if self._left(stage):
                self._load_after(stage)
                self.score(stage)
                mended = True
        if mended:
            self._load_after(done)

    def _dtype(self) -> torch.dtype:
        if self.checked.train.precision == "fp32":
            return torch.float32
        return default_dtype(self.checked.folder, self.device)

    def _lay(self, folder: Path, *, keep: bool) -> None:
        """Put a delta over the model; ``keep``: remember what was under it as the run's base."""
        facts, values = read_delta(folder), tensors_of(folder)
        if keep:
            here = dict(self.model.named_parameters())
            if needs_base(self.checked.plan):
                self.base_weights = {n: here[n].detach().clone() for n in values if n in here}
        if facts["structure"]:
            from holdfast.anatomy import anatomy
            from holdfast.pieces.structures import rebuild

            self.structure = facts["structure"]
            self.model = rebuild(self.model, facts["structure"], anatomy(self.model))
        put(self.model, values)
        self.changed = list(values)

    # A stage

    def _train(self, stage: int) -> None:
        checked, skill = self.checked, self.checked.skills[stage - 1]
        folder = self.run.stage_folder(stage)
        if self.here.first:
            shutil.rmtree(folder / "adapter", ignore_errors=True)
        keeps_adapter = self.here.first and not checked.plan.settle
        kept = {n: v.to(self.device) for n, v in self.base_weights.items()}
        examples = checked.surveys[stage - 1].encoded
        earlier = [survey.encoded for survey in checked.surveys[: stage - 1]]
        before = self.run.stage_folder(stage - 1) if stage > 1 else None
        plan = carrying.recall(checked.plan, before)
        title = f"stage {stage} of {len(checked.skills)}: {skill.label}, {checked.plan.name}"
        self.progress.say(title)
        watched = watchers(checked, stage, self.run.path, self.progress)
        self.place.work = f"stage {stage} of {len(checked.skills)} ({skill.label})"
        with self.progress.bar(title) as advance:
            trained = train_stage(
                plan,
                self.model,
                examples,
                examples.collate,
                checked.train,
                folder=folder / "checkpoints",
                seed=self.run.config.seed * 1000 + stage,
                base_weights=kept,
                advance=advance,
                note=lambda row: self.run.measurements.append(
                    {"kind": "train", "stage": stage, **row}
                ),
                # an adapter that is edited after it was merged is not the stage's result
                adapter_folder=folder / "adapter" if keeps_adapter else None,
                sources={**checked.sources[stage - 1], **carrying.rehearsed(plan, earlier)},
                place=self.place,
                watchers=self.trackers.stage(stage, watched),
            )
        self.model = trained.model.eval()
        if stage < len(checked.skills):
            self.base_weights = {**trained.before, **self.base_weights}
        self.changed = list(dict.fromkeys([*self.changed, *trained.changed]))
        adapt = plan.adapt
        self.structure = adapt.structure() if adapt is not None else self.structure
        with telling(self.place):
            self._save(folder, {"trained_parameters": trained.trained})
            if stage < len(checked.skills):
                changed, seed = tuple(trained.changed), self.run.config.seed
                ended = Ended(stage, seed, self.model, changed, examples, examples.collate, earlier)
                carrying.keep(plan, ended, folder if self.here.first else None)
                self.here.wait()
        self.run.finish_stage(
            stage,
            {
                "skill": skill.label,
                "steps": trained.steps,
                "seconds": round(trained.seconds, 3),
                "trained_parameters": trained.trained,
                "changed_parameters": sum(
                    p.numel() for n, p in self.model.named_parameters() if n in set(self.changed)
                ),
            },
        )
        self.progress.say(f"  {trained.steps} steps in {trained.seconds:.0f} s")

    def _save(self, folder: Path, facts: Mapping[str, Any]) -> None:
        if not self.here.first:
            return
        save_delta(
            folder,
            self.model,
            self.changed,
            base=self.checked.base.name,
            base_folder=self.checked.folder,
            base_hash=self.base_hash,
            structure=self.structure,
            facts=facts,
        )

    # Scores

    def score(self, stage: int) -> None:
        """Ask everything that was not asked yet after this stage."""
        left = self._left(stage)
        if not left:
            return
        label = "before the first stage" if stage == 0 else f"after stage {stage}"
        asked = [t for _, t in self._tasks() if t.name in left]
        self._about_to_ask(asked, label)

        def keep(result: TaskResult) -> None:
            self.run.record(stage, left[result.task], result)
            rest = asked[[t.name for t in asked].index(result.task) + 1 :]
            self._about_to_ask(rest, label)

        with telling(self.place):
            self._ask(asked, keep)
        self.trackers.scored(stage, self.model)
        rows = self.run.scores(stage)
        for role in ("target", "held-out"):
            mine = [r["score"] for r in rows if r["role"] == role]
            if mine:
                self.progress.say(f"  {role} mean {label}: {sum(mine) / len(mine):.1f}")

    def _ask(self, tasks: Sequence[Task], keep: Callable[[TaskResult], None]) -> None:
        """Each process asks every so-manieth task, and the first keeps the answers in order."""
        model, processor = self.model, self.checked.processor
        size = self.run.config.evaluate.batch_size
        if self.here.size == 1:
            evaluate(
                model, processor, tasks, batch_size=size, progress=self.progress, on_result=keep
            )
            return
        for begin in range(0, len(tasks), self.here.size):
            mine = tasks[begin : begin + self.here.size][self.here.rank : self.here.rank + 1]
            found = evaluate(model, processor, mine, batch_size=size, progress=self.progress)
            for result in (r for theirs in self.here.gather(found) for r in theirs):
                keep(result)

    def _tasks(self) -> list[tuple[Role, Task]]:
        tasks: list[tuple[Role, Task]] = [("target", s.task) for s in self.checked.skills]
        return tasks + [("held-out", t) for t in self.checked.held_out]

    def _left(self, stage: int) -> dict[str, Role]:
        """The tasks that are still to be asked after a stage."""
        return self.here.agree(self._unanswered(stage) if self.here.first else {})

    def _unanswered(self, stage: int) -> dict[str, Role]:
        have, faults = self.run.kept(stage)
        for fault in faults:
            self.progress.say(f"{fault}; it is asked again")
        tasks = self._tasks()
        if stage == 0 and self.known is not None:
            have |= self._take_over(tasks, have)
        return {t.name: role for role, t in tasks if t.name not in have}

    def _about_to_ask(self, tasks: Sequence[Task], label: str) -> None:
        if tasks:
            self.place.work = f"the asking of '{tasks[0].name}' {label}"

    def _take_over(self, tasks: Sequence[tuple[Role, Task]], have: set[str]) -> set[str]:
        assert self.known is not None
        other = Run.read(self.known)
        scored = {r["task"]: r for r in other.scores(0)}
        taken = set()
        for role, task in tasks:
            if task.name in have or task.name not in scored:
                continue
            answers = other.answers(0, task.name)
            if [a.id for a in answers] != [e.id for e in task.examples]:
                continue
            seconds = scored[task.name]["seconds"]
            self.run.record(0, role, TaskResult(task.name, tuple(answers), seconds))
            taken.add(task.name)
        return taken

    # The end

    def _publish(self, last: int) -> None:
        """The last stage's weights become the run's model; adapters of all stages go along."""
        out = self.run.model
        self.place.work = "the writing of the model"
        with telling(self.place):
            self._save(out, {"stages": [s.label for s in self.checked.skills]})
            for stage in range(1, last + 1) if self.here.first else ():
                adapter = self.run.stage_folder(stage) / "adapter"
                if adapter.is_dir():
                    shutil.copytree(adapter, out / "adapters" / f"{stage:02d}", dirs_exist_ok=True)

    def _facts(self) -> dict[str, Any]:
        return provenance(self.run, self.checked, self.base_hash, self.device)
