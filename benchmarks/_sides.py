"""The two sides of a training comparison: Holdfast's stage, and what a user runs today."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from benchmarks._steps import Gate, Steps, through

ROUNDS = 49
"""More steps than any comparison takes; a side is closed when it has been timed. So few that
a stage, which logs fifty times, logs every step."""
RATE = 1e-5


@dataclass
class Side:
    """A trainer that waits at every step, and the model that it trains."""

    steps: Steps
    model: nn.Module
    losses: list[float]
    """As the trainer logs them: ours every so often, the baselines' at the first step."""
    optimizer: Any = None
    """Known after :func:`benchmarks._steps.first_step`."""

    @property
    def trained(self) -> int:
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)


Collate = Callable[[list[Any]], Mapping[str, Tensor]]


def pad(rows: list[Any]) -> dict[str, Tensor]:
    """Holdfast's own collator, with the reference model's pad token."""
    from holdfast.data import collate

    return collate(rows, pad_id=0)


def ours(
    model: nn.Module,
    rows: Sequence[Any],
    methods: Sequence[str],
    *,
    batch: int,
    collate: Collate = pad,
    steps: int = ROUNDS,
    cache: str = "off",
    **train: Any,
) -> Side:
    """A stage of ``holdfast tune``.

    Args:
        steps: at least as many as will be timed; every loss is logged up to :data:`ROUNDS`.
        cache: ``off``, so that every step does all its work, or ``auto``, ``tune``'s default.
        train: other fields of :class:`holdfast.config.Train`.
    """
    from holdfast.config import Train
    from holdfast.engine.stage import train_stage
    from holdfast.methods import plan

    losses: list[float] = []
    settings = {"learning_rate": RATE, "precision": "fp32", "cache": cache, **train}

    def start(gate: Gate) -> None:
        with tempfile.TemporaryDirectory() as folder:
            train_stage(
                plan(list(methods)),
                model,
                rows,
                collate,
                Train(batch_size=batch, steps=steps, save_every=10 * steps, **settings),
                folder=Path(folder) / "checkpoints",
                seed=0,
                base_weights={},
                advance=lambda done, total: gate(),
                note=lambda row: losses.append(row["loss"]),
            )

    return Side(Steps(start), model, losses)


def trainer(
    model: nn.Module,
    rows: Sequence[Any],
    *,
    batch: int,
    collate: Collate = pad,
    steps: int = ROUNDS,
    **more: Any,
) -> Side:
    """transformers' ``Trainer`` with its defaults, on whatever requires grad in ``model``.

    ``more``: fields of ``TrainingArguments``.
    """
    from transformers import Trainer, TrainingArguments

    folder = tempfile.TemporaryDirectory()
    losses: list[float] = []
    model.train()

    def make() -> Any:
        made = Trainer(
            model=model,
            args=TrainingArguments(**_common(folder.name, batch, steps) | more),
            data_collator=collate,
            train_dataset=list(rows),
        )
        return _logged(made, losses)

    return _kept(Side(through(make), model, losses), folder)


def sft(
    model: nn.Module,
    rows: Any,
    processor: Any,
    *,
    batch: int,
    tuned: bool,
    steps: int = ROUNDS,
    **more: Any,
) -> Side:
    """TRL's ``SFTTrainer``.

    Args:
        steps: at least as many as will be timed.
        rows: encoded records, or a ``datasets.Dataset`` for TRL to encode.
        tuned: without gradient checkpointing, which a model that fits does not need; TRL's
            defaults otherwise. Fused AdamW and the tiled head are its defaults already.
        more: fields of ``SFTConfig``, and ``peft_config``.
    """
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    folder = tempfile.TemporaryDirectory()
    losses: list[float] = []
    peft = more.pop("peft_config", None)
    settings = _common(folder.name, batch, steps) | {"max_length": None} | more
    if not isinstance(rows, Dataset):
        columns = ("input_ids", "labels")
        rows = Dataset.from_list([{k: r[k].tolist() for k in columns} for r in rows])
        settings["dataset_kwargs"] = {"skip_prepare_dataset": True}
    if tuned:
        settings["gradient_checkpointing"] = False
    side = Side(through(lambda: None), model, losses)

    def make() -> Any:
        made = SFTTrainer(
            model=model,
            args=SFTConfig(**settings),
            train_dataset=rows,
            processing_class=processor,
            peft_config=peft,
        )
        side.model = made.model
        return _logged(made, losses)

    side.steps = through(make)
    return _kept(side, folder)


def freeze_but(model: nn.Module, selector: str) -> nn.Module:
    """``requires_grad`` where a recipe trains and nowhere else, as a careful user sets it."""
    from holdfast.anatomy import select

    select(model, selector).apply(model)
    return model


def _common(folder: str, batch: int, steps: int = ROUNDS) -> dict[str, Any]:
    """What both baselines are told: the same step, no bfloat16, no files."""
    return {
        "output_dir": folder,
        "per_device_train_batch_size": batch,
        "max_steps": steps,
        "learning_rate": RATE,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 2,
        "bf16": False,
        "use_cpu": True,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "logging_first_step": True,
        "seed": 0,
    }


def _logged(made: Any, losses: list[float]) -> Any:
    from transformers import PrinterCallback, TrainerCallback

    class Keep(TrainerCallback):  # type: ignore[misc]
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kw: Any) -> None:
            if "loss" in logs:
                losses.append(float(logs["loss"]))

    made.pop_callback(PrinterCallback)
    made.add_callback(Keep())
    return made


def _kept(side: Side, folder: Any) -> Side:
    side.__dict__["_folder"] = folder  # lives as long as the side
    return side
