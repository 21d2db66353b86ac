"""Every model family that Holdfast knows: one row each.

``LAYOUTS`` has a row for each kind of tower (a stack of like blocks), ``COMPOSITES`` one for
each way of putting towers together. A multimodal model is named by both: the composite says
where its towers are, the tower's own ``config.model_type`` says which layout it has.
Leaf names are those of ``transformers`` 5.
"""

from __future__ import annotations

from holdfast.anatomy.layouts import (
    Composite,
    Fused,
    Layout,
    Leaf,
    alternating,
    attention,
    bigcode,
    codegen,
    experts,
    falcon,
    fused,
    gated,
    grouped,
    halves,
    norms,
    per_head,
    plain,
    thirds,
)

HEADS = ("lm_head", "embed_out", "score", "classifier", "qa_outputs")
"""Direct children of a model that turn its last hidden states into scores."""

WRAPPERS = (
    "",
    "model",
    "transformer",
    "gpt_neox",
    "decoder",
    "model.decoder",
    "vision_model",
    "text_model",
    "vit",
    "deit",
    "dinov2",
    "resnet",
)
"""Attributes under which the module that holds the blocks may sit in a model with a head."""

_OUTER: dict[str, Leaf] = {"embed_tokens": "embed", "norm": "norm"}
_GPT_OUTER: dict[str, Leaf] = {"wte": "embed", "wpe": "embed", "ln_f": "norm"}
_PRE = norms("input_layernorm", "post_attention_layernorm")
_QKV = attention("self_attn")
_QK_NORM: dict[str, Leaf] = {"self_attn.q_norm": "norm@q", "self_attn.k_norm": "norm@k"}
_LLAMA = _QKV | gated("mlp") | _PRE
_SANDWICH: dict[str, Leaf] = {
    "input_layernorm": "norm@attn.in",
    "post_attention_layernorm": "norm@attn.out",
    "pre_feedforward_layernorm": "norm@mlp.in",
    "post_feedforward_layernorm": "norm@mlp.out",
}
_POST: dict[str, Leaf] = {
    "post_attention_layernorm": "norm@attn.out",
    "post_feedforward_layernorm": "norm@mlp.out",
}
_MOE = experts("mlp.experts") | {"mlp.gate": "router"}
_SHARED = gated("mlp.shared_expert") | {"mlp.shared_expert_gate": "router"}
_GELU_HALVES: dict[str, Leaf] = {"mlp.gate_up_proj": Fused(halves), "mlp.down_proj": "mlp.down"}
_LN: dict[str, Leaf] = {"ln_1": "norm@attn.in", "ln_2": "norm@mlp.in"}
_VIT_OUTER: dict[str, Leaf] = {"embeddings.**": "embed", "layernorm": "norm", "pooler.**": "head"}
_CLIP_BLOCK = (
    attention("self_attn", "out_proj")
    | plain("mlp.fc1", "mlp.fc2")
    | norms("layer_norm1", "layer_norm2")
)
_CLIP_OUTER: dict[str, Leaf] = {
    "embeddings.**": "embed",
    "pre_layrnorm": "norm@embed",
    "post_layernorm": "norm",
    "final_layer_norm": "norm",
    "head.**": "head",
}
_QWEN_VISION = norms("norm1", "norm2") | fused("attn.qkv", thirds, "attn.proj")
_QWEN_OUTER: dict[str, Leaf] = {"patch_embed.**": "embed", "pos_embed": "embed"}

