"""The two-expert mixture: the original stays, the copy learns, the router decides."""

from __future__ import annotations

import json

import pytest
import torch
import transformers as t
from torch import Tensor, nn

from holdfast.anatomy import anatomy
from holdfast.errors import ModelError
from holdfast.methods import two_experts
from holdfast.pieces.experts import TwoExpertMixture
from holdfast.pieces.mixture import TwoExperts, mixtures
from holdfast.pieces.structures import rebuild
from holdfast.testing import Tiny, tiny_llama, tiny_llava

torch.set_num_threads(1)

DEEP = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 40}
IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def _logits(model: nn.Module, tiny: Tiny) -> Tensor:
    with torch.no_grad():
        return model(**{k: v for k, v in tiny.batch.items() if k != "labels"}).logits


def _train(model: nn.Module, tiny: Tiny, steps: int = 3) -> None:
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        model(**tiny.batch).loss.backward()
        optimizer.step()
    model.eval()


@pytest.mark.parametrize("bias", [0.0, 5.0, -5.0])
def test_two_equal_experts_are_the_original_for_any_router(bias: float) -> None:
    tiny = tiny_llama()
    base = _logits(tiny.model, tiny)
    TwoExpertMixture(bias=bias, evaluate="soft").attach(tiny.model, anatomy(tiny.model))
    for _, mixture in mixtures(tiny.model):
        nn.init.normal_(mixture.router.weight, std=3.0)
    torch.testing.assert_close(_logits(tiny.model, tiny), base, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("make", [tiny_llama, tiny_llava])
def test_the_original_never_changes_and_can_be_had_back(make: object) -> None:
    tiny: Tiny = make()  # type: ignore[operator]
    base = _logits(tiny.model, tiny)
    adapter = TwoExpertMixture()
    model = adapter.attach(tiny.model, anatomy(tiny.model))
    assert len(list(mixtures(model))) == 2  # the vision tower's MLPs are left alone
    frozen = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
    _train(model, tiny)
    assert not torch.equal(_logits(model, tiny), base)
    for name, value in frozen.items():
        assert torch.equal(model.get_parameter(name), value), name
    for _, mixture in mixtures(model):
        with torch.no_grad():
            mixture.router.weight.zero_()
            mixture.router.bias.copy_(torch.tensor([1.0, -1.0]))
    assert torch.equal(_logits(model, tiny), base)


def test_hard_routing_takes_each_token_to_its_likelier_expert() -> None:
    torch.manual_seed(0)
    mixture = TwoExperts(nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6)), 6).eval()
    for p in mixture.tuned.parameters():
        nn.init.normal_(p)
    hidden = torch.randn(3, 5, 6)
    result = mixture(hidden)
    seen = set()
    for b in range(3):
        for i in range(5):
            token = hidden[b, i]
            choice = int(mixture.router(token).argmax())
            seen.add(choice)
            expert = mixture.tuned if choice else mixture.original
            torch.testing.assert_close(result[b, i], expert(token), atol=1e-6, rtol=1e-5)
    assert seen == {0, 1}
    mixture.evaluate = "soft"
    weights = mixture.router(hidden).softmax(-1)
    soft = weights[..., :1] * mixture.original(hidden) + weights[..., 1:] * mixture.tuned(hidden)
    torch.testing.assert_close(mixture(hidden), soft)
    mixture.train()
    mixture.evaluate = "hard"
    torch.testing.assert_close(mixture(hidden), soft)


def test_the_gradient_is_exact_unless_the_released_behaviour_is_asked_for() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    gradients = {}
    for stop in (False, True):
        torch.manual_seed(1)
        mixture = TwoExperts(nn.Linear(6, 6), 6, stop_gradient=stop).double()
        nn.init.normal_(mixture.tuned.weight)
        mixture.original.requires_grad_(False)
        (gradients[stop],) = torch.autograd.grad(mixture(hidden).pow(2).sum(), hidden)
        if not stop:
            assert torch.autograd.gradcheck(mixture, (hidden,))
    assert not torch.allclose(gradients[False], gradients[True])
    assert two_experts(lmmcl_compat=True).adapt == TwoExpertMixture(stop_gradient=True)


