"""Train one stage of a run: a plan, a model, encoded examples."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import SequentialSampler
from transformers import PrinterCallback, TrainerCallback, TrainingArguments

from holdfast.anatomy import select
from holdfast.config import Train
from holdfast.engine import memory
from holdfast.engine.bound import Bound
from holdfast.engine.calibrating import calibrate
from holdfast.engine.carrying import load_running_state, running_state
from holdfast.engine.checkpoints import LeaveInOrder, Seal, newest_step
from holdfast.engine.drawn import Drawn
from holdfast.engine.feeding import Collate, Passes, Schedule, Sources, schedule
from holdfast.engine.packing import packs, rows_apart
from holdfast.engine.spread import SpreadTrainer, devices
from holdfast.engine.stops import Losses, Place, telling
from holdfast.engine.world import world
from holdfast.plan import Plan
from holdfast.progress import Advance

RUNNING = "running.safetensors"
"""In a checkpoint: what the plan's pieces have gathered in this stage."""


class StageTrainer(SpreadTrainer):
    """Trainer under a plan whose checkpoints hold only what trains."""

    gather_loss = True
    reads_feed = True

    def __init__(
        self,
        *args: Any,
        plan: Plan,
        base_weights: Mapping[str, Tensor],
        losses: Losses,
        **kw: Any,
    ) -> None:
        self.losses = losses
        self.plan = plan  # type: ignore[misc]
        self.base_weights = base_weights  # type: ignore[misc]
        super().__init__(*args, **kw)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return SequentialSampler(train_dataset if train_dataset is not None else self.train_dataset)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        loss = super().training_step(*args, **kwargs)
        self.losses.note(self.state.global_step + 1, loss)
        return loss

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        self.losses.place.step = self.state.global_step
        self.losses.check_weights(state_dict)
        super()._save(output_dir, state_dict)
        running = running_state(self.plan)
        if running:
            save_file(running, Path(output_dir or self.args.output_dir) / RUNNING)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        file = Path(resume_from_checkpoint) / RUNNING
        if file.exists():
            load_running_state(self.plan, load_file(file))


class Watch(TrainerCallback):  # type: ignore[misc]
    """Shows progress, keeps the loss curve, and knows at which step the stage is."""

    def __init__(
        self,
        advance: Advance,
        note: Callable[[dict[str, Any]], None],
        place: Place,
        losses: Losses,
    ) -> None:
        self.advance, self.note, self.place, self.losses = advance, note, place, losses

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._at_next(state)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._at_next(state)

    def _at_next(self, state: Any) -> None:
        self.place.step = min(state.global_step + 1, state.max_steps)
        self.place.steps = state.max_steps

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._at_next(state)
        self.advance(state.global_step, state.max_steps)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" not in logs:
            return
        self.losses.check()
        self.note({"step": state.global_step, **logs})


@dataclass(frozen=True)
class Trained:
    """A trained and settled stage."""

    model: nn.Module
    changed: list[str]
    """Names, in ``model``, of the weights that may differ from the start of the stage."""
    trained: int
    """How many numbers the optimizer moved."""
    seconds: float
    steps: int
    before: dict[str, Tensor]
    """Values on the CPU, at the start of the stage, of what it was the first to change; only
    for a plan that looks back to the base."""


def needs_base(plan: Plan) -> bool:
    """Whether a plan compares with, or goes back to, the model at the start of the run."""
    asked = {getattr(t, a, None) for t in plan.learn for a in ("reference", "consults")}
    return bool(plan.settle) or "base" in asked


