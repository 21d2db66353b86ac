"""LQS against the derivative that it is, by finite differences over whole trainings."""

import copy

import pytest
import torch
from ordering_tools import collated, examples, model, work

from holdfast.errors import Interrupted, UsageError
from holdfast.ordering.learnability import learnability
from holdfast.ordering.losses import example_losses
from holdfast.ordering.lqs import combined, lqs
from holdfast.ordering.proxy import Proxy

STEPS, RATE = 5, 0.3


def trained(start, rows, target, drawn, n, weight):
    """sum_{t=1..T} J(theta_t) of a plain loop in which example n weighs ``weight`` more."""
    made = copy.deepcopy(start).requires_grad_(True)
    total = 0.0
    for step in range(STEPS):
        made.zero_grad()
        batch = collated([rows[i] for i in drawn(step)])
        loss = example_losses(made, batch).mean()
        loss = loss + weight * example_losses(made, collated([rows[n]])).sum()
        loss.backward()
        with torch.no_grad():
            for p in made.parameters():
                p -= RATE * p.grad
            total += float(example_losses(made, collated(target)).mean())
    return total


def test_the_products_are_the_derivative_of_the_targets_loss(tmp_path, monkeypatch):
    rows, target = examples(4), examples(2, seed=7)
    start = model("gpt2")  # in float64 throughout: Llama's norms round to float32
    before = copy.deepcopy(start)
    seen = []
    monkeypatch.setattr(
        "holdfast.ordering.lqs.combined", lambda found, **_: seen.extend(found) or [0.0]
    )
    asked = work(start, rows, tmp_path, target=target, batch_size=2)
    drawn = Proxy(asked, STEPS, RATE, 2).drawn
    lqs(asked, steps=STEPS, rate=RATE, batch=2, interval=1)
    assert len(seen) == STEPS + 1
    for n in range(len(rows)):
        product = RATE * sum(found[n][0] for found in seen)
        sides = [trained(before, rows, target, drawn, n, w) for w in (1e-5, -1e-5)]
        assert product == pytest.approx(-(sides[0] - sides[1]) / 2e-5, rel=1e-5)


def test_scores_are_the_papers_sum():
    # [product, norm] at theta_2, theta_1, theta_0
    seen = [[[9.0, 2.0]], [[3.0, 4.0]], [[8.0, 5.0]]]
    assert combined(seen) == [3 / 2 + 8 / 4]
    assert combined(seen, official=True) == [9 + 3 / 2 + 8 / 4]


def _fixed():
    """A model and data that no random number made."""
    made = model("llama")
    for place, (name, weight) in enumerate(sorted(made.named_parameters())):
        wave = (torch.arange(weight.numel(), dtype=weight.dtype) * 0.7 + place).sin() * 0.4
        weight.copy_(wave.reshape(weight.shape) + float("norm" in name))

    def row(length, k):
        ids = torch.tensor([(7 * t * t + 3 * k * t + k) % 29 + 1 for t in range(length)])
        labels = ids.clone()
        labels[: 2 + k % 2] = -100
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}

    return made, [row(6 + k % 3, k) for k in range(5)], [row(7, 11), row(8, 12)]


RETURNED = {  # by the examples scored at once, microsoft/DELT at 658fa30 on _fixed(), without eta
    1: [-10.97672701, 0.25779098, -2.9258767, -3.23247063, 7.55578763],
    2: [-10.97672701, -14.79440015, 0.25160378, 0.25779098, -2.9258767],
}


@pytest.mark.parametrize("together", RETURNED)
def test_official_is_what_the_released_trainer_returns(together, tmp_path):
    made, rows, target = _fixed()
    asked = work(made, rows, tmp_path, target=target, batch_size=3)
    settings = {"steps": 7, "rate": 0.2, "batch": 5, "interval": 3}
    scores = lqs(asked, official=True, together=together, **settings)
    assert scores == pytest.approx(RETURNED[together], rel=1e-4)


def test_several_at_once_is_the_released_codes_alone(tmp_path):
    asked = work(model("llama"), examples(2), tmp_path, target=examples(1))
    with pytest.raises(UsageError, match="official=true"):
        lqs(asked, together=8)


def test_a_copy_of_the_target_scores_high_and_a_mislabelled_one_low(tmp_path):
    rows, target = examples(8), examples(2, seed=9)
    wrong = {k: v.clone() for k, v in target[0].items()}
    answer = wrong["labels"] != -100
    wrong["labels"][answer] = (wrong["labels"][answer] + 11) % 29 + 1
    pool = [*rows, {k: v.clone() for k, v in target[0].items()}, wrong]
    asked = work(model("llama"), pool, tmp_path, target=target, batch_size=4)
    scores = lqs(asked, steps=4, rate=0.1, batch=4, interval=1)
    assert max(scores) == scores[8]
    assert scores[9] < 0.1 * scores[8], "perplexity, norms or EL2N would tell them hardly apart"