def test_it_carries_over_and_rebuilds_from_json() -> None:
    tiny = tiny_llama()
    adapter = TwoExpertMixture(bias=0.5)
    model = adapter.attach(tiny.model, anatomy(tiny.model))
    _train(model, tiny)
    model = adapter.detach(model, None)
    assert not any(p.requires_grad for p in model.parameters())
    after_one = _logits(model, tiny)
    names = [n for n, _ in model.named_parameters()]
    model = adapter.attach(model, anatomy(model))  # stage 2
    assert [n for n, _ in model.named_parameters()] == names
    assert torch.equal(_logits(model, tiny), after_one)
    assert set(adapter.trainable(model)) == {
        n for n, p in model.named_parameters() if p.requires_grad
    }
    _train(model, tiny)
    structure = json.loads(json.dumps(adapter.structure()))
    fresh = tiny_llama().model
    again = rebuild(fresh, structure, anatomy(fresh))
    moved = set(adapter.trainable(model))
    values = {n: p for n, p in model.named_parameters() if n in moved}
    assert not again.load_state_dict(values, strict=False).unexpected_keys
    assert torch.equal(_logits(again, tiny), _logits(model, tiny))


def test_the_router_starts_small_and_seeded() -> None:
    first, second, other = (tiny_llama().model for _ in range(3))
    for model, seed in ((first, 0), (second, 0), (other, 1)):
        TwoExpertMixture(bias=0.25, seed=seed).attach(model, anatomy(model))
    routers = [[m.router for _, m in mixtures(model)] for model in (first, second, other)]
    assert torch.equal(routers[0][0].weight, routers[1][0].weight)
    assert not torch.equal(routers[0][0].weight, routers[2][0].weight)
    assert not torch.equal(routers[0][0].weight, routers[0][1].weight)
    assert routers[0][0].bias.tolist() == [0.25, -0.25]
    spread = torch.cat([r.weight.flatten() for r in routers[0]]).std()
    assert 0.013 < spread < 0.027  # 0.02, 64 draws


OPT = {"ffn_dim": 20, "word_embed_proj_dim": 16, "max_position_embeddings": 32}
MIXTRAL = {"intermediate_size": 20, "num_key_value_heads": 2, "num_local_experts": 3}
VIT = {"intermediate_size": 20, "image_size": 8, "patch_size": 4}


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (lambda: t.OPTForCausalLM(t.OPTConfig(**DEEP, **OPT, **IDS)), "one module"),
        (lambda: t.MixtralForCausalLM(t.MixtralConfig(**DEEP, **MIXTRAL)), "experts already"),
        (lambda: t.ViTForImageClassification(t.ViTConfig(**(DEEP | VIT))), "found no MLP"),
        (lambda: t.BloomForCausalLM(t.BloomConfig(**DEEP, **IDS)), "one tensor"),
    ],
)
def test_families_without_an_mlp_module_are_refused(model: object, says: str) -> None:
    made: nn.Module = model()  # type: ignore[operator]
    before = [n for n, _ in made.named_modules()]
    with pytest.raises(ModelError, match=says):
        TwoExpertMixture().attach(made, anatomy(made))
    assert [n for n, _ in made.named_modules()] == before


@pytest.mark.parametrize("structure", [{"kind": "two-expert"}, {}])
def test_an_unknown_structure_lists_what_is_known(structure: dict[str, object]) -> None:
    tiny = tiny_llama()
    with pytest.raises(
        ModelError, match="There is: expert-gates, l2m, lora, mora, sapt, two-experts"
    ):
        rebuild(tiny.model, structure, anatomy(tiny.model))
