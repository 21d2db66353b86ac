"""Large models with random weights on one GPU: recipes side by side with TRL's trainer.

    python -m benchmarks --gpu           # needs a CUDA device; writes docs/results/speed-gpu.md
    python -m benchmarks --gpu --quick   # tiny shapes of the same families, on any device

Equal settings first (same micro-batch, no checkpointing), then each side at the largest
micro-batch that fits. Every side runs in a process of its own, so that memory is its own;
CUDA events take the time, static shapes, :data:`WARM_UP` steps thrown away.
"""

from __future__ import annotations

import json
import multiprocessing
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

WARM_UP, TIMED = 10, 30
LENGTH = 2048
SUPERVISED = 0.3
LARGEST = 16
"""Micro-batches are tried up to this, doubling."""
RECIPES = {"full": "full:vision_lr_scale=1", "sa-proj": "sa-proj", "gate-up": "gate-up",
           "last-4": "last-4"}  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One side at one setting."""

    shape: str
    side: str
    """``ours`` or ``TRL``."""
    recipe: str
    micro: int
    checkpointing: bool
    quick: bool


@dataclass(frozen=True)
class Measured:
    job: Job
    seconds: float | None
    """Median of a step; None: it did not fit."""
    peak: float | None
    """GiB, without what the driver takes."""
    tokens: int
    """Tokens of a step."""
    why: str = ""


def make(shape: str, quick: bool) -> nn.Module:
    """A model of the shape, in bfloat16 on the device, with random weights."""
    from transformers import (
        LlamaConfig,
        LlamaForCausalLM,
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
    )

    small = {
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 256,
    }  # fmt: skip
    sight = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2,
             "fullatt_block_indexes": [1]}  # fmt: skip
    with torch.device(_device()):
        torch.set_default_dtype(torch.float32 if _device() == "cpu" else torch.bfloat16)
        try:
            if shape == "Llama-3-8B":
                return LlamaForCausalLM(LlamaConfig(**(small if quick else LLAMA_3_8B)))
            text = small if quick else QWEN_TEXT[shape]
            half = text["hidden_size"] // text["num_attention_heads"] // 2
            sections = [half - 2 * (3 * half // 8), 3 * half // 8, 3 * half // 8]
            rope = {"rope_type": "default", "mrope_section": sections, "rope_theta": 1e6}
            vision = (sight if quick else QWEN_VISION) | {"out_hidden_size": text["hidden_size"]}
            ids = _special(text["vocab_size"])
            config = Qwen2_5_VLConfig(
                text_config={**text, "rope_parameters": rope}, vision_config=vision, **ids
            )
            return Qwen2_5_VLForConditionalGeneration(config)
        finally:
            torch.set_default_dtype(torch.float32)


LLAMA_3_8B = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
}  # fmt: skip
QWEN_VISION = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16}
QWEN_TEXT: dict[str, dict[str, Any]] = {
    "Qwen2.5-VL-3B": {
        "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
        "num_attention_heads": 16, "num_key_value_heads": 2, "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    "Qwen2.5-VL-7B": {
        "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064,
    },
}  # fmt: skip
SHAPES = (*QWEN_TEXT, "Llama-3-8B")


def _special(vocabulary: int) -> dict[str, int]:
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    return {name: vocabulary - 1 - i for i, name in enumerate(names)}


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def rows(job: Job, vocabulary: int) -> list[dict[str, torch.Tensor]]:
    """One micro-batch of random text, its end supervised."""
    from benchmarks._models import Shape, token_rows

    length = 32 if job.quick else LENGTH
    shape = Shape(vocabulary=vocabulary - 8, length=length)
    return token_rows(job.micro, shape, supervised=SUPERVISED)


def measure(job: Job) -> Measured:
    """Run one side. What does not fit is an answer, not an error."""
    warm_up, timed = (1, 3) if job.quick else (WARM_UP, TIMED)
    tokens = job.micro * (32 if job.quick else LENGTH)
    try:
        model = make(job.shape, job.quick)
        side = _side(job, model, rows(job, _vocabulary(model)))
        for _ in range(warm_up):
            side.steps()
        seconds = median(_timed(side.steps) for _ in range(timed))
        side.steps.close()
    except RuntimeError as error:
        cause = error.__cause__ or error
        if not isinstance(cause, torch.OutOfMemoryError) and "out of memory" not in str(cause):
            raise
        return Measured(job, None, None, tokens, "does not fit")
    peak = torch.cuda.max_memory_allocated() / 2**30 if _device() == "cuda" else None
    return Measured(job, seconds, peak, tokens)


def _vocabulary(model: Any) -> int:
    return int(model.config.get_text_config().vocab_size)


def _timed(step: Any) -> float:
    """Seconds of one step on the device; by the processor's clock where there is no GPU."""
    if _device() == "cpu":
        import time

        began = time.process_time()
        step()
        return time.process_time() - began
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    before.record()
    step()
    after.record()
    torch.cuda.synchronize()
    return float(before.elapsed_time(after)) / 1000


