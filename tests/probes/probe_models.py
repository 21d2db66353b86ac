"""Tiny models, prompts and planted changes that every probe is tried on."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "tasks"))

import torch
from task_models import asking, image, make_llama, make_llava, make_llava_processor, make_tokenizer
from torch import nn

from holdfast.data import Record, say

COLOURS = ((200, 30, 30), (30, 200, 30), (30, 30, 200))
QUESTIONS = ("what is the colour of this bird", "yes or no", "A B C")
ANSWERS = ("red", "yes seven", "green blue. fourteen")


def text_pair() -> tuple[Any, Any, list[Record]]:
    """A Llama, its tokenizer, and three answered prompts."""
    tokenizer = make_tokenizer(chat=True)
    return make_llama(len(tokenizer)).eval(), tokenizer, _answered([asking(q) for q in QUESTIONS])


def image_pair() -> tuple[Any, Any, list[Record]]:
    """A LLaVA, its processor, and three answered prompts with a picture each."""
    tokenizer = make_tokenizer(chat=True)
    prompts = [asking(q, images=(image(c),)) for q, c in zip(QUESTIONS, COLOURS, strict=True)]
    return make_llava(tokenizer).eval(), make_llava_processor(tokenizer), _answered(prompts)


def _answered(prompts: list[Record]) -> list[Record]:
    return [
        Record((*p.messages, say("assistant", a)), p.images, id=f"q{i}")
        for i, (p, a) in enumerate(zip(prompts, ANSWERS, strict=True))
    ]


PAIRS = {"llama": text_pair, "llava": image_pair}


def noisy(model: nn.Module, scale: float = 0.1, seed: int = 1) -> Any:
    """A copy with noise on every weight."""
    torch.manual_seed(seed)
    tuned = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.add_(scale * parameter.std().nan_to_num(0.1) * torch.randn_like(parameter))
    return tuned


class OffsetHead(nn.Linear):
    """A head with a bias: the model's logits with an offset on some tokens."""

    def __init__(self, head: nn.Linear, ids: list[int], offset: float) -> None:
        super().__init__(head.in_features, head.out_features, bias=True)
        with torch.no_grad():
            self.weight.copy_(head.weight)
            self.bias.zero_()
            self.bias[ids] = offset


def with_offset(model: Any, ids: list[int], offset: float) -> Any:
    """A copy of the model whose logits have ``offset`` added on ``ids`` and nothing else."""
    tuned = copy.deepcopy(model)
    tuned.set_output_embeddings(OffsetHead(tuned.get_output_embeddings(), ids, offset))
    return tuned
