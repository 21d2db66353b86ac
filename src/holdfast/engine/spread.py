"""A trainer whose checkpoints are those of one process, however the weights are spread.

What trains is saved whole, with the optimizer's state whole beside it, so that a run can go on
with another number of processes. Under DeepSpeed the checkpoint is DeepSpeed's own.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from holdfast.engine.mixin import PlanMixin
from holdfast.pieces.sharding import full, gathered_state, scattered_state, write

MODEL_FILE = "model.safetensors"


class SpreadTrainer(PlanMixin, Trainer):  # type: ignore[misc]
    """Trainer under a plan, in one process or many, that saves and loads what trains."""

    def create_accelerator_and_postprocess(self) -> None:
        """Accelerate leaves FSDP out where the devices are CPUs, and says nothing."""
        super().create_accelerator_and_postprocess()
        from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

        state = self.accelerator.state
        wanted = os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
        if wanted and state.distributed_type == DistributedType.MULTI_CPU:
            state.fsdp_plugin = FullyShardedDataParallelPlugin()
            if state.mixed_precision != "no":
                state.fsdp_plugin.set_mixed_precision(state.mixed_precision)
            state.distributed_type = DistributedType.FSDP
            self.is_fsdp_enabled = True

    def train(self, *args: Any, **kwargs: Any) -> Any:
        plugin = getattr(self.accelerator.state, "fsdp_plugin", None)
        if plugin is not None and plugin.transformer_cls_names_to_wrap is None:
            plugin.transformer_cls_names_to_wrap = units(self.model)
        return super().train(*args, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """What trains, whole; all processes gather it and the first writes it."""
        values = {n: full(p) for n, p in self.bound.parameters().items()}
        if self.args.should_save:
            self._save(output_dir, state_dict=values)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        from safetensors.torch import save_file

        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        values = {n: v.cpu().contiguous() for n, v in state_dict.items()}
        save_file(values, folder / MODEL_FILE, metadata={"format": "pt"})

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        from safetensors.torch import load_file

        values = load_file(Path(resume_from_checkpoint) / MODEL_FILE)
        parameters = self.bound.parameters()
        assert values.keys() == parameters.keys(), "the checkpoint is of another plan"
        for name, value in values.items():
            write(parameters[name], value)

    def _prepare_for_training(
        self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None
    ) -> Any:
        """DeepSpeed's checkpoint has no frozen weights in it, and is laid over those there are."""
        ours = self.is_deepspeed_enabled and resume_from_checkpoint is not None
        prepared = super()._prepare_for_training(
            max_steps, train_dataloader, None if ours else resume_from_checkpoint
        )
        if ours:
            engine: Any = self.model_wrapped
            engine.load_checkpoint(resume_from_checkpoint, load_module_strict=False)
            self._load_optimizer_and_scheduler(resume_from_checkpoint)
        return prepared

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            super()._save_optimizer_and_scheduler(output_dir)
            return
        if self.is_deepspeed_enabled:
            engine: Any = self.model_wrapped
            engine.save_checkpoint(output_dir, exclude_frozen_parameters=True)
        else:
            state = gathered_state(self.optimizer.optimizer)
        if self.args.should_save:
            if self.is_fsdp_enabled:
                torch.save(state, Path(output_dir) / OPTIMIZER_NAME)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not self.is_fsdp_enabled or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        state = torch.load(Path(checkpoint) / OPTIMIZER_NAME, map_location="cpu", weights_only=True)
        optimizer = self.optimizer.optimizer
        optimizer.load_state_dict(scattered_state(optimizer, state))
        schedule = torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True)
        self.lr_scheduler.load_state_dict(schedule)


def units(model: nn.Module) -> list[str]:
    """Classes of the modules that FSDP gathers one at a time: the model's blocks.

    Of those that the model names as its own; accelerate gives up at one that is not in it.
    """
    present = {type(module).__name__ for module in model.modules()}
    return sorted(present & set(getattr(model, "_no_split_modules", None) or ()))


def devices(device: torch.device) -> dict[str, Any]:
    """The training arguments about devices."""
    cpu = device.type == "cpu"
    zero = os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true"
    if cpu and zero:  # accelerate has DeepSpeed on CPUs only where it was not told of them
        os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
        return {"use_cpu": False, "ddp_backend": "gloo"}
    return {"use_cpu": cpu}
