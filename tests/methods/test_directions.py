"""What papers' own small examples show, on tiny models: directions, at equal learning.

Each method is compared with the course of plain tuning: what was lost of the first skill when the
second was known as well. What does not hold is said in docs/reproduced.md and not tested.
"""

import pytest
import torch
from toy_facts import in_turn, llama, loss, skill, teach

torch.set_num_threads(1)
SEEDS = [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("method", ["fpf:iterations=40", "k-fpf:k=3,iterations=15,distill=0.1"])
def test_a_few_parts_on_a_memory_bring_the_first_task_back(method, seed, tmp_path):
    """Zhao et al. 2023: norms and head on a buffer of 24 examples."""
    plain = in_turn("full", seed, tmp_path / "plain")
    mended = in_turn(["full", method], seed, tmp_path / "mended")
    learned, kept = mended.seen[-1]
    assert learned < 1.0  # of ln 24 = 3.2
    assert kept < plain.kept_at(learned) - 0.5


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_small_share_of_the_first_stage_keeps_some_of_it(seed, tmp_path):
    """Dong et al. 2024: sequential, then DMT, then both at once, for the specialised skill."""
    more = {"copies": 4, "epochs": 4}
    sequential = in_turn("full", seed, tmp_path / "sequential", **more)
    mixed = in_turn(["full", "dmt:share=0.0625"], seed, tmp_path / "mixed", **more)
    both = teach("full", llama(seed=seed), skill(0, copies=4) + skill(1, copies=4), epochs=4)
    learned, kept = mixed.seen[-1]
    assert learned < 0.2
    assert loss(both, skill(0)) < kept < sequential.kept_at(learned) - 0.5