def test_agreement_is_spearmans_and_perplexity_is_not_lqs(tmp_path):
    from scipy import stats

    from holdfast.ordering import agreement
    from holdfast.ordering.el2n import el2n
    from holdfast.ordering.perplexity import ppl

    rows = examples(24)
    asked = work(model("llama"), rows, tmp_path, target=examples(2, seed=9), batch_size=8)
    scores = {"lqs": lqs(asked, steps=3, rate=0.1, batch=8, interval=1)}
    for name, score in (("ppl", ppl), ("el2n", el2n)):
        scores[name] = score(work(model("llama"), rows, tmp_path / name, batch_size=8))
    found = agreement({**scores, "same": [2 * s for s in scores["lqs"]]}, resamples=200)
    for name in ("ppl", "el2n"):
        want = stats.spearmanr(scores[name], scores["lqs"])[0]
        assert found[name].value == pytest.approx(want)
        assert found[name].low <= want <= found[name].high < 0.95  # LQS is not another's name
    assert found["same"].value == pytest.approx(1)
    tied = agreement({"lqs": [1, 2, 2, 3], "x": [1, 1, 2, 3], "flat": [5, 5, 5, 5]}, resamples=20)
    assert tied["x"].value == pytest.approx(stats.spearmanr([1, 1, 2, 3], [1, 2, 2, 3])[0])
    assert tied["flat"].value != tied["flat"].value
    with pytest.raises(UsageError, match="same pool"):
        agreement({"lqs": [1, 2], "ppl": [1]})


def test_a_killed_scoring_goes_on_with_the_same_numbers(tmp_path, monkeypatch):
    rows, target = examples(6), examples(2, seed=5)
    settings = {"steps": 5, "rate": 0.1, "batch": 3, "interval": 2}
    whole = lqs(work(model("tied"), rows, tmp_path / "a", target=target), **settings)
    import holdfast.ordering.lqs as module

    kept, calls = module.before, []

    def dies(*args):
        calls.append(1)
        if len(calls) == 3:
            raise Interrupted(15)
        return kept(*args)

    monkeypatch.setattr(module, "before", dies)
    with pytest.raises(Interrupted):
        lqs(work(model("tied"), rows, tmp_path / "b", target=target), **settings)
    left = sorted(p.name for p in (tmp_path / "b").iterdir())
    assert "adjoint.safetensors" in left
    assert "step-000005.jsonl" in left
    again = lqs(work(model("tied"), rows, tmp_path / "b", target=target), **settings)
    assert again == whole
    assert not list((tmp_path / "b").glob("*.safetensors"))  # the trajectory is not kept


def test_memory_is_six_numbers_a_weight_on_the_device_and_a_root_of_the_steps_beside(tmp_path):
    """Bytes are counted: no tensor as large as N examples' gradients is ever made."""
    from torch.utils._python_dispatch import TorchDispatchMode

    made, rows, target = model("wide"), examples(12), examples(1, seed=3)
    largest = max(p.numel() for p in made.parameters())

    class Largest(TorchDispatchMode):
        most = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.is_floating_point():  # files are read as bytes
                self.most = max(self.most, out.numel())
            return out

    asked = work(made, rows, tmp_path, target=target, batch_size=12)
    proxy = Proxy(asked, 9, 0.1, 12)
    with Largest() as counted:
        lqs(asked, steps=9, rate=0.1, batch=12, interval=3)
    activations = 12 * 8 * 48  # of the widest layer, for a whole batch
    assert counted.most <= activations
    assert 12 * largest > 2 * activations, "what per-example gradients would take"
    proxy.run()
    assert len(list(tmp_path.glob("state-*.safetensors"))) == 4  # 0, 3, 6, 9 of ten states
    proxy.at(8)
    proxy.at(2)
    assert len(proxy._between) <= 3


def test_learnability_is_the_sum_of_shrinking_norms(tmp_path):
    rows = examples(3)
    asked = work(model("llama"), rows, tmp_path, batch_size=3)
    found = learnability(asked, steps=2, rate=0.2, batch=3, interval=1)
    made = model("llama").requires_grad_(True)
    norms = []
    for _ in range(3):
        each = []
        for row in rows:
            grads = torch.autograd.grad(
                example_losses(made, collated([row])).sum(), list(made.parameters())
            )
            each.append(sum(g.square().sum() for g in grads).sqrt())
        norms.append(each)
        made.zero_grad()
        example_losses(made, collated(rows)).mean().backward()
        with torch.no_grad():
            for p in made.parameters():
                p -= 0.2 * p.grad
    expected = [float(norms[0][n] / norms[1][n] + norms[1][n] / norms[2][n]) for n in range(3)]
    assert found == pytest.approx(expected, rel=1e-6)


def test_lqs_without_a_target_is_refused(tmp_path):
    with pytest.raises(UsageError, match="--target"):
        lqs(work(model("llama"), examples(1), tmp_path))
