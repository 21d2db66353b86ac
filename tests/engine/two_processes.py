"""What each of two processes does in test_many_processes.py: python two_processes.py OUT CASES."""

import os
import sys
import time
from pathlib import Path

import torch
from engine_tools import llama, phi3, train, values
from transformers import GPT2Config, GPT2LMHeadModel, TrainerCallback

from holdfast.engine import stage as stage_module
from holdfast.engine.world import world
from holdfast.pieces import sharding


def gpt2():
    torch.manual_seed(0)
    off = {f"{part}_pdrop": 0.0 for part in ("attn", "resid", "embd")}
    shape = {"vocab_size": 64, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}
    return GPT2LMHeadModel(GPT2Config(**shape, **off, bos_token_id=0, eos_token_id=0)).eval()


CASES = {
    "full": (llama, ["full"]),
    "gate-up": (llama, ["gate-up"]),
    "rows": (phi3, ["train:select=language.attn.q"]),
    "columns": (gpt2, ["train:select=language.attn.v"]),
    "lora": (llama, ["lora:rank=2"]),
    "lwf": (llama, ["full", "lwf:weight=0.5", "wise-ft:alpha=0.3"]),
}


class Stop(BaseException):
    pass


class Cut(TrainerCallback):
    """Ends training at step 5, as a kill would."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 5:
            raise Stop


class Kinds(TrainerCallback):
    """Notes of what kind the trained weights are while they train."""

    def __init__(self):
        self.spread = None

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.spread = any(sharding.spread(p) for p in model.parameters())


def with_callback(callback):
    real = stage_module.Watch
    both = type("W", (real, type(callback)), {"on_step_end": type(callback).on_step_end})

    def make(*arguments):
        made = both(*arguments)
        made.__dict__.update({k: v for k, v in vars(callback).items() if k not in vars(made)})
        watchers.append(made)
        return made

    stage_module.Watch = make
    return real


watchers = []


def run(name, folder):
    """Loss curve, weights, and whether they were spread."""
    make, methods = CASES[name]
    notes = []
    real = with_callback(Kinds())
    trained = train(make(), methods, folder, note=notes.append, weight_decay=0.3, steps=4)
    stage_module.Watch = real
    return {"notes": notes, "values": values(trained.model), "spread": watchers[-1].spread}


def resumed(folder):
    """The same as one that was not cut, of a plan with rows that stay and a reference."""
    settings = {"weight_decay": 0.3, "steps": 6, "save_every": 2}
    methods = ["train:select=language.attn.q", "lwf:weight=0.5"]
    whole = train(phi3(), methods, folder / "whole", **settings)
    real = with_callback(Cut())
    try:
        train(phi3(), methods, folder / "cut", **settings)
    except Stop:
        stage_module.Watch = real
    again = train(phi3(), methods, folder / "cut", **settings)
    return {"notes": [], "values": values(whole.model), "again": values(again.model)}


def main(out, cases):
    torch.set_num_threads(1)
    here = world()
    for name in cases:
        began = time.perf_counter()
        found = resumed(out / name) if name == "resumed" else run(name, out / name)
        if here.first:
            torch.save(found, out / f"{name}.pt")
            print(name, f"{time.perf_counter() - began:.1f} s", flush=True)
    here.wait()
    if os.environ.get("FAIL_ON") == str(here.rank):
        with here.together():
            raise RuntimeError("on purpose")
    if "FAIL_ON" in os.environ:
        here.wait()  # for one that never comes


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2].split(","))
