"""Every method through the battery, and every pair of methods against each other."""

from __future__ import annotations

import itertools

import pytest
import torch

from holdfast.errors import PlanConflict
from holdfast.methods import METHODS, method
from holdfast.plan import Viewing
from holdfast.testing import check_method

torch.set_num_threads(1)

NEEDED: dict[str, dict[str, object]] = {
    "last-n": {"n": 1},
    "first-n": {"n": 1},
    "bottom-freeze": {"n": 1},
    "scole": {"classes": "colour"},
    "train": {"select": "language[0].attn.q+o + language[1].mlp.down"},
}
"""Settings without a default."""
NAMES = [entry.name for entry in METHODS]


@pytest.mark.parametrize("name", NAMES)
def test_method(name: str) -> None:
    check_method(name, **NEEDED.get(name, {}))


@pytest.mark.parametrize(("a", "b"), list(itertools.product(NAMES, NAMES)))
def test_pairs_compose_or_are_refused_by_name(a: str, b: str) -> None:
    first, second = (method(n, **NEEDED.get(n, {})) for n in (a, b))
    both_train = first.train is not None and second.train is not None
    both_feed = first.feed is not None and second.feed is not None
    both_adapt = first.adapt is not None and second.adapt is not None
    same_term = {t.name for t in first.learn} & {t.name for t in second.learn}
    adapter = first.adapt or second.adapt
    one_of_each = adapter is not None and (first.train or second.train) is not None
    nothing_settles = adapter is not None and adapter.structure() is not None
    unsettled = nothing_settles and bool(first.settle or second.settle)
    held = adapter is not None and any(
        getattr(t, "of_model", False) for t in first.learn + second.learn
    )
    both_fit = sum(getattr(t, "fits", False) for t in first.learn + second.learn) > 1
    own = any(getattr(t, "writes", False) for t in first.learn + second.learn)
    viewed = own and isinstance(first.feed or second.feed, Viewing)
    apart = one_of_each or unsettled or held or both_fit or viewed
    if both_train or both_feed or both_adapt or same_term or apart:
        with pytest.raises(PlanConflict) as error:
            first | second
        assert a in str(error.value)
        assert b in str(error.value)
        return
    both = first | second
    assert both.learn == first.learn + second.learn
    assert both.settle == first.settle + second.settle
    assert both.train == (first.train or second.train)
