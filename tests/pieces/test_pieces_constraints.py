"""Projected gradients against independent solvers and a loop by hand."""

from collections import Counter

import numpy as np
import pytest
import torch
from scipy.optimize import LinearConstraint, minimize

from holdfast.carried import MEMORY, Ended
from holdfast.methods import method
from holdfast.pieces.constraints import Constrained, RehearseEach, multipliers
from holdfast.plan import NEW

torch.set_num_threads(1)


def problem(seed, constraints, size=12):
    g = torch.Generator().manual_seed(seed)
    memory = torch.randn(constraints, size, generator=g, dtype=torch.float64)
    own = torch.randn(size, generator=g, dtype=torch.float64) - memory.mean(0)
    return own, memory


def projected(own, memory, **settings):
    v = multipliers(memory @ memory.T, memory @ own, **settings)
    return own + v @ memory


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("constraints", [1, 3, 6])
def test_gem_is_the_nearest_gradient_in_the_cone(seed, constraints):
    """Against a general solver of the primal problem, which knows nothing of the dual."""
    own, memory = problem(seed, constraints)
    g, m = own.numpy(), memory.numpy()
    solved = minimize(
        lambda z: ((z - g) ** 2).sum(), np.zeros_like(g), jac=lambda z: 2 * (z - g),
        constraints=LinearConstraint(m, 0, np.inf), method="SLSQP", options={"ftol": 1e-14},
    )  # fmt: skip
    got = projected(own, memory)
    torch.testing.assert_close(got, torch.from_numpy(solved.x), atol=1e-5, rtol=0)
    assert (memory @ got > -1e-9).all()


def test_the_margins():
    own, memory = problem(1, 3)
    v = multipliers(memory @ memory.T, memory @ own)
    added = multipliers(memory @ memory.T, memory @ own, margin=0.5)
    torch.testing.assert_close(added, v + 0.5)
    # the authors' form: least of v P v / 2 + (M g) v over v >= margin
    p, d = (memory @ memory.T + 1e-3 * torch.eye(3)).numpy(), (memory @ own).numpy()
    solved = minimize(
        lambda v: v @ p @ v / 2 + d @ v, np.ones(3), jac=lambda v: p @ v + d,
        bounds=[(0.5, None)] * 3, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-10},
    )  # fmt: skip
    got = multipliers(memory @ memory.T, memory @ own, margin=0.5, code_compat=True)
    torch.testing.assert_close(got, torch.from_numpy(solved.x), atol=1e-5, rtol=0)


def test_repeated_and_empty_constraints():
    own, memory = problem(2, 2)
    twice = torch.cat([memory, memory, torch.zeros(1, 12, dtype=torch.float64)])
    torch.testing.assert_close(projected(own, twice), projected(own, memory), atol=1e-8, rtol=0)
    nothing = torch.zeros(2, 12, dtype=torch.float64)
    torch.testing.assert_close(projected(own, nothing), own)


def stepped(piece, own, references):
    weights = {"w": torch.nn.Parameter(torch.zeros(12)), "v": torch.nn.Parameter(torch.zeros(3))}
    weights["w"].grad = own.float().clone()
    padded = [{"w": r.float(), "v": torch.tensor([0.0, 1.0, 0.0])} for r in references]
    piece._references = padded
    piece.before_step(weights)
    return weights


def test_a_gem_is_orthogonal_to_its_reference_or_untouched():
    own, memory = problem(3, 1)
    weights = stepped(Constrained(each=False), own, [memory[0]])
    whole = torch.cat([memory[0], torch.tensor([0.0, 1.0, 0.0])])
    got = torch.cat([weights["w"].grad, weights["v"].grad]).double()
    assert abs(float(got @ whole)) < 1e-5  # also where the step itself has no gradient
    before = torch.cat([own, torch.zeros(3, dtype=torch.float64)])
    expected = before - (before @ whole) / (whole @ whole) * whole
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
    weights = stepped(Constrained(each=False, margin=0.5), -own, [memory[0]])
    assert torch.equal(weights["w"].grad, -own.float())
    assert weights["v"].grad is None


def test_a_step_reads_some_of_every_stage():
    feed = method("gem", capacity=9, each=2).feed
    for stage, size in enumerate((20, 1, 20), 1):
        ended = Ended(stage, 0, torch.nn.Linear(1, 1), (), range(size), list)
        feed = feed.recall(feed.keep(ended))
    sizes = {NEW: 10, MEMORY: 9}
    stage = [s for s, _ in feed.exemplars()]
    assert Counter(stage) == {1: 4, 2: 1, 3: 4}
    seen = set()
    for step in range(20):
        drawn = feed(sizes, step, 3, seed=0)
        assert [s for s, _ in drawn].count(NEW) == 3
        old = [i for s, i in drawn if s == MEMORY]
        assert Counter(stage[i] for i in old) == {1: 2, 2: 1, 3: 2}
        assert len(set(old)) == 5
        seen |= set(old)
    assert seen == set(range(9))
    assert len(RehearseEach(places=feed.places)(sizes, 0, 3, 0)) == 12
    assert RehearseEach(each=4)({NEW: 10}, 0, 3, 0) == RehearseEach()({NEW: 10}, 0, 3, 0)
    assert len(RehearseEach(each=4)(sizes, 0, 3, 0)) == 7  # a preview, before places are known


def test_gem_is_the_authors_code():
    """What project2cone2 of facebookresearch/GradientEpisodicMemory 34c6b8e returned."""
    own = torch.tensor([1.0, -2, 3, 0.5])
    memory = torch.tensor([[-1.0, 1, 0, 2], [0, 1, -1, 1], [1, 0, 0, 0]])
    for margin, told in {
        0.0: [1, -0.50049984, 1.50049984, 1.99950016],
        0.5: [1, -0.50033325, 2.00033331, 2.49966669],
        2.0: [1, 2, 1, 6.5],
    }.items():
        got = projected(own.double(), memory.double(), margin=margin, code_compat=True)
        torch.testing.assert_close(got.float(), torch.tensor(told, dtype=torch.float32))
