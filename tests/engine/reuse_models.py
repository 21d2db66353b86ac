"""Tiny models of several families, each with two batches of the same rows in another order."""

import torch
from engine_tools import SHAPE, collate, examples, gemma2, llama, phi3
from transformers import (
    CLIPVisionConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from holdfast.testing.models import tiny_llava

IMAGE = 63
VISION = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "image_size": 8, "patch_size": 4,
}  # fmt: skip


def gpt2(seed=0):
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64, embd_pdrop=0.0,
        attn_pdrop=0.0, resid_pdrop=0.0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return GPT2LMHeadModel(config).eval()


def qwen2(seed=0):
    torch.manual_seed(seed)
    return Qwen2ForCausalLM(Qwen2Config(**SHAPE, tie_word_embeddings=False)).eval()


def text_batch(order=range(5)):
    rows = examples(5)
    return collate([rows[i] for i in order])


def llava(seed=0):
    return tiny_llava(seed).model


def llava_batch(order=(0, 1)):
    batch = tiny_llava().batch
    return {k: v[list(order)] for k, v in batch.items()}


def llava_next(seed=0):
    torch.manual_seed(seed)
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**VISION), text_config=LlamaConfig(**SHAPE),
        image_token_id=IMAGE, vision_feature_layer=-1, image_grid_pinpoints=[[8, 16], [16, 8]],
    )  # fmt: skip
    return LlavaNextForConditionalGeneration(config).eval()


def llava_next_batch(order=(0, 1)):
    """Images of 8x16 and 5x16: the base and two tiles each, unpadded to 8+2 and 4+... rows."""
    g = torch.Generator().manual_seed(0)
    sizes = [(8, 16), (16, 8)]
    tokens = [4 + 2 * 5, 4 + 4 * 3]
    rows = []
    for size, n in zip(sizes, tokens, strict=True):
        ids = torch.randint(3, IMAGE, (n + 8,), generator=g)
        ids[1 : 1 + n] = IMAGE
        labels = ids.clone()
        labels[: n + 3] = -100
        pixels = torch.randn(1, 3, 3, 8, 8, generator=g)
        rows.append({"ids": ids, "labels": labels, "pixels": pixels, "size": torch.tensor([size])})
    rows = [rows[i] for i in order]
    batch = collate(
        [
            {"input_ids": r["ids"], "labels": r["labels"], "attention_mask": r["ids"] * 0 + 1}
            for r in rows
        ]
    )
    return batch | {
        "pixel_values": torch.cat([r["pixels"] for r in rows]),
        "image_sizes": torch.cat([r["size"] for r in rows]),
    }


def qwen_vl(seed=0):
    torch.manual_seed(seed)
    text = {**SHAPE, "rope_scaling": {"type": "default", "mrope_section": [1, 1, 2]}}
    config = Qwen2_5_VLConfig(
        text_config={**text, "rope_parameters": {
            "rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}},
        vision_config={
            "depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2,
            "out_hidden_size": 32, "patch_size": 2, "spatial_merge_size": 2,
            "temporal_patch_size": 2, "window_size": 8, "fullatt_block_indexes": [1],
        },
        image_token_id=IMAGE, video_token_id=62, vision_start_token_id=61, vision_end_token_id=60,
    )  # fmt: skip
    return Qwen2_5_VLForConditionalGeneration(config).eval()


def qwen_vl_batch(order=(0, 1)):
    g = torch.Generator().manual_seed(0)
    rows = []
    for grid in ([1, 4, 4], [1, 4, 8]):
        n = grid[1] * grid[2] // 4
        ids = torch.randint(3, 60, (n + 9,), generator=g)
        ids[1], ids[2 : 2 + n], ids[2 + n] = 61, IMAGE, 60
        labels = ids.clone()
        labels[: n + 4] = -100
        pixels = torch.randn(grid[1] * grid[2], 3 * 2 * 2 * 2, generator=g)
        rows.append((ids, labels, pixels, torch.tensor([grid])))
    rows = [rows[i] for i in order]
    batch = collate(
        [{"input_ids": i, "labels": x, "attention_mask": i * 0 + 1} for i, x, _, _ in rows]
    )
    return batch | {
        "mm_token_type_ids": (batch["input_ids"] == IMAGE).int(),
        "pixel_values": torch.cat([r[2] for r in rows]),
        "image_grid_thw": torch.cat([r[3] for r in rows]),
    }


TEXT = {"llama": llama, "gemma2": gemma2, "phi3": phi3, "gpt2": gpt2, "qwen2": qwen2}
SEES = {
    "llava": (llava, llava_batch),
    "llava-next": (llava_next, llava_next_batch),
    "qwen2.5-vl": (qwen_vl, qwen_vl_batch),
}
