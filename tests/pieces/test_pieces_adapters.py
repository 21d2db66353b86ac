"""CorDA against PEFT's own, and what LoRA-Null, OPLoRA, OSF and O-LoRA promise, as identities."""

import peft
import pytest
import torch
from peft.tuners.lora.corda import preprocess_corda
from transformers import GPT2Config, GPT2LMHeadModel

from holdfast.anatomy import anatomy
from holdfast.errors import ConfigError, UsageError
from holdfast.pieces.calibrated import CorDA, Null
from holdfast.pieces.cut_out import covariances
from holdfast.pieces.o_lora import AdapterNorm, OLoRA
from holdfast.pieces.osf import OSF
from holdfast.pieces.projected import Orthogonal, reached
from holdfast.testing import tiny_llama

torch.set_num_threads(1)
SCOPE = "language.mlp.up+down"
NAMES = [f"model.layers.{i}.mlp.{u}_proj" for i in (0, 1) for u in ("up", "down")]


def _singles(tiny):
    return [{k: v[i : i + 1] for k, v in tiny.batch.items()} for i in range(2)]


def _gpt2():
    torch.manual_seed(0)
    shape = {"vocab_size": 50, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 32}
    return GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=1, eos_token_id=2)).eval()


def _logits(model, batch):
    with torch.no_grad():
        return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits


def _train(model, batch, after=lambda: None, steps=3, optimizer=torch.optim.AdamW):
    free = [p for p in model.parameters() if p.requires_grad]
    made = optimizer(free, lr=2e-2)
    for _ in range(steps):
        made.zero_grad()
        model(**batch).loss.backward()
        made.step()
        after()


def _weights(model, names=NAMES):
    return {n: model.get_submodule(n).weight.detach().clone() for n in names}


@pytest.mark.parametrize("mode", ["kpm", "ipm"])
def test_corda_begins_and_moves_as_pefts_own(mode):
    tiny = tiny_llama()
    ours, theirs = tiny.model, tiny_llama().model
    adapter = CorDA(rank=4, alpha=6.0, scope=SCOPE, mode=mode)
    adapter.calibrate(_singles(tiny))
    wrapped = adapter.attach(ours, anatomy(ours))
    config = peft.LoraConfig(
        r=4, lora_alpha=6.0, target_modules=NAMES, init_lora_weights="corda",
        corda_config=peft.tuners.lora.config.CordaConfig(corda_method=mode),
    )  # fmt: skip
    inputs = _singles(tiny)

    def run():
        for row in inputs:
            theirs(input_ids=row["input_ids"], attention_mask=row["attention_mask"])

    preprocess_corda(theirs, config, run_model=run)
    other = peft.get_peft_model(theirs, config)
    for name in NAMES:
        mine, his = (m.get_submodule(f"base_model.model.{name}") for m in (wrapped, other))
        for side in ("lora_A", "lora_B"):
            a, b = (getattr(layer, side)["default"].weight for layer in (mine, his))
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    for model in (wrapped, other):
        _train(model, tiny.batch, optimizer=torch.optim.SGD)
    torch.testing.assert_close(_logits(wrapped, tiny.batch), _logits(other, tiny.batch))


@pytest.mark.parametrize("kind", [CorDA, Null])
@pytest.mark.parametrize("make", [lambda: tiny_llama().model, _gpt2])
def test_cut_out_adapters_begin_at_the_model_and_end_in_it(kind, make, tmp_path):
    tiny, model, plain = tiny_llama(), make(), make()
    scope = "language.attn + language.mlp" if type(model) is not GPT2LMHeadModel else "language.mlp"
    before, logits = dict(model.named_parameters()), _logits(model, tiny.batch)
    start = {n: p.detach().clone() for n, p in before.items()}
    adapter = kind(rank=12, alpha=12.0, scope=scope)  # more than some matrices have directions
    adapter.calibrate(_singles(tiny))
    wrapped = adapter.attach(model, anatomy(model))
    torch.testing.assert_close(_logits(wrapped, tiny.batch), logits, atol=2e-6, rtol=1e-5)
    assert all(torch.equal(start[n], before[n]) for n in start)  # the weights stay whole
    _train(wrapped, tiny.batch)
    trained = _logits(wrapped, tiny.batch)
    done = adapter.detach(wrapped, tmp_path / "adapter")
    assert not torch.equal(trained, logits)
    torch.testing.assert_close(_logits(done, tiny.batch), trained, atol=1e-5, rtol=1e-5)
    assert {n for n, _ in done.named_parameters()} == start.keys()
    assert not any(layer._forward_hooks for layer in done.modules())
    loaded = peft.PeftModel.from_pretrained(plain, tmp_path / "adapter")
    torch.testing.assert_close(_logits(loaded, tiny.batch), trained, atol=1e-5, rtol=1e-5)


