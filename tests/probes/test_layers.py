from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from probe_models import PAIRS, noisy, text_pair
from task_models import make_tokenizer
from test_divergence import family

from holdfast.data import Record, say
from holdfast.errors import UsageError
from holdfast.probes import answered, layers, number_tokens
from holdfast.probes._gram import final_norm, gram


def table(result: Any, measure: str, token_class: str = "") -> dict[tuple[int, str], float]:
    rows = result.find(measure, token_class=token_class)
    return {(r.block, r.part): r.value for r in rows}


def outputs(model: Any, modules: dict[Any, Any], one: Any) -> dict[Any, torch.Tensor]:
    """What modules give at the positions of one example, each model run by itself."""
    seen: dict[Any, torch.Tensor] = {}
    handles = [
        m.register_forward_hook(
            lambda _, i, o, k=k: seen.__setitem__(k, o[0] if isinstance(o, tuple) else o)
        )
        for k, m in modules.items()
    ]
    batch = {k: v if k == "pixel_values" else v[None] for k, v in one.items() if k != "labels"}
    with torch.no_grad():
        model(**batch)
    for handle in handles:
        handle.remove()
    at = torch.nonzero(one["labels"][1:] != -100)[:, 0]
    return {k: v.reshape(-1, v.shape[-1])[at].double() for k, v in seen.items()}


def writers(model: Any) -> dict[tuple[int, str], Any]:
    inner = getattr(model.model, "language_model", model.model)
    found = {(i, "attn"): b.self_attn.o_proj for i, b in enumerate(inner.layers)}
    return found | {(i, "mlp"): b.mlp.down_proj for i, b in enumerate(inner.layers)}


@pytest.mark.parametrize("kind", list(PAIRS))
def test_against_explicit_projection(kind: str):
    """Every position and every logit by hand; for LLaVA behind the expanded image tokens."""
    base, processor, prompts = PAIRS[kind]()
    tuned = noisy(base, 0.2)
    tokenizer = getattr(processor, "tokenizer", processor)
    chosen = list(number_tokens(tokenizer).ids)
    result = layers(base, tuned, processor, prompts)
    fixed = answered(base, processor, prompts)
    w0, w1 = (m.get_output_embeddings().weight.detach().double() for m in (base, tuned))
    expected: dict[str, dict[Any, list[float]]] = {"": {}, "numbers": {}, "not numbers": {}}
    for one in fixed.encoded:
        y, x = (outputs(m, writers(m), one) for m in (base, tuned))
        for key in y:
            moved = x[key] @ w1.T - y[key] @ w0.T
            inside = torch.zeros(moved.shape[1], dtype=torch.bool)
            inside[chosen] = True
            for name, part in (("", inside | True), ("numbers", inside), ("not numbers", ~inside)):
                value = float(moved[:, part].norm(dim=1).mean())
                expected[name].setdefault(key, []).append(value)
    for name, wanted in expected.items():
        means = {k: sum(v) / len(v) for k, v in wanted.items()}
        assert table(result, "delta", name) == pytest.approx(means, rel=1e-4)


@pytest.mark.parametrize("kind", list(PAIRS))
def test_one_changed_down_projection_shows_where_it_is(kind: str):
    base, processor, prompts = PAIRS[kind]()
    tuned = copy.deepcopy(base)
    torch.manual_seed(0)
    with torch.no_grad():
        weight = writers(tuned)[0, "mlp"].weight
        weight.add_(1e-3 * torch.randn_like(weight))
    moved = weight.detach() - writers(base)[0, "mlp"].weight.detach()
    result = layers(base, tuned, processor, prompts)
    total = table(result, "delta")
    assert total[0, "attn"] == 0
    assert total[1, "attn"] > 0
    assert total[1, "mlp"] > 0
    own = table(result, "delta_by_weights")
    assert {k for k, v in own.items() if v != 0} == {(0, "mlp")}
    later = table(result, "delta_by_inputs")
    assert {k for k, v in later.items() if v != 0} == {(1, "attn"), (1, "mlp")}
    assert total[0, "mlp"] == own[0, "mlp"]
    fixed = answered(base, processor, prompts)
    head = base.get_output_embeddings().weight.detach().double()
    values = []
    for one in fixed.encoded:
        inner = getattr(base.model, "language_model", base.model)
        hidden = outputs(base, {0: inner.layers[0].mlp.act_fn}, one)[0]
        gate = hidden * outputs(base, {0: inner.layers[0].mlp.up_proj}, one)[0]
        values.append(float((gate @ moved.double().T @ head.T).norm(dim=1).mean()))
    assert total[0, "mlp"] == pytest.approx(sum(values) / len(values), rel=1e-4)


