"""Token weights against slow loops, and through the engine against a loop by hand."""

import math

import pytest
import torch
from torch.nn import functional as F

from holdfast.carried import Ahead
from holdfast.methods import method
from holdfast.pieces.token_weights import (
    EntropyWeighted,
    LikelihoodWeighted,
    StepLikelihoodWeighted,
)
from holdfast.plan import Outputs

torch.set_num_threads(1)
G = torch.Generator().manual_seed(0)
LOGITS = 3 * torch.randn(12, 30, generator=G)
TARGETS = torch.randint(30, (12,), generator=G)
ROWS = torch.tensor([0] * 5 + [2] * 3 + [3] * 4)


def outputs(logits=LOGITS):
    return Outputs(logits, TARGETS, ROWS)


def plain(logits=LOGITS):
    return F.cross_entropy(logits, TARGETS, reduction="none")


@pytest.mark.parametrize(("top", "power"), [(20, 1.0), (5, 2.0), (50, 0.5)])
def test_eaft_is_the_entropy_of_the_likeliest_words(top, power):
    got = EntropyWeighted(top=top, power=power)(outputs())
    for n in range(12):
        p = sorted(LOGITS[n].softmax(-1).tolist(), reverse=True)[:top]
        p = [x / sum(p) for x in p]
        h = -sum(x * math.log(x) for x in p) / math.log(len(p))
        assert got[n].item() == pytest.approx(h**power * plain()[n].item(), rel=1e-4)


def test_eaft_has_its_ends():
    flat, sharp = torch.zeros(1, 30), torch.zeros(1, 30)
    sharp[0, 3] = 1e4
    masked = torch.full((1, 30), -math.inf)
    masked[0, :2] = 0.0
    factors = EntropyWeighted().factors
    assert factors(flat).item() == pytest.approx(1.0)
    assert factors(sharp).item() == 0.0
    assert factors(masked).item() == pytest.approx(math.log(2) / math.log(20))
    torch.testing.assert_close(EntropyWeighted(power=0.0)(outputs()), plain())
    compat = method("eaft", code_compat=True).learn[0].factors(flat)
    assert compat.item() == pytest.approx(math.log(20) / 3)


def test_a_confident_conflict_moves_little():
    """A fake that weighs by 1 - p or by the loss gives the conflict the largest gradient."""
    logits = torch.zeros(2, 30)
    logits[0, 1] = 12.0  # sure of word 1, the label is word 0
    logits.requires_grad_()
    term = EntropyWeighted()
    term(Outputs(logits, torch.zeros(2, dtype=torch.long), torch.arange(2))).sum().backward()
    assert logits.grad[0].norm() < 0.01 * logits.grad[1].norm()


def test_talr_is_the_likelihood_to_the_power_of_one_over_tau():
    got = LikelihoodWeighted(temperature=2.0, floor=0.2)(outputs())
    p = LOGITS.softmax(-1).gather(1, TARGETS[:, None])[:, 0]
    torch.testing.assert_close(got, p.pow(0.5).clamp(min=0.2) * -p.log())
    torch.testing.assert_close(LikelihoodWeighted(floor=1.0)(outputs()), plain())


def test_talr_takes_tau_from_the_examples_of_the_step():
    term = StepLikelihoodWeighted(floor=0.0)
    means = [plain()[r].mean().item() for r in (ROWS == 0, ROWS == 2, ROWS == 3)]
    here = sorted(means)[1]
    torch.testing.assert_close(term(outputs()), (-plain() / here).exp() * plain())
    labels = torch.tensor([[-100, 4, 4], [-100, -100, -100]])
    batch = {"labels": labels, "input_ids": labels}
    losses = [torch.tensor([0.7, 0.0]), torch.tensor([5.0, 0.0])]
    term.look_ahead(Ahead(None, {}, [batch, batch], 0.1, None, lambda b: losses))
    torch.testing.assert_close(term(outputs()), (-plain() / 0.7).exp() * plain())


@pytest.mark.parametrize("kind", [EntropyWeighted, LikelihoodWeighted, StepLikelihoodWeighted])
def test_the_weights_have_no_gradient(kind):
    logits = LOGITS.clone().requires_grad_()
    kind()(outputs(logits)).sum().backward()
    at_rest = LOGITS.clone().requires_grad_()
    factors = (kind()(outputs()) / plain()).detach()
    (factors * plain(at_rest)).sum().backward()
    torch.testing.assert_close(logits.grad, at_rest.grad, atol=1e-5, rtol=1e-4)