def _side(job: Job, model: nn.Module, encoded: list[Any]) -> Any:
    from benchmarks._sides import freeze_but, ours, sft
    from holdfast import lab
    from holdfast.models.loading import load_processor

    gpu = _device() == "cuda"
    steps = 2 * (WARM_UP + TIMED)
    if job.side == "ours":
        return ours(
            model, encoded, [RECIPES[job.recipe]], batch=job.micro, steps=steps,
            precision="bf16" if gpu else "fp32", gradient_checkpointing=job.checkpointing,
        )  # fmt: skip
    if gpu:  # float32 masters of what trains, as ours keeps them
        for parameter in freeze_but(model, job.recipe).parameters():
            parameter.data = parameter.data.float() if parameter.requires_grad else parameter.data
    processor = load_processor(lab.path("lab:lm"))
    return sft(
        freeze_but(model, job.recipe), encoded, processor, batch=job.micro, steps=steps,
        tuned=not job.checkpointing, bf16=gpu, use_cpu=not gpu,
    )  # fmt: skip


def _apart(job: Job) -> Measured:
    """In a fresh process, so that memory is this side's alone; tiny shapes in this one."""
    if job.quick:
        return measure(job)
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(measure, (job,))


def best(shape: str, side: str, recipe: str, quick: bool) -> Measured | None:
    """The fastest per token over micro-batches that fit, with and without checkpointing."""
    found: list[Measured] = []
    for checkpointing in (False, True):
        micro = 1
        while micro <= (2 if quick else LARGEST):
            done = _apart(Job(shape, side, recipe, micro, checkpointing, quick))
            if done.seconds is None:
                break
            found.append(done)
            micro *= 2
    return min(found, key=lambda m: (m.seconds or 0) / m.tokens, default=None)


def main(out: Path, quick: bool = False) -> int:
    """All shapes, and the page; with ``quick`` the page goes to the terminal."""
    if _device() == "cpu" and not quick:
        print("error: no CUDA device is here; --quick runs the same path on tiny shapes.")
        return 2
    lines = [f"# Speed on a GPU\n\n{_machine()}\n", "| model | recipe | setting | " +
             "ours tokens/s | TRL tokens/s | ratio of times | ours GiB | TRL GiB |",
             "|---|---|---|---:|---:|---:|---:|---:|"]  # fmt: skip
    kept: list[dict[str, Any]] = []
    for shape in SHAPES:
        for recipe in ("sa-proj",) if quick else RECIPES:
            same = [_apart(Job(shape, s, recipe, 1, False, quick)) for s in ("ours", "TRL")]
            fits = [best(shape, s, recipe, quick) for s in ("ours", "TRL")]
            for label, pair in (("equal", same), ("each at its best", fits)):
                lines.append(_line(shape, recipe, label, pair))
                kept += [asdict(m) for m in pair if m is not None]
                print(lines[-1], flush=True)  # a run that is cut off has shown its lines
    if quick:
        return 0
    out.write_text("\n".join(lines) + "\n")
    out.with_suffix(".json").write_text(json.dumps(kept, indent=1))
    return 0


def _line(shape: str, recipe: str, label: str, pair: list[Any]) -> str:
    cells = [shape, recipe, label]
    rates = [m.tokens / m.seconds if m is not None and m.seconds else None for m in pair]
    cells += [f"{r:.0f}" if r else "does not fit" for r in rates]
    cells.append(f"{rates[1] / rates[0]:.3f}" if all(rates) else "")
    cells += [f"{m.peak:.1f}" if m is not None and m.peak is not None else "" for m in pair]
    return "| " + " | ".join(cells) + " |"


def _machine() -> str:
    from benchmarks._page import machine

    asked = "name,driver_version,clocks.sm,clocks.mem,power.limit,temperature.gpu"
    try:
        told = subprocess.run(
            ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"],
            capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        told = "no GPU"
    return f"- {asked}: {told}\n{machine(None, 1)}"