@pytest.mark.parametrize("kind", list(PAIRS))
def test_changed_attention_is_not_charged_to_the_mlp_behind_it(kind: str):
    base, processor, prompts = PAIRS[kind]()
    tuned = copy.deepcopy(base)
    with torch.no_grad():
        writers(tuned)[0, "attn"].weight.mul_(1.5)
    result = layers(base, tuned, processor, prompts)
    own = table(result, "delta_by_weights")
    assert {k for k, v in own.items() if v != 0} == {(0, "attn")}
    assert table(result, "delta_by_inputs")[0, "mlp"] == table(result, "delta")[0, "mlp"] > 0


def test_rolled_back_layer_is_the_only_one_that_has_changed_weights():
    base, processor, prompts = text_pair()
    tuned = noisy(base, 0.2)
    rolled = copy.deepcopy(tuned)
    rolled.model.layers[1].load_state_dict(base.model.layers[1].state_dict())
    own = table(layers(tuned, rolled, processor, prompts), "delta_by_weights")
    assert {block for (block, _), v in own.items() if v != 0} == {1}
    total = table(layers(tuned, rolled, processor, prompts), "delta")
    assert total[0, "attn"] == total[0, "mlp"] == 0


def test_the_two_causes_add_up_to_the_change():
    """Seen on the triangle: each side is at most the sum of the two others."""
    base, processor, prompts = text_pair()
    result = layers(base, noisy(base, 0.2), processor, prompts)
    for key, total in table(result, "delta").items():
        sides = [total, *(table(result, f"delta_by_{c}")[key] for c in ("weights", "inputs"))]
        assert max(sides) <= sum(sides) - max(sides) + 1e-5


@pytest.mark.parametrize("kind", ["llama", "gpt2", "cohere"])
def test_through_the_final_norm(kind: str):
    """RMS and layer norms: what a block writes, scaled as the base's final norm scales it."""
    if kind == "llama":
        base, processor, prompts = text_pair()
    else:
        processor = make_tokenizer(chat=False)
        base = family(kind, len(processor))
        prompts = [Record((say("user", "A B "), say("assistant", "red seven")), id="a")]
    with torch.no_grad():
        for name, parameter in base.named_parameters():
            if parameter.dim() == 1 and "bias" not in name:
                parameter.mul_(1 + 0.3 * torch.rand_like(parameter))
    tuned = noisy(base, 0.2)
    result = layers(base, tuned, processor, prompts[:1])
    inner = base.transformer if kind == "gpt2" else base.model
    norm, after = (
        (inner.ln_f, tuned.transformer.ln_f) if kind == "gpt2" else (inner.norm, tuned.model.norm)
    )
    down = (lambda m: m.transformer.h[1].mlp.c_proj) if kind == "gpt2" else (
        lambda m: m.model.layers[1].mlp.down_proj
    )  # fmt: skip
    one = answered(base, processor, prompts[:1]).encoded[0]
    stream: list[torch.Tensor] = []
    handle = norm.register_forward_pre_hook(lambda _, i: stream.append(i[0][0]))
    y = outputs(base, {0: down(base)}, one)[0]
    handle.remove()
    x = outputs(tuned, {0: down(tuned)}, one)[0]
    h = stream[0][torch.nonzero(one["labels"][1:] != -100)[:, 0]].double()
    if kind != "llama":
        h, x, y = (v - v.mean(-1, keepdim=True) for v in (h, x, y))
    eps = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    rate = (h.square().mean(-1, keepdim=True) + eps).rsqrt()
    scale = 0.3 if kind == "cohere" else 1.0
    w0, w1 = (m.get_output_embeddings().weight.detach().double() * scale for m in (base, tuned))
    g0, g1 = (n.weight.detach().double() for n in (norm, after))
    wanted = float((((x * rate * g1) @ w1.T) - ((y * rate * g0) @ w0.T)).norm(dim=1).mean())
    assert table(result, "normed_delta")[1, "mlp"] == pytest.approx(wanted, rel=1e-3)


