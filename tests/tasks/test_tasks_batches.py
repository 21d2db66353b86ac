"""Batches: coverage, order, and what happens when memory runs out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from holdfast.errors import RunError, UsageError
from holdfast.tasks.batches import asked, in_batches, is_out_of_memory
from holdfast.tasks.room import AUTO_TOKENS, Room

OUT = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("MPS backend out of memory"),
]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100, "auto"])
def test_every_item_once_longest_first_in_the_old_order(size: int) -> None:
    lengths = [3, 9, 1, 9, 4, 7, 2]
    seen: list[int] = []

    def work(rows: list[int]) -> list[str]:
        seen.extend(rows)
        return [f"r{i}" for i in rows]

    steps: list[tuple[int, int]] = []
    results = in_batches(
        lengths, work, batch_size=size, progress=lambda done, total: steps.append((done, total))
    )
    assert results == [f"r{i}" for i in range(7)]
    assert sorted(seen) == list(range(7))
    assert [lengths[i] for i in seen] == sorted(lengths, reverse=True)
    assert steps[-1] == (7, 7)


def test_nothing_to_do() -> None:
    assert in_batches([], lambda rows: rows) == []


def test_auto_limits_the_tokens_of_a_batch() -> None:
    sizes: list[int] = []
    long = AUTO_TOKENS["cpu"] // 3

    def work(rows: list[int]) -> list[int]:
        sizes.append(len(rows))
        return rows

    in_batches([long] * 7 + [10 * long], work)
    assert sizes == [1, 3, 3, 1]


@pytest.mark.parametrize("error", OUT, ids=str)
@pytest.mark.parametrize("fits", [1, 2, 5])
def test_a_batch_halves_until_it_fits_and_stays_halved(error: Exception, fits: int) -> None:
    tried: list[int] = []

    def work(rows: list[int]) -> list[int]:
        tried.append(len(rows))
        if len(rows) > fits:
            raise error
        return [10 * i for i in rows]

    assert in_batches([1] * 13, work, batch_size=8) == [10 * i for i in range(13)]
    failed = [n for n in tried if n > fits]
    assert tried[: len(failed)] == failed, "once a size fits, no larger one is tried"
    assert len(failed) <= 3


def test_batches_grow_again_when_the_items_get_shorter() -> None:
    sizes: list[tuple[int, int]] = []
    lengths = [64] * 8 + [8] * 40

    def work(rows: list[int]) -> list[int]:
        sizes.append((lengths[rows[0]], len(rows)))
        if sum(lengths[i] for i in rows) > 128:
            raise OUT[0]
        return rows

    assert in_batches(lengths, work, batch_size=32) == list(range(48))
    assert max(n for length, n in sizes if length == 64 and n <= 2) == 2
    assert max(n for length, n in sizes if length == 8) == 16, "as many tokens as had the room"


def test_a_size_that_did_not_fit_is_tried_again_after_a_while() -> None:
    room = Room(torch.device("cpu"))
    tried: list[int] = []

    def work(rows: list[int]) -> list[int]:
        tried.append(len(rows))
        if len(rows) > 2 and len(tried) < 5:  # someone else holds the memory, and then frees it
            raise OUT[0]
        return rows

    in_batches([1] * 200, work, batch_size=8, room=room)
    assert tried[:3] == [8, 4, 2]
    assert tried[-1] == 8 or 8 in tried[3:]
    tried.clear()
    in_batches([1] * 16, lambda rows: tried.append(len(rows)) or rows, batch_size=8, room=room)
    assert tried == [8, 8], "what was learned is remembered"


def test_a_batch_of_one_that_does_not_fit_is_the_end() -> None:
    def work(rows: list[int]) -> list[int]:
        raise OUT[0]

    with pytest.raises(RunError, match="not enough memory"):
        in_batches([1] * 4, work, batch_size=4)


def test_other_errors_are_not_taken_for_memory() -> None:
    def work(rows: list[int]) -> list[int]:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        in_batches([1] * 4, work, batch_size=4)
    assert not is_out_of_memory(MemoryError("out of memory")), "Python's own is not torch's"


def test_a_worker_that_loses_a_row_is_a_defect() -> None:
    with pytest.raises(AssertionError):
        in_batches([1, 1], lambda rows: rows[:1], batch_size=2)


@pytest.mark.parametrize("size", [0, -1, True])
def test_an_impossible_batch_size_is_refused(size: int) -> None:
    with pytest.raises(UsageError, match="batch_size"):
        in_batches([1], lambda rows: rows, batch_size=size)


def test_modes_of_modules_are_restored_one_by_one() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Linear(2, 2))
    model.train()
    model[0].eval()
    seen = []

    def failing() -> None:
        with asked(model):
            seen.append((model.training, model[0].training, torch.is_grad_enabled()))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    assert seen == [(False, False, False)]
    assert model.training
    assert model[1].training
    assert not model[0].training
    assert torch.is_grad_enabled()
