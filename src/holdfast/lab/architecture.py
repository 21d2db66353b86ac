"""The two models' shapes: a LLaVA and a Llama, small enough for a laptop's processor.

The head is not tied to the embedding, as in the 7B models of the paper: tuning one is then
not tuning the other, and both can be selected.
"""

from __future__ import annotations

from typing import Any

from holdfast.lab.canvas import SIDE

PATCH = 8
_TEXT = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": False,
    "rope_theta": 10000.0,
    "initializer_range": 0.06,
    "dtype": "float32",
}
_VISION = {
    "hidden_size": 96,
    "intermediate_size": 384,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "image_size": SIDE,
    "patch_size": PATCH,
    "projection_dim": 96,
}


def text_config(tokenizer: Any) -> Any:
    """A ``LlamaConfig`` for ``tokenizer``."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=len(tokenizer),
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **_TEXT,
    )


def make_model(which: str, tokenizer: Any) -> Any:
    """``vlm``: ``LlavaForConditionalGeneration``; ``lm``: ``LlamaForCausalLM``. Random weights."""
    from transformers import (
        CLIPVisionConfig,
        LlamaForCausalLM,
        LlavaConfig,
        LlavaForConditionalGeneration,
    )

    if which == "lm":
        return LlamaForCausalLM(text_config(tokenizer))
    return LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=CLIPVisionConfig(**_VISION),
            text_config=text_config(tokenizer),
            image_token_index=tokenizer.convert_tokens_to_ids(tokenizer.image_token),
            vision_feature_layer=-1,
            vision_feature_select_strategy="default",
            image_seq_length=(SIDE // PATCH) ** 2,
            tie_word_embeddings=False,
            dtype="float32",
        )
    )


def make_processor(which: str, tokenizer: Any) -> Any:
    """``vlm``: a ``LlavaProcessor`` that scales any image to 48x48; ``lm``: the tokenizer."""
    if which == "lm":
        return tokenizer
    from transformers import LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    size = {"height": SIDE, "width": SIDE}
    images = CLIPImageProcessorPil(
        size=size,
        do_center_crop=False,
        crop_size=size,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template,
    )
