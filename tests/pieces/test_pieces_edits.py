"""Interpolation against its closed forms."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from holdfast.errors import UsageError
from holdfast.pieces.edits import Interpolate

torch.set_num_threads(1)


def _weights(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "a.weight": torch.randn(5, 3, generator=generator).to(dtype),
        "b.bias": torch.tensor([0.0, -0.0, 1e-30, 3.0]).to(dtype) * (seed + 1),
    }


def _bits(x: Tensor) -> Tensor:
    return x.view({4: torch.int32, 2: torch.int16}[x.element_size()])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_ends_are_exact_to_the_bit(dtype: torch.dtype) -> None:
    tuned, start, base = (_weights(i, dtype) for i in range(3))
    for alpha, anchor, expected in (
        (0.0, "previous", tuned),
        (0.0, "base", tuned),
        (1.0, "previous", start),
        (1.0, "base", base),
    ):
        result = Interpolate(alpha=alpha, anchor=anchor)(tuned, start, base)  # type: ignore[arg-type]
        for name in tuned:
            assert torch.equal(_bits(result[name]), _bits(expected[name]))
            assert result[name].data_ptr() != expected[name].data_ptr()


@pytest.mark.parametrize("anchor", ["previous", "base", "both"])
def test_the_middle_is_the_weighted_mean(anchor: str) -> None:
    tuned, start, base = (_weights(i) for i in range(3))
    result = Interpolate(alpha=0.3, anchor=anchor)(tuned, start, base)  # type: ignore[arg-type]
    for name in tuned:
        target = {"previous": start, "base": base}.get(anchor, {}).get(name)
        target = (start[name] + base[name]) / 2 if target is None else target
        torch.testing.assert_close(result[name], 0.3 * target + 0.7 * tuned[name])


def test_the_sum_is_formed_in_float32() -> None:
    tuned, start = ({"w": torch.full((4,), x, dtype=torch.bfloat16)} for x in (1.0, 1.0078125))
    result = Interpolate(alpha=0.5)(tuned, start, start)["w"]
    exact = ((tuned["w"].float() + start["w"].float()) / 2).to(torch.bfloat16)
    assert torch.equal(result, exact)
    assert result.dtype == torch.bfloat16


@given(st.floats(0, 1), st.floats(-1e6, 1e6, width=32))
def test_a_weight_that_did_not_move_stays(alpha: float, value: float) -> None:
    same = {"w": torch.tensor([value])}
    assert torch.equal(Interpolate(alpha=alpha)(same, same, same)["w"], same["w"])


def test_a_sequence_of_stages_has_the_closed_form() -> None:
    alpha, stages = 0.4, 5
    base = {"w": torch.randn(6, dtype=torch.float64)}
    tuned = [{"w": torch.randn(6, dtype=torch.float64)} for _ in range(stages)]
    average = base
    for one in tuned:
        average = Interpolate(alpha=alpha)(one, average, base)
    closed = alpha**stages * base["w"] + sum(
        (1 - alpha) * alpha ** (stages - k) * one["w"] for k, one in enumerate(tuned, 1)
    )
    torch.testing.assert_close(average["w"], closed, rtol=1e-12, atol=1e-12)


def test_along_the_path_a_linear_models_loss_is_a_parabola() -> None:
    x, y = torch.randn(20, 4, dtype=torch.float64), torch.randn(20, dtype=torch.float64)
    tuned, start = ({"w": torch.randn(4, dtype=torch.float64)} for _ in range(2))

    def loss(alpha: float) -> float:
        w = Interpolate(alpha=alpha)(tuned, start, start)["w"]
        return float(((x @ w - y) ** 2).sum())

    difference = x @ (start["w"] - tuned["w"])
    slope = float(2 * (difference * (x @ tuned["w"] - y)).sum())
    for alpha in (0.1, 0.35, 0.9):
        parabola = loss(0.0) + slope * alpha + float((difference**2).sum()) * alpha**2
        assert loss(alpha) == pytest.approx(parabola, rel=1e-10)


def test_other_weights_are_refused_by_name() -> None:
    tuned = _weights(0)
    fewer = {"a.weight": tuned["a.weight"]}
    with pytest.raises(UsageError, match=r"b\.bias"):
        Interpolate(alpha=0.5)(tuned, fewer, tuned)
    with pytest.raises(UsageError, match=r"b\.bias"):
        Interpolate(alpha=0.5)(fewer, fewer, tuned)
    other = {**tuned, "b.bias": torch.zeros(1)}
    with pytest.raises(UsageError, match=r"\(4,\).*\(1,\)"):
        Interpolate(alpha=0.5)(tuned, tuned, other)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_a_share_is_between_0_and_1(alpha: float) -> None:
    with pytest.raises(UsageError, match="from 0 to 1"):
        Interpolate(alpha=alpha)