def train_stage(
    plan: Plan,
    model: nn.Module,
    examples: Sequence[Any],
    collate: Callable[[list[Any]], Any],
    train: Train,
    *,
    folder: Path,
    seed: int,
    base_weights: Mapping[str, Tensor],
    advance: Advance,
    note: Callable[[dict[str, Any]], None],
    adapter_folder: Path | None = None,
    place: Place | None = None,
    sources: Mapping[str, Sequence[Any]] | None = None,
    watchers: Sequence[TrainerCallback] = (),
) -> Trained:
    """Train, settle, and say what changed.

    Args:
        examples: encoded records (:class:`holdfast.data.Encoder`), indexable.
        folder: where checkpoints go; a whole one that is there is resumed.
        seed: of the order, the adapter's initial values and dropout.
        base_weights: values at the start of the run of weights that earlier stages changed.
        advance, note: told of every step and of every logged loss.
        adapter_folder: where an adapter is saved in its own format.
        place: what is said if the stage has to stop, and the signals that stop it.
        sources: further encoded records by name, for a plan whose feed reads them.
        watchers: told of the trainer's events, such as a
            :class:`holdfast.engine.continual.ContinualEvaluation`, and the run's trackers.

    Raises:
        ConfigError: the plan's feed, the sources and the settings do not go together.
        UsageError: packing was asked for and would change what the model reads.
        RunError: the loss is not a number, a checkpoint cannot be written or is another run's,
            memory ran out. It names the step, its examples and the way on.
        Interrupted: a signal came; the checkpoint of the step that it met is saved.
    """
    place = place or Place("training")
    losses = Losses(place)
    device = next(model.parameters()).device
    dtypes = {n: p.dtype for n, p in model.named_parameters()}
    packed = rows_apart(plan, train) and packs(train, model, examples, collate)
    read = Sources(examples, sources)
    planned = schedule(plan, read, train, seed=seed, device=device.type, packed=packed)
    steps = len(planned.steps)
    twice = _twice(train, plan, model, planned, device)
    if twice and train.gradient_checkpointing == "auto":
        place.say("activations would not fit into memory: they are computed twice")
    arguments = _arguments(train, planned, seed, folder, device, twice)
    calibrate(plan, model, read, collate, seed)
    seal = Seal({"plan": plan.name, "seed": seed, "steps": steps}, place.say)
    trainer = StageTrainer(
        model=model,
        args=arguments,
        plan=plan,
        base_weights=base_weights,
        losses=losses,
        data_collator=Collate(collate),
        train_dataset=Passes(planned),
        callbacks=[
            seal,
            Watch(advance, note, place, losses),
            LeaveInOrder(place.signals),
            *watchers,
        ],
    )
    place.rows = lambda step: [read.name(draw) for draw in planned.steps[step - 1]]
    place.micro_batch = planned.largest
    place.saved = lambda: newest_step(folder)
    trainer.adapter_folder, trainer.packed = adapter_folder, packed
    trainer.drawn = Drawn(planned, collate, device)
    trainer.cache, trainer.cache_limit = train.cache, int(train.cache_gib * 2**30)
    trainer.pop_callback(PrinterCallback)
    bound = trainer.bound
    trained, trainable = bound.count, [bound.original.get(n, n) for n in bound.trainable]
    before = _values(bound, base_weights) if needs_base(plan) else {}
    if arguments.bf16:
        for parameter in bound.parameters().values():
            parameter.data = parameter.data.float()
    with telling(place):
        here = world()
        resumed = here.agree(seal.latest(folder) if here.first else None)
        with place.signals.held():
            trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
        losses.check()
        place.step = 0
        settled = trainer.model if plan.settle else bound.detach(adapter_folder)
    _restore(settled, dtypes)
    names = {n for n, _ in settled.named_parameters()}
    changed = [n for n in dict.fromkeys([*bound.touched, *trainable]) if n in names]
    return Trained(settled, changed, trained, seal.seconds, steps, before)


def _values(bound: Bound, known: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the stage may change, as it is now, by the names it had before the adapter came."""
    wanted = {*bound.touched, *(bound.original.get(n, n) for n in bound.trainable)} - set(known)
    return {
        original: parameter.detach().to("cpu", copy=True)
        for name, parameter in bound.model.named_parameters()
        if (original := bound.original.get(name)) in wanted
    }


def _arguments(
    train: Train, planned: Schedule, seed: int, folder: Path, device: torch.device, twice: bool
) -> TrainingArguments:
    steps = len(planned.steps)
    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=1,  # an item of the data set is a whole pass
        gradient_accumulation_steps=planned.passes,
        max_steps=steps,
        learning_rate=train.learning_rate,
        lr_scheduler_type=train.schedule,
        warmup_steps=math.ceil(train.warmup * steps),
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        **(_CHECKPOINTED if twice else {}),
        bf16=_half(train, device),
        seed=seed,
        data_seed=seed,
        save_strategy="steps",
        save_steps=train.save_every or max(1, math.ceil(steps / 10)),
        save_total_limit=2,
        logging_steps=max(1, steps // 50),
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to="none",  # see trackers.py: they are the run's, not a stage's
        remove_unused_columns=False,
        dataloader_pin_memory=device.type == "cuda",
        **devices(device),
    )


_CHECKPOINTED: dict[str, Any] = {
    "gradient_checkpointing": True,
    "gradient_checkpointing_kwargs": {"use_reentrant": False},
}
"""The kind that needs no gradient at the embeddings, so that the backward pass can stop early."""


def _half(train: Train, device: torch.device) -> bool:
    """Whether the arithmetic is in bfloat16."""
    return train.precision == "bf16" or (train.precision == "auto" and device.type == "cuda")


def _twice(
    train: Train, plan: Plan, model: nn.Module, planned: Schedule, device: torch.device
) -> bool:
    """Whether activations are computed twice: as told, or because they would not fit."""
    if train.gradient_checkpointing != "auto":
        return train.gradient_checkpointing
    trained = sum(p.numel() for p in model.parameters()) if plan.train is not None else 0
    if isinstance(plan.train, str):
        trained = select(model, plan.train).count
    half = _half(train, device)
    return memory.is_short(model.config, trained, planned.widest, device, half=half)


def _restore(model: nn.Module, dtypes: Mapping[str, torch.dtype]) -> None:
    """Give trained weights the dtype that the model had before the stage."""
    for name, parameter in model.named_parameters():
        wanted = dtypes.get(name)
        if wanted is not None and parameter.dtype != wanted:
            parameter.data = parameter.data.to(wanted)
        parameter.requires_grad_(False)
