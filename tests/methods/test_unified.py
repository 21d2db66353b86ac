"""The settings that docs/methods/unified.md gives for each name, against the one formula."""

import re
from pathlib import Path

import pytest
import torch

from holdfast.carried import AGAIN, MEMORY
from holdfast.methods import plan
from holdfast.pieces.anchors import Quadratic
from holdfast.pieces.bregman import bregman, negative_entropy, quadratic, squared_norm
from holdfast.pieces.distill import Distill
from holdfast.pieces.replayed import Uncertain
from holdfast.plan import NEW, Outputs

torch.set_num_threads(1)
PAGE = Path(__file__).parents[2] / "docs" / "methods" / "unified.md"
NAMES = dict(
    re.findall(r"^\| ([\w+ -]+) \| `([^`]+)` \|", PAGE.read_text().split("## What")[0], re.M)
)
N, V = 5, 7
G = torch.Generator().manual_seed(0)
H = torch.randn(N, V, generator=G, dtype=torch.float32, requires_grad=True)
Z = torch.randn(N, V, generator=G)
Y = torch.randint(V, (N,), generator=G)


def outputs(logits, reference=None):
    return Outputs(logits, Y, torch.arange(N), reference, examples=torch.arange(N))


def terms(name):
    return {t.name: t for t in plan(NAMES[name]).learn}


def stored(term):
    """The term with Z stored, one token for each of N examples."""
    places = torch.stack([torch.ones(N), torch.arange(N)], 1).long()
    return term.recall({"places": places, "starts": torch.arange(N + 1), "logits": Z})


def same(term, divergence):
    """Value and gradient, to 1e-6."""
    torch.testing.assert_close(term, divergence, atol=1e-6, rtol=1e-5)
    slopes = [torch.autograd.grad(x.sum(), H)[0] for x in (term, divergence)]
    torch.testing.assert_close(*slopes, atol=1e-6, rtol=1e-5)


def test_every_plan_of_the_page():
    assert len(NAMES) == 14
    for name, text in NAMES.items():
        assert plan(text).name, name


def test_er_is_negative_entropy_at_the_labels():
    label = torch.nn.functional.one_hot(Y, V).float()
    replay = terms("ER")["replay"]
    assert replay.source == MEMORY
    assert terms("ER")["cross-entropy"].source == NEW
    same(replay(outputs(H)), bregman(negative_entropy, label, H.softmax(-1)))


def test_der_is_the_squared_norm_of_logits():
    dark = stored(terms("DER")["stored-logits"])
    same(dark(outputs(H)), bregman(squared_norm, H, Z))
    assert "replay" not in terms("DER")
    mean = stored(plan("der").learn[1])
    same(mean(outputs(H)) * V, bregman(squared_norm, H, Z))


def test_der_plus_plus_is_both_on_two_draws():
    held = terms("DER++")
    assert [held["stored-logits"].source, held["replay"].source] == [MEMORY, AGAIN]
    assert plan(NAMES["DER++"]).feed.draws == 2
    assert plan(NAMES["DER"]).feed.draws == 1
    assert [held["stored-logits"].weight, held["replay"].weight] == [0.1, 0.5]


def test_fdr_is_the_squared_norm_of_probabilities():
    fdr = stored(terms("FDR")["stored-logits"])
    same(fdr(outputs(H)), bregman(squared_norm, H.softmax(-1), Z.softmax(-1)))


@pytest.mark.parametrize("source", [None, MEMORY])
def test_lwf_and_icarl_are_negative_entropy_at_the_old_model(source):
    term = terms("LwF")["distill"] if source is None else Distill(temperature=1.0, source=source)
    same(term(outputs(H, Z)), bregman(negative_entropy, Z.softmax(-1), H.softmax(-1)))


def test_cpr_is_negative_entropy_from_uniform():
    uniform = torch.full((N, V), 1 / V)
    same(Uncertain()(outputs(H)), bregman(negative_entropy, H.softmax(-1), uniform))


def anchored(term, f):
    if isinstance(term, Quadratic):
        term = term.recall(term.joined({"w": f}, {"w": Z}))
    return term({"w": H}, {"w": Z})


@pytest.mark.parametrize(
    ("name", "factor"), [("EWC", 1), ("online EWC", 1), ("MAS", 2), ("SI", 2), ("L2-SP", 1)]
)
def test_anchors_are_quadratic_in_the_weights(name, factor):
    f = torch.ones(N, V) if name == "L2-SP" else torch.rand(N, V, generator=G)
    (term,) = terms(name).values()
    same(anchored(term, f), factor * bregman(quadratic(f), H, Z).sum())


def test_divergences_are_not_negative_and_zero_only_where_equal():
    p, q = H.detach().softmax(-1), Z.softmax(-1)
    for phi, a, b in ((squared_norm, H.detach(), Z), (negative_entropy, p, q), (quadratic(), p, q)):
        assert (bregman(phi, a, b) > 0).all()
        torch.testing.assert_close(bregman(phi, a, a), torch.zeros(N), atol=1e-6, rtol=0)


def test_the_part_of_the_stored_words_only():
    """With the largest logits of each token, only those are compared."""
    dark = plan("der:beta=0,distance=sum-squared,top=3").learn[1]
    values, words = Z.topk(3)
    places = torch.stack([torch.ones(N), torch.arange(N)], 1).long()
    held = dark.recall(
        {"places": places, "starts": torch.arange(N + 1), "logits": values, "words": words}
    )
    torch.testing.assert_close(held(outputs(H)), (H.gather(1, words) - values).square().sum(-1))
