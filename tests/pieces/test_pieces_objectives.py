"""Losses against closed forms, a slow loop, and torch's own."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from holdfast.pieces.distill import CrossEntropy, Distill
from holdfast.pieces.objectives import cross_entropy, kl
from holdfast.plan import Outputs, TokenTerm

torch.set_num_threads(1)


def _pair(n: int = 7, v: int = 11, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(n, v, generator=generator, dtype=torch.float64) * scale
    teacher = torch.randn(n, v, generator=generator, dtype=torch.float64) * scale
    return student.requires_grad_(), teacher


def test_cross_entropy_is_minus_log_probability() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)], [1.0, 1.0], [5.0, 0.0]])
    loss = cross_entropy(logits, torch.tensor([1, 0, -100]))
    expected = torch.tensor([-math.log(3 / 4), math.log(2.0), 0.0])
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_kl_is_the_sum_over_words(direction: str, temperature: float) -> None:
    student, teacher = _pair()
    value = kl(student, teacher, temperature=temperature, direction=direction)  # type: ignore[arg-type]
    for n in range(len(student)):
        s = [math.exp(x / temperature) for x in student[n].tolist()]
        t = [math.exp(x / temperature) for x in teacher[n].tolist()]
        p, q = [x / sum(t) for x in t], [x / sum(s) for x in s]
        if direction == "reverse":
            p, q = q, p
        assert value[n].item() == pytest.approx(
            sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)), rel=1e-5
        )


def test_kl_of_equal_distributions_is_zero_with_zero_gradient() -> None:
    student, _ = _pair()
    value = kl(student, student.detach() + 3.0, temperature=2.0)  # a constant changes nothing
    value.sum().backward()
    assert value.abs().max() < 1e-6
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-6


def test_no_gradient_reaches_the_teacher() -> None:
    student, teacher = _pair()
    teacher.requires_grad_()
    kl(student, teacher).sum().backward()
    assert teacher.grad is None
    assert student.grad is not None


def test_at_high_temperature_the_scaled_kl_is_half_the_variance() -> None:
    student, teacher = _pair()
    difference = student.detach() - teacher
    variance = (difference - difference.mean(-1, keepdim=True)).pow(2).mean(-1) / 2
    term = Distill(temperature=30.0)
    outputs = Outputs(student.detach(), torch.zeros(7).long(), torch.zeros(7).long(), teacher)
    torch.testing.assert_close(term(outputs).double(), variance, atol=5e-3, rtol=0.1)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_chunks_change_neither_values_nor_gradients(direction: str, chunk: int) -> None:
    grads, values = [], []
    for size in (None, chunk):
        student, teacher = _pair(scale=4.0)
        value = kl(student, teacher, temperature=2.0, direction=direction, chunk=size)  # type: ignore[arg-type]
        (value * torch.arange(7)).sum().backward()
        grads.append(student.grad)
        values.append(value)
    assert torch.equal(values[0], values[1])
    assert grads[0] is not None
    assert torch.equal(grads[0], grads[1])


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_words_that_neither_can_say_add_nothing(direction: str) -> None:
    student, teacher = _pair()
    wide = torch.full((7, 3), -torch.inf, dtype=torch.float64)
    padded = torch.cat([student, wide], 1)
    value = kl(padded, torch.cat([teacher, wide], 1), direction=direction)  # type: ignore[arg-type]
    value.sum().backward()
    torch.testing.assert_close(value, kl(student.detach(), teacher, direction=direction))  # type: ignore[arg-type]
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_a_word_that_only_the_teacher_says_is_infinitely_far() -> None:
    student = torch.tensor([[0.0, -torch.inf]])
    assert kl(student, torch.zeros(1, 2)).item() == math.inf
    assert kl(student, torch.zeros(1, 2), direction="reverse").item() == pytest.approx(math.log(2))


def test_low_precision_logits_are_read_in_float32() -> None:
    student, teacher = _pair()
    low = kl(student.detach().bfloat16(), teacher.bfloat16())
    assert low.dtype == torch.float32
    exact = kl(student.detach().bfloat16().float(), teacher.bfloat16().float())
    assert torch.equal(low, exact)
    assert cross_entropy(teacher.bfloat16(), torch.zeros(7).long()).dtype == torch.float32


def test_bad_arguments_are_refused() -> None:
    student, teacher = _pair()
    for bad in ({"temperature": 0.0}, {"chunk": 0}, {"temperature": float("nan")}):
        with pytest.raises(ValueError, match="positive"):
            kl(student, teacher, **bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one shape"):
        kl(student, teacher[:3])


def test_no_positions_is_an_empty_loss() -> None:
    empty = torch.zeros(0, 5)
    assert kl(empty, empty).shape == (0,)
    assert kl(empty, empty, chunk=4).shape == (0,)
    assert cross_entropy(empty, torch.zeros(0).long()).shape == (0,)


def test_terms_are_terms_and_agree_with_torch() -> None:
    student, teacher = _pair()
    targets = torch.randint(0, 11, (7,))
    outputs = Outputs(student, targets, torch.zeros(7).long(), teacher)
    assert isinstance(Distill(), TokenTerm)
    assert isinstance(CrossEntropy(), TokenTerm)
    assert (CrossEntropy().fits, Distill().fits) == (True, False)
    assert Distill(teacher="base").reference == "base"
    torch.testing.assert_close(
        CrossEntropy()(outputs).mean(), F.cross_entropy(student.float(), targets)
    )
    expected = 4 * F.kl_div(
        F.log_softmax(student / 2, -1), F.log_softmax(teacher / 2, -1), log_target=True,
        reduction="batchmean",
    )  # fmt: skip
    torch.testing.assert_close(
        Distill(temperature=2.0)(outputs).mean().double(), expected.detach(), rtol=1e-5, atol=1e-7
    )
