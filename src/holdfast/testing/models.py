"""Tiny random models of real architectures, each with a batch that it can be trained on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

IMAGE = 49
_TEXT = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}


@dataclass(frozen=True)
class Tiny:
    """A model and one batch of two sequences for it."""

    model: nn.Module
    batch: dict[str, Tensor]
    """``input_ids``, ``attention_mask``, ``labels`` [2, T], and ``pixel_values`` if it sees."""

    def rows(self) -> list[dict[str, Tensor]]:
        """The batch as a data set of single examples."""
        return [{k: v[i] for k, v in self.batch.items()} for i in range(2)]


def tiny_llama(seed: int = 0) -> Tiny:
    """A Llama of two blocks and width 16, untied; the second half of each row is supervised."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**_TEXT))
    return Tiny(model.eval(), _batch(torch.randint(3, IMAGE, (2, 12))))


def tiny_llava(seed: int = 0) -> Tiny:
    """A LLaVA whose CLIP tower reuses the language model's leaf names (``q_proj`` ...)."""
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
    )

    torch.manual_seed(seed)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**_VISION),
        text_config=LlamaConfig(**_TEXT),
        image_token_id=IMAGE,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
    )
    model = LlavaForConditionalGeneration(config)
    patches = (_VISION["image_size"] // _VISION["patch_size"]) ** 2
    ids = torch.randint(3, IMAGE, (2, 12))
    ids[:, 1 : 1 + patches] = IMAGE
    return Tiny(model.eval(), _batch(ids) | {"pixel_values": torch.randn(2, 3, 8, 8)})


def _batch(ids: Tensor) -> dict[str, Tensor]:
    labels = ids.clone()
    labels[:, : ids.shape[1] // 2] = -100
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