LAYOUTS: tuple[Layout, ...] = (
    Layout(
        "llama mistral ministral ministral3 qwen2 qwen2_vl_text qwen2_5_vl_text gemma granite "
        "stablelm smollm3 helium olmo seed_oss arcee internlm3 cwm ernie4_5 jais2",
        ("layers",),
        _LLAMA
        | _QK_NORM
        | {"self_attn.q_layernorm.**": "norm@q", "self_attn.k_layernorm.**": "norm@k"}
        | plain("mlp.up_proj", "mlp.down_proj"),
        _OUTER,
        parallel="use_parallel_residual",
    ),
    Layout("qwen3 qwen3_vl_text", ("layers",), _LLAMA | _QK_NORM, _OUTER),
    Layout("cohere cohere2", ("layers",), _LLAMA | _QK_NORM, _OUTER, parallel=True),
    Layout(
        "gemma2 gemma3_text vaultgemma",
        ("layers",),
        _QKV | gated("mlp") | _QK_NORM | _SANDWICH,
        _OUTER,
    ),
    Layout("olmo2 olmo3 exaone4", ("layers",), _QKV | gated("mlp") | _QK_NORM | _POST, _OUTER),
    Layout(
        "phi3",
        ("layers",),
        _GELU_HALVES | _PRE | fused("self_attn.qkv_proj", grouped, "self_attn.o_proj"),
        _OUTER,
    ),
    Layout("glm", ("layers",), _QKV | _GELU_HALVES | _PRE, _OUTER),
    Layout(
        "glm4",
        ("layers",),
        _QKV
        | _GELU_HALVES
        | norms("input_layernorm", "post_attention_layernorm")
        | {"post_self_attn_layernorm": "norm@attn.out", "post_mlp_layernorm": "norm@mlp.out"},
        _OUTER,
    ),
    Layout(
        "phi",
        ("layers",),
        attention("self_attn", "dense")
        | plain("mlp.fc1", "mlp.fc2")
        | norms("input_layernorm")
        | {"self_attn.q_layernorm": "norm@q", "self_attn.k_layernorm": "norm@k"},
        {"embed_tokens": "embed", "final_layernorm": "norm"},
        parallel=True,
    ),
    Layout(
        "starcoder2",
        ("layers",),
        _QKV | plain("mlp.c_fc", "mlp.c_proj") | _PRE,
        _OUTER,
    ),
    Layout(
        "mixtral qwen3_moe qwen3_vl_moe_text olmoe minimax_m2",
        ("layers",),
        _LLAMA | _QK_NORM | _MOE,
        _OUTER,
    ),
    Layout("qwen2_moe", ("layers",), _LLAMA | _MOE | _SHARED, _OUTER),
    Layout(
        "granitemoe",
        ("layers",),
        _QKV | _PRE | experts("block_sparse_moe.experts") | {"block_sparse_moe.router": "router"},
        _OUTER,
    ),
    Layout(
        "gpt_oss",
        ("layers",),
        _QKV
        | _PRE
        | experts("mlp.experts", alternating)
        | {"mlp.router": "router", "self_attn.sinks": "sink"},
        _OUTER,
    ),
    Layout(
        "gpt2",
        ("h",),
        _LN | fused("attn.c_attn", thirds, "attn.c_proj") | plain("mlp.c_fc", "mlp.c_proj"),
        _GPT_OUTER,
    ),
    Layout(
        "decision_transformer",
        ("encoder.h",),
        _LN | fused("attn.c_attn", thirds, "attn.c_proj") | plain("mlp.c_fc", "mlp.c_proj"),
        {
            "encoder.wte": "embed",
            "encoder.wpe": "embed",
            "encoder.ln_f": "norm",
            "embed_timestep": "embed",
            "embed_return": "embed",
            "embed_state": "embed",
            "embed_action": "embed",
            "embed_ln": "norm@embed",
            "predict_state.**": "head",
            "predict_action.**": "head",
            "predict_return.**": "head",
        },
    ),
    Layout(
        "gpt_bigcode",
        ("h",),
        _LN | fused("attn.c_attn", bigcode, "attn.c_proj") | plain("mlp.c_fc", "mlp.c_proj"),
        _GPT_OUTER,
    ),
    Layout(
        "gpt_neo",
        ("h",),
        _LN | attention("attn.attention", "out_proj") | plain("mlp.c_fc", "mlp.c_proj"),
        _GPT_OUTER,
    ),
    Layout(
        "gptj",
        ("h",),
        norms("ln_1") | attention("attn", "out_proj") | plain("mlp.fc_in", "mlp.fc_out"),
        _GPT_OUTER,
        parallel=True,
    ),
    Layout(
        "codegen",
        ("h",),
        norms("ln_1")
        | fused("attn.qkv_proj", codegen, "attn.out_proj")
        | plain("mlp.fc_in", "mlp.fc_out"),
        _GPT_OUTER,
        parallel=True,
    ),
    Layout(
        "gpt_neox",
        ("layers",),
        fused("attention.query_key_value", per_head, "attention.dense")
        | plain("mlp.dense_h_to_4h", "mlp.dense_4h_to_h")
        | _PRE,
        {"embed_in": "embed", "final_layer_norm": "norm"},
        parallel="use_parallel_residual",
    ),
    Layout(
        "persimmon",
        ("layers",),
        fused("self_attn.query_key_value", per_head, "self_attn.dense")
        | {"self_attn.q_layernorm": "norm@q", "self_attn.k_layernorm": "norm@k"}
        | plain("mlp.dense_h_to_4h", "mlp.dense_4h_to_h")
        | _PRE,
        {"embed_tokens": "embed", "final_layernorm": "norm"},
    ),
    Layout(
        "falcon",
        ("h",),
        fused("self_attention.query_key_value", falcon, "self_attention.dense")
        | plain("mlp.dense_h_to_4h", "mlp.dense_4h_to_h")
        | _PRE
        | norms("ln_attn", "ln_mlp"),
        {"word_embeddings": "embed", "ln_f": "norm"},
        parallel="parallel_attn",
    ),
    Layout(
        "bloom",
        ("h",),
        fused("self_attention.query_key_value", per_head, "self_attention.dense")
        | plain("mlp.dense_h_to_4h", "mlp.dense_4h_to_h")
        | _PRE,
        {"word_embeddings": "embed", "word_embeddings_layernorm": "norm@embed", "ln_f": "norm"},
    ),
    Layout(
        "opt",
        ("layers",),
        attention("self_attn", "out_proj")
        | plain("fc1", "fc2")
        | norms("self_attn_layer_norm", "final_layer_norm"),
        {"embed_tokens": "embed", "embed_positions": "embed", "final_layer_norm": "norm"}
        | {"project_in": "embed.proj", "project_out": "head.proj"},
    ),
    Layout(
        "clip_text_model siglip_text_model siglip2_text_model",
        ("encoder.layers",),
        _CLIP_BLOCK,
        _CLIP_OUTER,
    ),
    Layout(
        "clip_vision_model siglip_vision_model siglip2_vision_model "
        "idefics2_vision idefics3_vision smolvlm_vision",
        ("encoder.layers",),
        _CLIP_BLOCK,
        _CLIP_OUTER,
        tower="vision",
    ),
    Layout(
        "vit deit",
        ("layers", "encoder.layer"),
        attention("attention")
        | plain("mlp.fc1", "mlp.fc2")
        | {f"attention.attention.{n}": f"attn.{n[0]}" for n in ("query", "key", "value")}
        | {"attention.output.dense": "attn.o"}
        | plain("intermediate.dense", "output.dense")
        | norms("layernorm_before", "layernorm_after"),
        _VIT_OUTER,
        tower="vision",
    ),
    Layout(
        "dinov2 dinov2_with_registers",
        ("encoder.layer",),
        attention("attention")
        | gated("mlp")
        | plain("mlp.fc1", "mlp.fc2")
        | {"mlp.weights_in": Fused(halves), "mlp.weights_out": "mlp.down"}
        | {f"attention.attention.{n}": f"attn.{n[0]}" for n in ("query", "key", "value")}
        | {"attention.output.dense": "attn.o"}
        | {"layer_scale1.lambda1": "norm@attn.out", "layer_scale2.lambda1": "norm@mlp.out"}
        | norms("norm1", "norm2"),
        _VIT_OUTER,
        tower="vision",
    ),
    Layout(
        "internvl_vision",
        ("encoder.layer",),
        attention("attention", "projection_layer")
        | {"attention.q_norm": "norm@q", "attention.k_norm": "norm@k"}
        | {"lambda_1": "norm@attn.out", "lambda_2": "norm@mlp.out"}
        | plain("mlp.fc1", "mlp.fc2")
        | norms("layernorm_before", "layernorm_after"),
        _VIT_OUTER,
        tower="vision",
    ),
    Layout(
        "pixtral",
        ("transformer.layers",),
        attention("attention") | gated("feed_forward") | norms("attention_norm", "ffn_norm"),
        {"patch_conv": "embed", "ln_pre": "norm@embed"},
        tower="vision",
    ),
    Layout(
        "qwen2_vl_vision qwen2_5_vl_vision qwen3_vl_vision qwen3_vl_moe_vision",
        ("blocks",),
        _QWEN_VISION
        | gated("mlp")
        | plain("mlp.fc1", "mlp.fc2")
        | plain("mlp.linear_fc1", "mlp.linear_fc2"),
        _QWEN_OUTER,
        tower="vision",
        projector=("merger", "deepstack_merger_list"),
    ),
    Layout(
        "resnet",
        ("encoder.stages.*.layers",),
        {
            "layer.*.convolution": "conv",
            "shortcut.convolution": "conv",
            "layer.*.normalization": "norm",
            "shortcut.normalization": "norm",
        },
        {"embedder.embedder.convolution": "embed", "embedder.embedder.normalization": "norm@embed"},
        tower="vision",
    ),
)

_NEWLINE = {
    "image_newline": (
        "newline",
        "the separator after each row of image patches; no published recipe trains it",
    )
}

COMPOSITES: tuple[Composite, ...] = (
    Composite("llava vipllava paligemma internvl gemma3 mistral3 aya_vision"),
    Composite("llava_next llava_onevision llava_next_video", loose=_NEWLINE),
    Composite("qwen2_vl qwen2_5_vl qwen3_vl qwen3_vl_moe", ("visual",), projector=()),
    Composite("idefics3 smolvlm", ("vision_model",), ("text_model",), ("connector",)),
    Composite(
        "clip siglip siglip2",
        ("vision_model",),
        ("text_model",),
        ("visual_projection", "text_projection"),
        {
            "logit_scale": ("scale", "the temperature of the contrastive loss"),
            "logit_bias": ("scale", "the offset of the contrastive loss"),
        },
    ),
)
