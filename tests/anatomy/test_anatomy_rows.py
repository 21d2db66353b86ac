"""Rows of fused weights, checked by what the model's own forward pass does with them.

In causal attention the first position sees only itself, so its query changes nothing, its
key changes only later positions, and its value changes its own output. That tells the three
apart in every family, however its projections are stored.
"""

from __future__ import annotations

import pytest
import torch
from tiny_families import build

from holdfast.anatomy import RowMask, anatomy

CAUSAL = """llama qwen2 phi3 gpt2 gpt2-untied gptj codegen gpt_bigcode gpt_bigcode-heads gpt_neox
    gpt_neox-serial falcon falcon-new bloom opt phi mixtral olmo2"""
QWEN_VISION = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


def weight(found, tower, block, unit):
    """The only weight (not bias) of a unit in a block."""
    (part,) = (
        p for p in found.parts if (p.tower, p.block, p.unit, p.bias) == (tower, block, unit, False)
    )
    return part


def layer(model, part):
    return model.get_submodule(part.parameter.rpartition(".")[0])


def outputs_of(part, tensor):
    """Bool over the last dimension of a layer's output: the features that ``part`` computes."""
    width = tensor.shape[-1]
    if part.rows is None:
        return torch.ones(width, dtype=torch.bool)
    return RowMask((part.rows,)).mask(part.shape).flatten()


def attention_output(model, found, unit, run, change, tower="language"):
    """Input of block 0's output projection, while ``change`` edits the features of ``unit``."""
    seen = []

    def edit(module, args, out):
        out = out.clone()
        change(out, outputs_of(part, out))
        return out

    part = weight(found, tower, 0, unit)
    output = layer(model, weight(found, tower, 0, "attn.o"))
    hooks = [
        layer(model, part).register_forward_hook(edit),
        output.register_forward_pre_hook(lambda m, args: seen.append(args[0].detach().clone())),
    ]
    try:
        with torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return seen[0]


def at_first_position(out, features):
    out[:, 0, features] += 3.0


@pytest.mark.parametrize("name", CAUSAL.split())
def test_query_key_value_do_what_they_are_called(name):
    model = build(name, "cpu")
    found = anatomy(model)
    tokens = torch.arange(5, 12)[None]

    def changed(unit):
        plain = attention_output(model, found, unit, lambda: model(tokens), lambda o, f: None)
        edited = attention_output(model, found, unit, lambda: model(tokens), at_first_position)
        return (plain - edited).abs().flatten(2).amax(-1)[0] > 1e-7

    assert not changed("attn.q").any()
    key, value = changed("attn.k"), changed("attn.v")
    assert not key[0]
    assert key[1:].all()
    assert value.all()


@pytest.mark.parametrize("name", QWEN_VISION)
def test_vision_query_key_value(name):
    model = build(name, "cpu")
    found = anatomy(model)
    visual = model.model.visual
    grid = torch.tensor([[1, 4, 4]])
    features = visual.patch_embed.proj.weight[0].numel()
    pixels = torch.randn(16, features, generator=torch.Generator().manual_seed(0))

    def output(unit, change):
        return attention_output(
            model, found, unit, lambda: visual(pixels, grid_thw=grid), change, tower="vision"
        )

    def first(out, kept):
        out[0, kept] += 3.0

    def zero(out, kept):
        out[:, kept] = 0.0

    plain = output("attn.q", lambda o, f: None)
    moved = {u: (plain - output(f"attn.{u}", first)).abs().amax(-1) > 1e-7 for u in "qkv"}
    assert moved["q"].tolist() == [True] + [False] * 15
    assert moved["k"].sum() > 1
    assert moved["v"].sum() > 1
    assert (output("attn.v", zero) == 0).all()
    assert not (output("attn.k", zero) == 0).all()


@pytest.mark.parametrize("name", ["llama", "phi3", "glm4", "gemma2", "dinov2-gated"])
def test_gate_is_what_goes_through_the_nonlinearity(name):
    """A very negative gate closes the MLP; a very negative up does not."""
    model = build(name, "cpu")
    found = anatomy(model)
    tower = found.parts[0].tower
    seen = []

    def run(unit):
        part = weight(found, tower, 0, unit)

        def edit(module, args, out):
            out = out.clone()
            out[..., outputs_of(part, out)] = -1e4
            return out

        down = layer(model, weight(found, tower, 0, "mlp.down"))
        hooks = [
            layer(model, part).register_forward_hook(edit),
            down.register_forward_pre_hook(lambda m, args: seen.append(args[0].clone())),
        ]
        with torch.no_grad():
            model(torch.arange(5, 12)[None] if tower == "language" else torch.ones(1, 3, 16, 16))
        for hook in hooks:
            hook.remove()
        return seen.pop()

    assert run("mlp.gate").abs().max() < 1e-6
    assert run("mlp.up").abs().max() > 1.0


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "qwen2_moe", "olmoe", "gpt_oss"])
def test_packed_experts(name):
    """The same for experts packed in 3-D tensors: all gates closed gives zero output."""
    model = build(name, "cpu")
    found = anatomy(model)
    experts = next(m for n, m in model.named_modules() if n.endswith("mlp.experts"))
    x = torch.ones(3, 16)
    top, weights = torch.tensor([[0, 1], [2, 3], [1, 2]]), torch.full((3, 2), 0.5)

    def run(unit):
        with torch.no_grad():
            for parameter in experts.parameters():
                parameter.copy_(torch.rand(parameter.shape, generator=generator))
            for name, parameter in experts.named_parameters():
                if name.endswith("down_proj_bias"):
                    parameter.zero_()
            part = next(
                p for p in found.parts
                if p.unit == unit and p.block == 0 and ".experts." in p.parameter and not p.bias
            )  # fmt: skip
            mask = RowMask((part.rows,)).mask(part.shape)
            experts.gate_up_proj.masked_fill_(mask, -1e3)
            return experts(x, top, weights)

    generator = torch.Generator().manual_seed(0)
    assert run("mlp.gate").abs().max() == 0
    assert run("mlp.up").abs().max() > 1.0
