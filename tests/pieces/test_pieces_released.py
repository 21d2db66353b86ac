"""What the authors' released code returned on tensors that no random number made.

Each number was returned by the function that is named beside it, run outside of this repository.
"""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from holdfast.pieces.calibrated import CorDA, Null
from holdfast.pieces.expert_iteration import first_threshold, refusal_reward, refuses
from holdfast.pieces.o_lora import AdapterNorm, OLoRA
from holdfast.pieces.objectives import kl
from holdfast.pieces.pool import KeyPool
from holdfast.pieces.refresh import Refresh
from holdfast.pieces.reg_lora import RegLoRA, largest
from holdfast.pieces.token_weights import EntropyWeighted
from holdfast.plan import Outputs

torch.set_num_threads(1)


def wave(*shape, step=0.7, at=0.0, dtype=torch.float32):
    n = torch.arange(math.prod(shape), dtype=torch.float64)
    return (step * n * n + at).sin().reshape(shape).to(dtype)


def near(found, wanted, abs=2e-5):
    wanted = torch.tensor(wanted, dtype=found.dtype).reshape(found.shape)
    torch.testing.assert_close(found, wanted, atol=abs, rtol=1e-4)


def _covariance(rows):
    x = wave(rows, 5, step=1.3, at=0.4)
    return x.T @ x


PARTS = {  # CorDA: iboing/CorDA at baffb03, decompose_to_adapter(cov_aware=True, r=2)
    "kpm": (
        [-0.0983302, 0.2775256, 0.4313217, 0.4989369, 0.0823946, -0.3155513, 0.0311243, 0.5630974,
         0.4211502, 0.1722272, -0.0779862, -0.1490064, -0.0105273, -0.1110478, 0.0257578,
         -0.2128689, 0.1935545, 0.5447053, 0.5210112, 0.1346914],
        [2.0407243, 0.8213186],
    ),
    "ipm": (
        [0.0983299, 0.366692, -0.0963335, -0.4821229, -1.0615722, -0.6600748, 0.0360838,
         -0.3084147, 0.3084268, -0.0214717, 0.8518775, 0.2716982, 0.2763287, -0.7711555,
         -0.8830963, 0.6209645, -0.3224141, 0.4004501, 0.0480214, 0.8457294],
        [3.5368187, 2.7822859],
    ),
}  # fmt: skip


@pytest.mark.parametrize("mode", PARTS)
def test_corda_cuts_out_what_the_released_code_cuts_out(mode):
    product, sizes = PARTS[mode]
    layer = nn.Linear(5, 4, bias=False)
    layer.weight.data = wave(4, 5)
    b, a = CorDA(rank=2, alpha=2.0, mode=mode).part(layer, wave(4, 5), _covariance(9))
    near(b @ a, product)
    near(b.norm(dim=0), sizes)  # S is shared out evenly between B and A


def test_lora_null_cuts_out_what_the_released_code_cuts_out():
    """HungerPWAY/LoRA-Null at 1e6808a, decompose_to_adapter2(singular_aware=True, r=2)."""
    b, a = Null(rank=2, alpha=2.0).part(nn.Linear(5, 4), wave(4, 5), _covariance(3))
    near(
        b @ a,
        [-0.0706308, 0.2050036, 0.3457624, -0.5111744, -0.2634703, -0.390934, 0.2581296,
         0.3635457, 0.5924739, 0.5514328, 0.2825165, -0.0213185, 0.0294837, -1.0731505,
         -0.7773255, -0.3880026, 0.2452082, 0.3413907, 0.6309171, 0.5724862],
    )  # fmt: skip
    near(b.norm(dim=0), [1.3987185, 0.8675619])


