"""Every family: the parts cover each element of each parameter exactly once, with a role."""

from __future__ import annotations

import pytest
import torch
from tiny_families import CONFIGS, build

from holdfast.anatomy import RowMask, anatomy


@pytest.mark.parametrize("name", CONFIGS)
def test_parts_partition_the_parameters(name):
    model = build(name)
    found = anatomy(model)
    covered = {n: torch.zeros(p.shape, dtype=torch.int) for n, p in model.named_parameters()}
    for part in found.parts:
        whole = covered[part.parameter]
        if part.rows is None:
            whole += 1
        else:
            whole += RowMask((part.rows,)).mask(tuple(whole.shape)).int()
    for parameter, times in covered.items():
        assert (times == 1).all(), parameter
    assert found.count == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", CONFIGS)
def test_every_weight_has_a_role(name):
    assert [p.parameter for p in anatomy(build(name)).other] == []
