"""Tiny random models, one of every family, built from configurations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as t

torch.set_num_threads(1)

TEXT: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
HEAD = {"head_dim": 4}
MOE = {"num_experts_per_tok": 2, "moe_intermediate_size": 12}
NEOX = {k: v for k, v in TEXT.items() if k != "num_key_value_heads"}
GPT = {
    "vocab_size": 40,
    "n_embd": 16,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
MROPE = {"rope_type": "default", "mrope_section": [1, 1, 0], "rope_theta": 10000.0}


def _clip_vision() -> t.PretrainedConfig:
    return t.CLIPVisionConfig(**VISION)


def _siglip_vision() -> t.PretrainedConfig:
    return t.SiglipVisionConfig(**VISION)


def _llava(vision: t.PretrainedConfig, text: t.PretrainedConfig, kind: type, **more: Any) -> Any:
    return kind(vision_config=vision, text_config=text, image_token_id=39, **more)


def _qwen_vl(prefix: str, vision: dict[str, Any], text: dict[str, Any]) -> t.PretrainedConfig:
    rope = {"rope_parameters": MROPE | {"mrope_section": [1, 1, 0]}}
    kind = getattr(t, f"{prefix}Config")
    return kind(
        vision_config=vision,
        text_config=TEXT | HEAD | rope | text,
        image_token_id=39,
        video_token_id=38,
        vision_start_token_id=37,
        vision_end_token_id=36,
    )


QWEN_VISION = {"depth": 2, "num_heads": 2, "patch_size": 4, "spatial_merge_size": 2}

CONFIGS: dict[str, Callable[[], t.PretrainedConfig]] = {
    "llama": lambda: t.LlamaConfig(**TEXT),
    "llama-biased": lambda: t.LlamaConfig(**TEXT, attention_bias=True, mlp_bias=True),
    "mistral": lambda: t.MistralConfig(**TEXT),
    "qwen2": lambda: t.Qwen2Config(**TEXT),
    "qwen2-tied": lambda: t.Qwen2Config(**TEXT, tie_word_embeddings=True),
    "qwen3": lambda: t.Qwen3Config(**TEXT, **HEAD),
    "gemma": lambda: t.GemmaConfig(**TEXT, **HEAD),
    "gemma2": lambda: t.Gemma2Config(**TEXT, **HEAD),
    "gemma3_text": lambda: t.Gemma3TextConfig(**TEXT, **HEAD),
    "olmo": lambda: t.OlmoConfig(**TEXT),
    "olmo2": lambda: t.Olmo2Config(**TEXT),
    "phi": lambda: t.PhiConfig(**TEXT),
    "phi3": lambda: t.Phi3Config(**TEXT),
    "stablelm": lambda: t.StableLmConfig(**TEXT, qk_layernorm=True),
    "stablelm-parallel": lambda: t.StableLmConfig(**TEXT, use_parallel_residual=True),
    "cohere": lambda: t.CohereConfig(**TEXT),
    "granite": lambda: t.GraniteConfig(**TEXT),
    "starcoder2": lambda: t.Starcoder2Config(**TEXT),
    "glm4": lambda: t.Glm4Config(**TEXT, **HEAD),
    "gpt2": lambda: t.GPT2Config(**GPT),
    "gpt2-untied": lambda: t.GPT2Config(**GPT, tie_word_embeddings=False),
    "gptj": lambda: t.GPTJConfig(**GPT, rotary_dim=4),
    "codegen": lambda: t.CodeGenConfig(**GPT, rotary_dim=4),
    "gpt_bigcode": lambda: t.GPTBigCodeConfig(**GPT),
    "gpt_bigcode-heads": lambda: t.GPTBigCodeConfig(**GPT, multi_query=False),
    "gpt_neox": lambda: t.GPTNeoXConfig(**NEOX),
    "gpt_neox-serial": lambda: t.GPTNeoXConfig(**NEOX, use_parallel_residual=False),
    "falcon": lambda: t.FalconConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=3, num_attention_heads=4
    ),
    "falcon-new": lambda: t.FalconConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_kv_heads=2,
        new_decoder_architecture=True,
    ),
    "bloom": lambda: t.BloomConfig(vocab_size=40, hidden_size=16, n_layer=3, n_head=4),
    "opt": lambda: t.OPTConfig(
        vocab_size=40,
        hidden_size=16,
        ffn_dim=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        word_embed_proj_dim=8,
        do_layer_norm_before=True,
    ),
    "mixtral": lambda: t.MixtralConfig(**TEXT, num_local_experts=4, num_experts_per_tok=2),
    "qwen2_moe": lambda: t.Qwen2MoeConfig(
        **TEXT, **MOE, num_experts=4, shared_expert_intermediate_size=20
    ),
    "qwen3_moe": lambda: t.Qwen3MoeConfig(**TEXT, **HEAD, **MOE, num_experts=4),
    "qwen3_moe-mixed": lambda: t.Qwen3MoeConfig(
        **TEXT, **HEAD, **MOE, num_experts=4, mlp_only_layers=[0]
    ),
    "olmoe": lambda: t.OlmoeConfig(**TEXT, num_experts=4, num_experts_per_tok=2),
    "gpt_oss": lambda: t.GptOssConfig(**TEXT, **HEAD, num_local_experts=4, num_experts_per_tok=2),
    "llava": lambda: _llava(_clip_vision(), t.LlamaConfig(**TEXT), t.LlavaConfig),
    "llava-phi3-pixtral": lambda: _llava(
        t.PixtralVisionConfig(**VISION),
        t.Phi3Config(**TEXT),
        t.LlavaConfig,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    ),
    "llava-gpt_neox": lambda: _llava(_siglip_vision(), t.GPTNeoXConfig(**NEOX), t.LlavaConfig),
    "llava_next": lambda: _llava(_clip_vision(), t.MistralConfig(**TEXT), t.LlavaNextConfig),
    "llava_onevision": lambda: _llava(
        _siglip_vision(), t.Qwen2Config(**TEXT), t.LlavaOnevisionConfig
    ),
    "paligemma": lambda: _llava(
        t.SiglipVisionConfig(**VISION, projection_dim=16),
        t.GemmaConfig(**TEXT, **HEAD),
        t.PaliGemmaConfig,
        projection_dim=16,
    ),
    "gemma3": lambda: _llava(
        _siglip_vision(), t.Gemma3TextConfig(**TEXT, **HEAD), t.Gemma3Config, mm_tokens_per_image=4
    ),
    "mistral3": lambda: _llava(
        t.PixtralVisionConfig(**VISION), t.MistralConfig(**TEXT), t.Mistral3Config
    ),
    "internvl": lambda: _llava(
        t.InternVLVisionConfig(**VISION | {"image_size": [16, 16], "patch_size": [8, 8]}),
        t.Qwen2Config(**TEXT),
        t.InternVLConfig,
    ),
    "idefics3": lambda: t.Idefics3Config(
        vision_config=VISION, text_config=t.LlamaConfig(**TEXT), scale_factor=2, image_token_id=39
    ),
    "smolvlm": lambda: t.SmolVLMConfig(
        vision_config=VISION, text_config=t.LlamaConfig(**TEXT), scale_factor=2, image_token_id=39
    ),
    "qwen2_vl": lambda: _qwen_vl(
        "Qwen2VL", QWEN_VISION | {"embed_dim": 16, "hidden_size": 16, "mlp_ratio": 2}, {}
    ),
    "qwen2_5_vl": lambda: _qwen_vl(
        "Qwen2_5_VL",
        QWEN_VISION | {"hidden_size": 16, "out_hidden_size": 16, "intermediate_size": 20},
        {},
    ),
    "qwen3_vl": lambda: _qwen_vl(
        "Qwen3VL",
        QWEN_VISION
        | {"hidden_size": 16, "out_hidden_size": 16, "intermediate_size": 20}
        | {"deepstack_visual_indexes": [0], "num_position_embeddings": 16},
        {},
    ),
    "qwen3_vl_moe": lambda: _qwen_vl(
        "Qwen3VLMoe",
        QWEN_VISION
        | {"hidden_size": 16, "out_hidden_size": 16, "intermediate_size": 20}
        | {"deepstack_visual_indexes": [0], "num_position_embeddings": 16},
        MOE | {"num_experts": 4},
    ),
    "clip": lambda: t.CLIPConfig(text_config=CLIP_TEXT, vision_config=VISION, projection_dim=8),
    "siglip": lambda: t.SiglipConfig(text_config=CLIP_TEXT, vision_config=VISION),
    "clip_vision_model": _clip_vision,
    "siglip_vision_model": _siglip_vision,
    "vit": lambda: t.ViTConfig(**VISION),
    "dinov2": lambda: t.Dinov2Config(**VISION, mlp_ratio=2),
    "dinov2-gated": lambda: t.Dinov2Config(**VISION, mlp_ratio=2, use_swiglu_ffn=True),
    "resnet": lambda: t.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[2, 1], layer_type="basic"
    ),
    "resnet-bottleneck": lambda: t.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[2, 1], layer_type="bottleneck"
    ),
}
CLIP_TEXT = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

_AUTO = (
    t.AutoModelForImageTextToText,
    t.AutoModelForCausalLM,
    t.AutoModelForImageClassification,
    t.AutoModel,
)


def build(name: str, device: str = "meta") -> torch.nn.Module:
    """A model of the family, with random weights or on the meta device."""
    config = CONFIGS[name]()
    auto = t.AutoModel if name in ("clip", "siglip") else None
    for maker in (auto,) if auto else _AUTO:
        if type(config) in maker._model_mapping:
            torch.manual_seed(0)
            with torch.device(device):
                return maker.from_config(config, attn_implementation="eager").eval()
    raise AssertionError(name)