def test_reg_lora_finds_and_holds_what_the_released_code_does():
    """jinpeng0528/SEFE at 2f61efe: the positions of its script, and its layer's term over 1."""
    b, a = wave(6, 2, step=0.9), wave(2, 10, step=0.4, at=1.0)
    found = largest(b, a, 0.1)
    assert sorted(found.tolist()) == [18, 21, 28, 48, 53, 59]
    twice = torch.cat([found, torch.tensor([59, 48])])
    term = RegLoRA(rank=2, alpha=4.0, earlier={"x": twice})
    now = {
        "x.lora_A.default.weight": wave(2, 10, step=1.1),
        "x.lora_B.default.weight": wave(6, 2, step=0.3, at=2.0),
    }
    assert float(term(now, {})) == pytest.approx(0.6149194836616516, rel=1e-5)


def test_o_loras_terms_are_the_released_trainers():
    """cmnfriend/O-LoRA at 07117e1: the two sums of its training step, on two layers."""
    term = OLoRA(rank=2, alpha=8.0, earlier={f"l{k}": wave(4, 5, at=k) for k in (0, 1)})
    now = {
        f"l{k}.lora_{side}.default.weight": wave(*shape, step=0.5, at=k)
        for k in (0, 1)
        for side, shape in (("A", (2, 5)), ("B", (3, 2)))
    }
    assert float(term(now, {})) == pytest.approx(10.51860523223877, rel=1e-5)
    assert float(AdapterNorm(weight=1.0)(now, {})) == pytest.approx(7.689129829406738, rel=1e-5)


def test_osf_is_the_authors_constrained_training():
    """Red-Hat-AI-Innovation-Team/orthogonal-subspace-learning at a5f91f6, three steps of SGD."""
    peft = pytest.importorskip("peft")
    base = nn.Sequential(nn.Linear(3, 4, bias=False))
    base[0].weight.data = wave(4, 3)
    model = peft.get_peft_model(base, peft.OSFConfig(effective_rank=1, target_modules=["0"]))
    moving = [p for n, p in model.named_parameters() if ".osf_svd_params." in n]
    optimizer = torch.optim.SGD(moving, lr=0.05)
    x, y = wave(5, 3, step=0.31), wave(5, 4, step=0.17)
    for _ in range(3):
        optimizer.zero_grad()
        (model(x) - y).square().sum().backward()
        optimizer.step()
    near(
        model.merge_and_unload()[0].weight.detach(),
        [0.1034438, 0.5269162, 0.464976, -0.1486017, -1.0319432, -0.905026, -0.1205227,
         0.5213444, 0.431361, -0.1096331, 0.5222229, 0.429177],
    )  # fmt: skip


def test_a_refresh_moves_as_the_released_code_does():
    """joey-wang123/CL-refresh-learning at 7c90da5, Derpp.unlearn with its noise at 0."""
    weight = (torch.arange(6.0, dtype=torch.float64) * 0.9).sin().reshape(3, 2)
    x = (torch.arange(8.0, dtype=torch.float64) * 0.7).cos().reshape(4, 2)
    moving = weight.clone().requires_grad_()
    loss = F.cross_entropy(x @ moving.T, torch.tensor([0, 2, 1, 2]))
    (gradient,) = torch.autograd.grad(loss, moving)
    fisher = {"w": (torch.arange(6.0, dtype=torch.float64) * 500).reshape(3, 2)}
    piece = Refresh(form="code", noise=False, delta=0.05, fisher=fisher)
    near(
        weight + piece._code("w", weight, gradient),
        [-0.0339146834, 0.7676579658, 0.9999199443, 0.4453767093, -0.4485970911, -0.983669734],
        abs=1e-9,
    )


@pytest.mark.parametrize(("power", "returned"), [(1.0, 4.187755584716797), (2.0, 3.36652636528)])
def test_eaft_is_the_authors_loss(power, returned):
    """The EAFT loss of hiyouga/LlamaFactory at ff6d4d1, which the authors gave it."""
    term = EntropyWeighted(power=power, unit=3.0)
    logits = 3 * wave(1, 4, 24, step=0.83)[0, :3]
    outputs = Outputs(logits, torch.tensor([3, 7, 20]), torch.zeros(3, dtype=torch.int64))
    assert float(term(outputs).mean()) == pytest.approx(returned, rel=1e-5)