def test_gram_of_near_models_does_not_cancel():
    torch.manual_seed(0)
    w0, y = torch.randn(500, 16), 100 * torch.randn(4, 16)
    w1, x = w0 + 1e-5 * torch.randn(500, 16), y + 1e-4 * torch.randn(4, 16)
    exact = (x.double() @ w1.double().T - y.double() @ w0.double().T).norm(dim=1)
    assert gram(w1, w0).length(x, y).double() == pytest.approx(exact, rel=1e-3)
    assert gram(w0, w0).moved is None
    assert not gram(w0, w0).length(y, y).any()


@pytest.mark.parametrize("centred", [False, True])
def test_final_norm_is_read_off_the_module(centred: bool):
    torch.manual_seed(0)
    norm = torch.nn.LayerNorm(8) if centred else torch.nn.RMSNorm(8, eps=1e-6)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.uniform_(0.5, 2.0)
        found = final_norm(norm, 8, norm.weight)
        stream = 5 * torch.randn(3, 8) + 1
        normed = norm(stream)
        again = found.gain * found.direction(stream) * found.rate(stream, normed) + found.bias
    assert found.centres is centred
    assert torch.allclose(again, normed, atol=1e-4)


def moe(vocabulary: int) -> Any:
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=vocabulary, hidden_size=16, intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, num_local_experts=4, initializer_range=0.4,
        eos_token_id=1, bos_token_id=None, pad_token_id=0, head_dim=8,
    )  # fmt: skip
    return MixtralForCausalLM(config).eval()


def test_experts_are_one_mlp():
    _, processor, prompts = text_pair()
    base = moe(len(processor))
    tuned = noisy(base, 0.2)
    result = layers(base, tuned, processor, prompts[:1])
    one = answered(base, processor, prompts[:1]).encoded[0]
    y, x = (outputs(m, {0: m.model.layers[0].mlp}, one)[0] for m in (base, tuned))
    w0, w1 = (m.get_output_embeddings().weight.detach().double() for m in (base, tuned))
    wanted = float((x @ w1.T - y @ w0.T).norm(dim=1).mean())
    assert table(result, "delta")[0, "mlp"] == pytest.approx(wanted, rel=1e-4)


def test_models_of_other_depth_are_refused():
    base, processor, prompts = text_pair()
    from task_models import make_llama

    with pytest.raises(UsageError, match="the base has 2 blocks and the tuned model 3"):
        layers(base, make_llama(len(processor), num_hidden_layers=3), processor, prompts)


def test_an_adapter_counts_as_what_its_layer_writes():
    peft = pytest.importorskip("peft")
    base, processor, prompts = text_pair()
    config = peft.LoraConfig(r=2, target_modules=["down_proj", "q_proj"], init_lora_weights=False)
    tuned = peft.get_peft_model(copy.deepcopy(base), config)
    merged = copy.deepcopy(tuned).merge_and_unload()
    wrapped = table(layers(base, tuned, processor, prompts), "delta_by_weights")
    assert wrapped == pytest.approx(
        table(layers(base, merged, processor, prompts), "delta_by_weights"), rel=1e-3
    )
    assert wrapped[0, "mlp"] > 0