def test_what_is_cut_out_is_a_part_of_the_weight_that_hardly_answers_the_data():
    tiny = tiny_llama()
    model = tiny.model
    layers = {n: model.get_submodule(n) for n in NAMES}
    found = covariances(model, layers, _singles(tiny), "x")
    for name, layer in layers.items():
        weight, c = layer.weight.detach(), found[name]
        b, a = Null(rank=6, alpha=6.0).part(layer, weight, c)
        u = torch.linalg.svd(c.double())[0][:, -6:]
        torch.testing.assert_close((b @ a).double(), weight.double() @ u @ u.T)
        whole = CorDA(rank=min(weight.shape), alpha=1.0).part(layer, weight, c)
        torch.testing.assert_close(whole[0] @ whole[1], weight, atol=1e-5, rtol=1e-4)
        answer = {}
        for mode in ("kpm", "ipm"):
            b, a = CorDA(rank=4, alpha=4.0, mode=mode).part(layer, weight, c)
            answer[mode] = float(torch.trace(b @ a @ c @ (b @ a).T))
        assert answer["kpm"] < answer["ipm"] / 10


def test_with_a_frozen_calibrated_inputs_give_what_they_gave():
    """The calibration has fewer tokens than the layer has inputs, so that C has a null space."""
    tiny = tiny_llama()
    model = tiny.model
    row = {k: v[:1, :5] for k, v in tiny.batch.items()}
    seen = []
    layer = model.model.layers[1].mlp.down_proj
    handle = layer.register_forward_pre_hook(lambda m, args: seen.append(args[0].detach()))
    model(input_ids=row["input_ids"])
    handle.remove()
    adapter = Null(rank=12, alpha=12.0, scope="language[1].mlp.down", freeze_down=True)
    adapter.calibrate([row])
    before = layer(seen[0]).detach()
    wrapped = adapter.attach(model, anatomy(model))
    assert all(".lora_B." in n for n in adapter.trainable(wrapped))
    for name, p in wrapped.named_parameters():
        p.requires_grad_(name in set(adapter.trainable(wrapped)))
    _train(wrapped, tiny.batch)
    done = adapter.detach(wrapped, None)
    layer = done.model.layers[1].mlp.down_proj
    torch.testing.assert_close(layer(seen[0]), before, atol=1e-5, rtol=1e-4)
    other = torch.randn(4, 24)
    fresh = tiny_llama().model.model.layers[1].mlp.down_proj
    assert float((layer(other) - fresh(other)).abs().max().detach()) > 1e-3