CHOSEN = [  # ml-jku/L2M at 0a4747b: stage, pass, entries, mean cosine
    (0, 0, [3, 1, 3], 0.2457971),
    (0, 1, [3, 1, 1], 0.4879996),
    (1, 0, [2, 2, 2], 0.0445689),
    (1, 1, [2, 2, 2], 0.0252259),
    (2, 0, [0, 0, 0], -0.2984433),
    (2, 1, [0, 0, 0], 0.1886351),
]


def test_l2m_chooses_as_the_released_pool_over_three_stages():
    pool = KeyPool(4, 6, torch.zeros(1)).train()
    pool.keys.data = wave(4, 6, step=1.9)
    pool._grad = True
    mask = torch.ones(3, 5, dtype=torch.int64)
    mask[1, 2:] = 0
    begun = -1
    for stage, number, entries, cosine in CHOSEN:
        if stage > begun:
            pool.begin_stage(pool.counts.clone() if stage else None, penalty=True)
            begun = stage
        hidden = wave(3, 5, 6, step=0.37, at=stage + number)
        assert pool.choose(hidden, mask).tolist() == entries
        assert float(pool.pull.detach().mean()) == pytest.approx(cosine, abs=1e-5)
    assert pool.eval().choose(hidden, mask).tolist() == [3, 0, 1]  # as it stands, unpenalised


def test_l2m_can_begin_as_small_as_the_released_pool():
    """L2MLoRA(embed_dim=768, n_layer=6, rank=8) draws A within 0.0021263 (six inputs a layer)."""
    from holdfast.pieces.bank import Banked, Updates, shrink

    model = nn.ModuleList()
    for inputs in (768, 768, 4 * 768) * 6:
        layer = Banked(nn.Linear(1, 1), KeyPool(1, 1, torch.zeros(1)))
        layer.updates.append(Updates((inputs, 1), 1.0, "input", None))
        layer.updates[0].grow(30, 8, torch.zeros(1))
        model.append(layer)
    usual = max(float(p.detach().abs().max()) for n, p in model.named_parameters() if "downs" in n)
    shrink(model)
    drawn = torch.cat([p.flatten() for n, p in model.named_parameters() if "downs" in n])
    assert usual == pytest.approx(768**-0.5, rel=1e-3)
    assert float(drawn.detach().abs().max()) == pytest.approx(0.0021263, rel=1e-3)


def test_auto_cei_rewards_as_the_released_code():
    """SalesforceAIResearch/Auto-CEI at b7ea2f5: test_c1 and reward_processor on six replies.

    It counts the pieces between marks where ours counts marks; thresholds move with it.
    """
    replies = [
        "a.\nb.\nSorry, I am not sure.", "a.\nb.\nc.\n#### 7", "a.\nI don't know", "a.\n#### 8",
        "Unfortunately, sorry", "a.\nb.\nc.\nd.\ne.\nsorry",
    ]  # fmt: skip
    depths = [reply.count(".\n") for reply in replies]
    c1, c2, step = first_threshold(
        [d for d, r in zip(depths, replies, strict=True) if refuses(r)], depths
    )
    assert c1 + 1 == pytest.approx(3.3265986323710903)
    assert (c2, step) == pytest.approx((0.3525099104483978, 0.32659863237109044))
    rewards = [refusal_reward(d, c1, c2) for d in (depths[0], depths[2], depths[4], depths[5])]
    wanted = [-0.0575011277845372, -0.22964965287517647, -0.3885359675850172, 0.43916857480435034]
    assert rewards == pytest.approx(wanted)


@pytest.mark.parametrize(("direction", "alpha"), [("reverse", 1.0), ("forward", 0.0)])
def test_the_divergence_of_self_distillation_is_trls(direction, alpha, monkeypatch):
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    theirs = pytest.importorskip("trl.experimental.sdft.loss_utils")
    student, teacher = 5 * wave(7, 40), 5 * wave(7, 40, step=0.3)
    wanted = theirs.compute_full_logit_self_distillation_loss(
        student, teacher, distillation_alpha=alpha
    )
    torch.testing.assert_close(kl(student, teacher, direction=direction), wanted)
