"""Train one stage of a run: a plan, a model, encoded examples."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, SequentialSampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from holdfast.config import Train
from holdfast.engine.bound import Bound
from holdfast.engine.checkpoints import Seal, latest
from holdfast.engine.mixin import PlanMixin
from holdfast.errors import RunError
from holdfast.plan import Plan
from holdfast.progress import Advance
from holdfast.runs.files import explain, failed_write

MODEL_FILE = "model.safetensors"


def step_count(train: Train, examples: int) -> int:
    """Optimizer steps of a stage; an epoch leaves out an incomplete last batch, if it can."""
    if train.steps is not None:
        return train.steps
    return max(1, math.floor(train.epochs * examples / train.batch_size))


def draws(examples: int, count: int, seed: int) -> list[int]:
    """The first ``count`` indices of an endless run of shuffled epochs. Pure and seeded."""
    order: list[int] = []
    generator = torch.Generator().manual_seed(seed)
    while len(order) < count:
        order += torch.randperm(examples, generator=generator).tolist()
    return order[:count]


class Ordered(Dataset[Any]):
    """Examples in a given order: what makes a run resumable in the middle."""

    def __init__(self, examples: Sequence[Any], order: Sequence[int]) -> None:
        self.examples, self.order = examples, order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> Any:
        return self.examples[self.order[index]]


class StageTrainer(PlanMixin, Trainer):  # type: ignore[misc]
    """Trainer under a plan whose checkpoints hold only what trains."""

    gather_loss = True

    def __init__(
        self, *args: Any, plan: Plan, base_weights: Mapping[str, Tensor], **kw: Any
    ) -> None:
        self.plan = plan  # type: ignore[misc]
        self.base_weights = base_weights  # type: ignore[misc]
        super().__init__(*args, **kw)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return SequentialSampler(train_dataset if train_dataset is not None else self.train_dataset)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        from safetensors.torch import save_file

        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        values = {n: p.detach().cpu().contiguous() for n, p in self.bound.parameters().items()}
        save_file(values, folder / MODEL_FILE, metadata={"format": "pt"})

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        from safetensors.torch import load_file

        values = load_file(Path(resume_from_checkpoint) / MODEL_FILE)
        parameters = self.bound.parameters()
        assert values.keys() == parameters.keys(), "the checkpoint is of another plan"
        with torch.no_grad():
            for name, value in values.items():
                parameters[name].copy_(value)


class Watch(TrainerCallback):  # type: ignore[misc]
    """Shows progress, keeps the loss curve, and stops a run whose loss is not a number."""

    def __init__(self, advance: Advance, note: Callable[[dict[str, Any]], None]) -> None:
        self.advance, self.note = advance, note

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.advance(state.global_step, state.max_steps)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            raise RunError(
                f"the loss became {logs['loss']} by step {state.global_step}. The last good "
                "checkpoint is kept; a lower learning rate or a longer warm-up usually helps "
                "(--set train.learning_rate=..., --set train.warmup=...)."
            )
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
    return bool(plan.settle) or any(getattr(t, "reference", None) == "base" for t in plan.learn)


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
) -> Trained:
    """Train, settle, and say what changed.

    Args:
        examples: encoded records (:class:`holdfast.data.Encoder`), indexable.
        folder: where checkpoints go; a whole one that is there is resumed.
        seed: of the order, the adapter's initial values and dropout.
        base_weights: values at the start of the run of weights that earlier stages changed.
        advance, note: told of every step and of every logged loss.
        adapter_folder: where an adapter is saved in its own format.

    Raises:
        RunError: the loss is not a number, or a checkpoint cannot be written.
    """
    steps = step_count(train, len(examples))
    device = next(model.parameters()).device
    dtypes = {n: p.dtype for n, p in model.named_parameters()}
    arguments = _arguments(train, steps, seed, folder, device)
    trainer = StageTrainer(
        model=model,
        args=arguments,
        plan=plan,
        base_weights=base_weights,
        data_collator=collate,
        train_dataset=Ordered(examples, draws(len(examples), steps * train.batch_size, seed)),
        callbacks=[Seal(), Watch(advance, note)],
    )
    trainer.adapter_folder = adapter_folder
    trainer.pop_callback(PrinterCallback)
    bound = trainer.bound
    trained, trainable = bound.count, [bound.original.get(n, n) for n in bound.trainable]
    before = _values(bound, base_weights) if needs_base(plan) else {}
    if arguments.bf16:
        for parameter in bound.parameters().values():
            parameter.data = parameter.data.float()
    resumed = latest(folder)
    began = time.perf_counter()
    try:
        trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
        settled = trainer.model if plan.settle else bound.detach(adapter_folder)
    except Exception as error:
        if (failed := failed_write(error)) is None:
            raise
        raise RunError(explain(failed, folder)) from error
    _restore(settled, dtypes)
    names = {n for n, _ in settled.named_parameters()}
    changed = [n for n in dict.fromkeys([*bound.touched, *trainable]) if n in names]
    return Trained(settled, changed, trained, time.perf_counter() - began, steps, before)


def _values(bound: Bound, known: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the stage may change, as it is now, by the names it had before the adapter came."""
    wanted = {*bound.touched, *(bound.original.get(n, n) for n in bound.trainable)} - set(known)
    return {
        original: parameter.detach().to("cpu", copy=True)
        for name, parameter in bound.model.named_parameters()
        if (original := bound.original.get(name)) in wanted
    }


def _arguments(
    train: Train, steps: int, seed: int, folder: Path, device: torch.device
) -> TrainingArguments:
    world = int(os.environ.get("WORLD_SIZE", "1"))
    micro = train.micro_batch_size or max(1, train.batch_size // world)
    bf16 = train.precision == "bf16" or (train.precision == "auto" and device.type == "cuda")
    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=max(1, train.batch_size // (micro * world)),
        max_steps=steps,
        learning_rate=train.learning_rate,
        lr_scheduler_type=train.schedule,
        warmup_steps=math.ceil(train.warmup * steps),
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        **({"gradient_checkpointing": True} if train.gradient_checkpointing else {}),
        bf16=bf16,
        seed=seed,
        data_seed=seed,
        save_strategy="steps",
        save_steps=train.save_every or max(1, math.ceil(steps / 10)),
        save_total_limit=2,
        logging_steps=max(1, steps // 50),
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to="none",
        remove_unused_columns=False,
        dataloader_pin_memory=device.type == "cuda",
        use_cpu=device.type == "cpu",
    )


def _restore(model: nn.Module, dtypes: Mapping[str, torch.dtype]) -> None:
    """Give trained weights the dtype that the model had before the stage."""
    for name, parameter in model.named_parameters():
        wanted = dtypes.get(name)
        if wanted is not None and parameter.dtype != wanted:
            parameter.data = parameter.data.to(wanted)
        parameter.requires_grad_(False)