def test_the_top_directions_stay_exact_singular_triples(tmp_path):
    tiny = tiny_llama()
    model, before = tiny.model, _weights(tiny.model)
    adapter = Orthogonal(rank=4, alpha=8.0, dropout=0.0, scope=SCOPE, keep=5)
    wrapped = adapter.attach(model, anatomy(model))
    torch.testing.assert_close(
        _logits(wrapped, tiny.batch), _logits(tiny_llama().model, tiny.batch)
    )
    _train(wrapped, tiny.batch)
    trained = _logits(wrapped, tiny.batch)
    done = adapter.detach(wrapped, tmp_path)
    torch.testing.assert_close(_logits(done, tiny.batch), trained, atol=1e-5, rtol=1e-5)
    for name, after in _weights(done).items():
        u, s, vh = torch.linalg.svd(before[name], full_matrices=False)
        u, s, v = u[:, :5], s[:5], vh[:5].T
        torch.testing.assert_close(after @ v, u * s, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(after.T @ u, v * s, atol=1e-5, rtol=1e-4)
        change = after - before[name]
        assert float(change.norm()) > 0.01
        assert reached(change, u, v) < 1e-9
        assert reached(torch.randn_like(change), u, v) > 0.01
    loaded = peft.PeftModel.from_pretrained(tiny_llama().model, tmp_path)
    torch.testing.assert_close(_logits(loaded, tiny.batch), trained, atol=1e-5, rtol=1e-5)


def test_a_large_change_takes_the_place_of_the_top():
    """The triples stay, but not as the largest: the promise of the docstring, and its limit."""
    torch.manual_seed(0)
    weight = torch.randn(8, 8)
    u, s, vh = torch.linalg.svd(weight)
    large = weight + 10 * s[0] * torch.outer(u[:, -1], vh[-1])
    torch.testing.assert_close(large @ vh[:3].T, u[:, :3] * s[:3], atol=1e-4, rtol=1e-4)
    assert float(torch.linalg.svdvals(large)[0]) > 9 * float(s[0])


@pytest.mark.parametrize("project", ["gradient", "weights"])
def test_osf_is_pefts_and_with_weights_put_back_the_top_stays_exact(project):
    tiny = tiny_llama()
    model, before = tiny.model, _weights(tiny.model)
    adapter = OSF(preserve=0.5, scope=SCOPE, project=project)
    wrapped = adapter.attach(model, anatomy(model))
    torch.testing.assert_close(
        _logits(wrapped, tiny.batch), _logits(tiny_llama().model, tiny.batch)
    )
    _train(wrapped, tiny.batch, after=lambda: adapter.after_step({}))
    trained = _logits(wrapped, tiny.batch)
    done = adapter.detach(wrapped, None)
    torch.testing.assert_close(_logits(done, tiny.batch), trained, atol=1e-5, rtol=1e-5)
    leaks = []
    for name, after in _weights(done).items():
        u, s, vh = torch.linalg.svd(before[name], full_matrices=False)
        k = len(s) // 2
        leaks.append(float((after @ vh[:k].T - u[:, :k] * s[:k]).abs().max()))
    assert (max(leaks) < 1e-5) == (project == "weights")


def test_osf_refuses_what_peft_would_pass_over():
    model = _gpt2()
    with pytest.raises(ConfigError, match="Conv1D"):
        OSF(scope="language.mlp").attach(model, anatomy(model))
    model = tiny_llama().model
    with pytest.raises(ConfigError, match="some must train"):
        OSF(preserve=16, scope=SCOPE).attach(model, anatomy(model))


def _layer(a):
    return {"x.lora_A.default.weight": a, "x.lora_B.default.weight": torch.ones(3, a.shape[0])}


@pytest.mark.parametrize("penalty", ["absolute", "squared"])
def test_o_loras_term_is_a_sum_over_all_pairs_of_rows(penalty):
    torch.manual_seed(0)
    now, first, second = (torch.randn(2, 6) for _ in range(3))
    term = OLoRA(rank=2, alpha=2.0, penalty=penalty, earlier={"x": torch.cat([first, second])})
    power = 1 if penalty == "absolute" else 2
    slow = sum(
        abs(float(a @ b)) ** power for a in now for earlier in (first, second) for b in earlier
    )
    assert float(term(_layer(now), {})) == pytest.approx(slow, rel=1e-5)
    assert float(OLoRA(rank=2, alpha=2.0)(_layer(now), {})) == 0
    norms = AdapterNorm(weight=1.0)(_layer(now), {})
    torch.testing.assert_close(norms, now.norm() + torch.ones(3, 2).norm())


def test_orthogonal_rows_cost_nothing_and_leave_earlier_inputs_alone():
    basis = torch.linalg.qr(torch.randn(6, 6))[0].T
    old, new = basis[:2], basis[2:4]
    term = OLoRA(rank=2, alpha=2.0, earlier={"x": old})
    assert float(term(_layer(new), {})) < 1e-5
    x = torch.randn(5, 2) @ old
    assert float((x @ new.T).abs().max()) < 1e-5


def test_o_lora_carries_the_rows_of_all_stages():
    tiny = tiny_llama()
    first = OLoRA(rank=2, alpha=2.0, scope=SCOPE).recall({})
    done = first.detach(first.attach(tiny.model, anatomy(tiny.model)), None)
    second = OLoRA(rank=2, alpha=2.0, scope=SCOPE).recall(first.keep(None))
    wrapped = second.attach(done, anatomy(done))
    value = second(dict(wrapped.named_parameters()), {})
    pairs = [
        (wrapped.get_parameter(f"{layer}.lora_A.default.weight"), rows)
        for layer, rows in second.earlier.items()
    ]
    assert len(pairs) == 4
    assert float(value) == pytest.approx(sum(float((a @ r.T).abs().sum()) for a, r in pairs))
    second.detach(wrapped, None)
    assert all(rows.shape == (4, rows.shape[1]) for rows in second.keep(None).values())


def test_without_data_it_says_how():
    model = tiny_llama().model
    with pytest.raises(UsageError, match="calibrate"):
        Null(rank=2, alpha=2.0).attach(model, anatomy(model))


def test_a_layer_that_no_example_reaches_is_named():
    model = tiny_llama().model
    never = {"never": torch.nn.Linear(2, 2)}
    with pytest.raises(ConfigError, match="reaches 'never'"):
        covariances(model, never, _singles(tiny_llama()), "corda")
