"""Merges of tensors against PEFT's, mergekit's where it is installed, and numbers done by hand."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from peft.utils import merge_utils

from holdfast.errors import UsageError
from holdfast.pieces.merging import (
    Slerp,
    Soup,
    TaskVectors,
    dropped,
    generator,
    slerp,
    soup,
    threshold,
)

torch.set_num_threads(1)


def _models(count=3, shape=(8, 5), seed=0):
    torch.manual_seed(seed)
    base = torch.randn(shape)
    return base, [base + torch.randn(shape) for _ in range(count)]


def _merged(merge, base, models):
    """The same merge of a model of one weight."""
    return merge.survey(["w"], lambda name: (base, models))("w", base, models)


@pytest.mark.parametrize("trim", ["model", "tensor"])
def test_ties_done_by_hand(trim):
    deltas = torch.tensor([[3, -1, 0.1, 2], [-2, -4, 0.2, -0.1], [1, 5, -0.3, 0.2]])
    base = torch.zeros(4)
    found = _merged(TaskVectors(density=0.5, trim=trim, elect=True), base, list(deltas))
    assert found.tolist() == [2, 5, 0, 2]


@pytest.mark.parametrize("trim", ["model", "tensor"])
@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
def test_ties_is_pefts_on_one_tensor(density, trim):
    base, models = _models()
    deltas = [m - base for m in models]
    theirs = merge_utils.ties(deltas, torch.ones(3), density)
    found = _merged(TaskVectors(density=density, trim=trim, elect=True, scale=0.7), base, models)
    torch.testing.assert_close(found, base + 0.7 * theirs)


def test_what_is_trimmed_over_the_whole_model_is_not_what_each_tensor_trims():
    base = {"small": torch.zeros(6), "large": torch.zeros(6)}
    tuned = {"small": torch.arange(1.0, 7.0), "large": torch.arange(10.0, 16.0)}

    def merged(trim):
        merge = TaskVectors(density=0.5, trim=trim, elect=True)
        merge = merge.survey(list(base), lambda n: (base[n], [tuned[n]]))
        return {n: merge(n, base[n], [tuned[n]]) for n in base}

    assert merged("model")["small"].tolist() == [0] * 6
    assert merged("model")["large"].tolist() == tuned["large"].tolist()
    for name in base:
        assert merged("tensor")[name].tolist() == [0, 0, 0, *tuned[name].tolist()[3:]]


def test_entries_that_cancel_follow_the_majority_of_all_signs():
    base = torch.zeros(4)
    models = [torch.tensor([1.0, -2, -3, -4]), torch.tensor([-1.0, -2, -3, -4])]
    whole = TaskVectors(density=0.99, elect=True).survey(["w"], lambda n: (base, models))
    assert whole.tied == -1
    # of four entries int(3.96) are kept, so the cancelling one would be trimmed; elect it by hand
    from holdfast.pieces.merging import disjoint_mean

    deltas = torch.stack(models)
    assert disjoint_mean(deltas, torch.ones(2), -1.0)[0] == -1
    assert disjoint_mean(deltas, torch.ones(2), 1.0)[0] == 1
    whole = TaskVectors(elect=True).survey(["w"], lambda n: (base, models))
    assert whole("w", base, models).tolist() == [-1, -2, -3, -4]


# What other code returned for these task vectors over 0: the authors' own (prateeky2806/
# ties-merging 44e7891: topk_values_mask, resolve_sign("mass"), disjoint_merge("dis-mean")) and
# mergekit 0.1.5 (its method objects, with the masks of DARE given to torch.bernoulli).
A = torch.tensor([4.0, -3, 2, -1, 0.5, 3, -2, 1])
B = torch.tensor([-4.0, -1, 3, 2, -0.5, -3, -1, 0])
C = torch.tensor([1.0, 2, -2, -4, 3, -1, 0.5, 2])
UNLIKE = [
    torch.tensor([4.0, -3, 2.5, -1, 0.5, 3.5, -2, 1.5]),
    torch.tensor([-4.0, -1.5, 3, 2, -0.5, -3.5, -1, 0]),
    torch.tensor([1.0, 2.5, -2, -4, 3, -1.5, 0.5, 2.2]),
]
WEIGHTS = (0.3, 0.9, -0.5)


@pytest.mark.parametrize(
    ("models", "density", "told"),
    [
        ([A, B], 0.5, [-4, -2, 2.5, 2, 0, -3, -1.5, 0]),
        ([A, B, C], 0.25, [4, -3, 3, -4, 3, 3, 0, 2]),
        ([A, -A], 0.5, [-4, -3, -2, 0, 0, -3, -2, 0]),
    ],
)
def test_ties_is_that_of_its_authors_code(models, density, told):
    merge = TaskVectors(density=density, trim="code_compat", elect=True)
    assert _merged(merge, torch.zeros(8), models).tolist() == told


def test_ties_and_dare_are_what_mergekit_returned(monkeypatch):
    masks = torch.tensor(
        [[1.0, 0, 1, 0, 1, 1, 0, 1], [1, 1, 0, 0, 1, 0, 1, 1], [0, 1, 1, 1, 0, 1, 1, 0]]
    )
    base, models = torch.zeros(8), UNLIKE
    found = _merged(
        TaskVectors(weights=WEIGHTS, density=0.5, scale=0.8, trim="tensor", elect=True),
        base,
        models,
    )
    told = [-3.2, 8.6, 2.3, 7.6, 2.4, -2.8, 0, 1.76]
    torch.testing.assert_close(found, torch.tensor(told))
    given = iter(masks.repeat(2, 1))
    monkeypatch.setattr(torch, "rand", lambda *args, **kwargs: next(given))
    merge = TaskVectors(drop=0.5, rescale="l1", elect=True, average="mergekit_compat")
    found = replace(merge, weights=WEIGHTS, trim="tensor")("w", base, models)
    told = [
        -7.971428, -4.977381, 2.7154763, 3.1809525, -0.9964285, 2.7678573, -2.390476, 0.675
    ]  # fmt: skip
    torch.testing.assert_close(found, torch.tensor(told))


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.3, 0.9, 0.5), (0.3, -0.9, 2.0)])
@pytest.mark.parametrize("drop", [0.0, 0.6])
def test_weighted_ties_as_peft_divides_by_how_many_agree(weights, drop, monkeypatch):
    base, models = _models()
    deltas = [m - base for m in models]
    draws = [torch.rand(base.shape, generator=generator(f"0 {i} w")) for i in range(3)]
    masks = iter([(x >= drop).float() for x in draws])
    monkeypatch.setattr(torch, "bernoulli", lambda *args, **kwargs: next(masks))
    theirs = merge_utils.dare_ties if drop else merge_utils.ties
    told = theirs(deltas, torch.tensor(weights), 1 - drop if drop else 0.4)
    density = 1.0 if drop else 0.4
    merge = TaskVectors(
        weights=weights, drop=drop, density=density, trim="tensor", elect=True,
        average="peft_compat",
    )  # fmt: skip
    torch.testing.assert_close(_merged(merge, base, models), base + told)


def test_a_weight_of_zero_leaves_the_base():
    base, models = _models(1)
    for average in ("weights", "peft_compat", "mergekit_compat"):
        merge = TaskVectors(weights=(0.0,), elect=True, average=average)
        assert torch.equal(_merged(merge, base, models), base)
        half = TaskVectors(weights=(0.5,), elect=True, average=average)
        share = 1.0 if average == "weights" else 0.5
        told = base + share * (models[0] - base)
        torch.testing.assert_close(_merged(half, base, models), told)


def test_task_arithmetic_is_pefts():
    base, models = _models()
    weights = (0.2, 0.5, -0.4)
    theirs = merge_utils.task_arithmetic([m - base for m in models], torch.tensor(weights))
    found = _merged(TaskVectors(weights=weights, scale=1.5), base, models)
    torch.testing.assert_close(found, base + 1.5 * theirs)


@pytest.mark.parametrize("name", ["task_arithmetic", "ties", "dare_linear", "dare_ties"])
def test_as_mergekit(name, monkeypatch):
    """Its own method object on the same tensors; the draws of DARE are given to it."""
    pytest.importorskip("mergekit")
    from mergekit.merge_methods import registry

    if not hasattr(registry.get(name), "merge_group"):
        pytest.skip("a mergekit before 0.1.5, whose methods are called otherwise")
    base, models = _models(2, (40, 30))
    entries = [SimpleNamespace(id=i, tensor=m) for i, m in enumerate(models)]
    group = SimpleNamespace(base=SimpleNamespace(tensor=base), non_base=entries)
    draws = [torch.rand(base.shape, generator=generator(f"3 {i} w")) for i in range(2)]
    masks = iter([(x >= 0.6).float() for x in draws])
    monkeypatch.setattr(torch, "bernoulli", lambda *args, **kwargs: next(masks))
    drop, density = (0.6, 1.0) if "dare" in name else (0.0, 0.3 if name == "ties" else 1.0)
    theirs = registry.get(name).merge_group(
        group, weight={0: 0.3, 1: 0.9}, density=dict.fromkeys((0, 1), min(density, 1 - drop)),
        normalize="ties" in name, rescale=bool(drop), int8_mask=False, **{"lambda": 0.8},
    )  # fmt: skip
    ours = TaskVectors(
        weights=(0.3, 0.9), scale=0.8, density=density, trim="tensor", elect="ties" in name,
        drop=drop, rescale="l1", seed=3,
    )  # fmt: skip
    torch.testing.assert_close(_merged(ours, base, models), theirs)


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_slerp_is_mergekits(t):
    pytest.importorskip("mergekit")
    from mergekit.merge_methods.slerp import slerp as theirs

    base, models = _models(1, (40, 30))
    found = theirs(torch.tensor([t]), base[None], models[0][None])[0]
    torch.testing.assert_close(slerp(base, models[0], t), found)


def test_dare_keeps_the_mean_and_multiplies_the_variance():
    torch.manual_seed(0)
    delta = torch.randn(200_000)
    left = dropped(delta, 0.9, generator("a"))
    assert abs(float((left != 0).float().mean()) - 0.1) < 0.003
    torch.testing.assert_close(left[left != 0], delta[left != 0] / 0.1)
    assert 9.5 < float(left.var() / delta.var()) < 11
    draws = torch.stack([dropped(delta[:50], 0.9, generator(f"{i}")) for i in range(4000)])
    error = draws.mean(0) - delta[:50]
    assert float((error.abs() / (3 * delta[:50].abs() / math.sqrt(4000))).max()) < 4
    restored = dropped(delta, 0.9, generator("a"), "l1")
    torch.testing.assert_close(restored.abs().sum(), delta.abs().sum())


def test_draws_follow_from_seed_model_and_name():
    base, models = _models(2)
    merge = TaskVectors(drop=0.5, seed=1)
    assert torch.equal(merge("w", base, models), merge("w", base, models))
    assert not torch.equal(merge("w", base, models), merge("v", base, models))
    other = TaskVectors(drop=0.5, seed=2)
    assert not torch.equal(merge("w", base, models), other("w", base, models))
    # the same change in two models is not dropped at the same places
    twice = merge("w", base, [models[0], models[0]]) - base
    assert len({round(float(x), 3) for x in (twice / (models[0] - base)).flatten()}) == 3


def test_slerp_done_by_hand():
    one, two = torch.tensor([1.0, 0]), torch.tensor([0.0, 3])
    half = math.sin(math.pi / 4)
    torch.testing.assert_close(slerp(one, two, 0.5), torch.tensor([half, 3 * half]))
    near = torch.tensor([1.0, 1e-3])
    assert torch.equal(slerp(one, near, 0.25), torch.lerp(one, near, 0.25))


def test_slerp_is_what_mergekit_returned():
    """mergekit 0.1.5's and 0.1.4's slerp at 0.25."""
    one, two, none = torch.tensor([1.0, 2, -2]), torch.tensor([2.0, 0, 1]), torch.zeros(3)
    for ends, told in {
        (none, one): [0.38268346, 0.7653669, -0.7653669],
        (one, none): [0.92387956, 1.8477591, -1.8477591],
        (one, -one): [0.5, 1, -1],
        (one, two): [1.6892464, 1.8477591, -1.4650757],
        (one * 1e-9, one): [0.38268346, 0.7653669, -0.7653669],
    }.items():
        torch.testing.assert_close(slerp(*ends, 0.25), torch.tensor(told))
    assert torch.equal(slerp(none, none, 0.5), none)
    large = 1e25 * one, 1e25 * two  # whose product is no float32
    torch.testing.assert_close(slerp(*large, 0.25), 1e25 * slerp(one, two, 0.25))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_ends_and_fixed_points_to_the_bit(dtype):
    base, models = _models(2)
    base, models = base.to(dtype), [m.to(dtype) for m in models]
    base[0, 0] = -0.0
    wide = torch.promote_types(dtype, torch.float32)

    def same(found, wanted):
        assert found.dtype == wide
        assert torch.equal(found.view(torch.uint8), wanted.to(wide).view(torch.uint8))

    for merge in (
        TaskVectors(),
        TaskVectors(scale=0.3, weights=(2.0, -1.0)),
        TaskVectors(density=0.3, elect=True),
        TaskVectors(drop=0.7, elect=True),
        Soup(),
        Soup(base=0.2, weights=(0.3, 0.5)),
        Slerp(t=0.3),
    ):
        same(_merged(merge, base, [base, base]), base)
    same(_merged(Soup(weights=(0.3, 0.7)), base, [models[0], models[0]]), models[0])
    same(_merged(Soup(weights=(1.0, 0.0)), base, models), models[0])
    same(_merged(Soup(weights=(0.0, 1.0)), base, models), models[1])
    same(_merged(Slerp(t=0), base, models), models[0])
    same(_merged(Slerp(t=1), base, models), models[1])
    same(_merged(Slerp(t=1), base, models[:1]), models[0])
    same(_merged(TaskVectors(scale=0), base, models), base)
    same(_merged(TaskVectors(), base, models[:1]), models[0])
    same(_merged(TaskVectors(elect=True), base, models[:1]), models[0])


def test_a_soup_is_the_mean_in_float32():
    models = _models(3)[1]
    half = [m.bfloat16() for m in models]
    exact = sum(m.float() for m in half) / 3
    torch.testing.assert_close(soup(half), exact)
    assert not torch.equal((sum(half) / 3).float(), soup(half))  # what bfloat16 would have lost
    for weights in ((0.5, 0.4, 0.2), (0.5, 0.4), (0.3, 0.3, 0.3)):
        with pytest.raises(UsageError, match="sum"):
            soup(models, weights)


@pytest.mark.parametrize("density", [0.0, 0.001, 0.2, 0.5, 0.99, 1.0])
def test_the_threshold_is_what_sorting_finds(density):
    torch.manual_seed(1)
    tensors = [torch.randn(700), torch.randn(3, 100) * 1e-3, torch.zeros(50), torch.rand(50) * 1e6]
    every = torch.cat([t.abs().flatten() for t in tensors]).sort(descending=True).values
    wanted = int(density * len(every))
    found = threshold(lambda: (t.abs() for t in tensors), density)
    assert found == (float(every[wanted - 1]) if wanted else float("inf"))


def test_weights_must_fit():
    base, models = _models(3)
    with pytest.raises(UsageError, match="2 weights"):
        TaskVectors(weights=(1.0, 2.0))("w", base, models)
    with pytest.raises(UsageError, match="two models"):
        Slerp()("w", base, models)
