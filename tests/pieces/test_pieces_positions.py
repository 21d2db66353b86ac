"""Which positions a term reads, against a slow loop over tokens."""

from __future__ import annotations

import pytest
import torch

from holdfast.errors import UsageError
from holdfast.pieces.distill import Distill
from holdfast.pieces.positions import POSITIONS, llava_lmmcl

torch.set_num_threads(1)


def _batch() -> dict[str, torch.Tensor]:
    """Right padding, left padding, a label on the very first and the very last token."""
    return {
        "input_ids": torch.arange(24).view(3, 8),
        "attention_mask": torch.tensor(
            [[1, 1, 1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 1, 1, 1], [1] * 8]
        ),
        "labels": torch.tensor(
            [
                [-100, -100, -100, 3, 4, -100, -100, -100],
                [-100, -100, -100, -100, -100, -100, 14, 15],
                [16, -100, 18, -100, -100, -100, -100, 23],
            ]
        ),
        "mm_token_type_ids": torch.tensor(
            [[0, 1, 1, 0, 0, 0, 0, 0], [0] * 8, [1, 0, 0, 2, 2, 0, 0, 0]]
        ),
    }


def _slow(name: str, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    wanted = torch.zeros(3, 8, dtype=torch.bool)
    for b in range(3):
        for t in range(7):  # nothing follows the last token
            both = bool(batch["attention_mask"][b, t] and batch["attention_mask"][b, t + 1])
            text = int(batch["mm_token_type_ids"][b, t + 1]) == 0
            supervised = int(batch["labels"][b, t + 1]) != -100
            wanted[b, t] = {"answer": supervised, "all": both, "all_text": both and text}[name]
    return wanted


@pytest.mark.parametrize("name", ["answer", "all", "all_text"])
def test_positions_are_shifted_by_one(name: str) -> None:
    assert torch.equal(POSITIONS[name](_batch()), _slow(name, _batch()))
    assert torch.equal(Distill(at=name).positions(_batch()), _slow(name, _batch()))  # type: ignore[arg-type]


def test_without_a_mask_every_token_counts() -> None:
    batch = {"input_ids": torch.zeros(1, 4).long(), "labels": torch.zeros(1, 4).long()}
    assert POSITIONS["all"](batch).tolist() == [[True, True, True, False]]
    assert POSITIONS["all_text"](batch).tolist() == [[True, True, True, False]]


def test_text_cannot_be_guessed_where_there_are_images() -> None:
    batch = {"input_ids": torch.zeros(1, 4).long(), "pixel_values": torch.zeros(1, 3, 2, 2)}
    with pytest.raises(UsageError, match="mm_token_type_ids"):
        POSITIONS["all_text"](batch)


def test_the_released_fifth_of_a_sequence() -> None:
    mask = torch.ones(1, 100).long()
    chosen = llava_lmmcl({"input_ids": mask, "attention_mask": mask})[0].nonzero().squeeze(1)
    # 20 of 100: 8 from the start, 8 from the end, 4 between 8 and 92, every 21st
    assert chosen.tolist() == [*range(8), 8, 29, 50, 71, *range(92, 100)]


@pytest.mark.parametrize(("tokens", "count"), [(4, 0), (5, 1), (50, 10), (6000, 1000)])
def test_the_released_mask_has_a_fifth_and_at_most_a_thousand(tokens: int, count: int) -> None:
    ids = torch.zeros(1, tokens).long()
    assert int(llava_lmmcl({"input_ids": ids}).sum()) == count


def test_the_released_mask_counts_from_the_first_token_that_is_there() -> None:
    ids = torch.zeros(2, 130).long()
    mask = torch.zeros(2, 130).long()
    mask[0, :100] = 1
    mask[1, 30:] = 1
    chosen = llava_lmmcl({"input_ids": ids, "attention_mask": mask})
    assert torch.equal(chosen[0, :100], chosen[1, 30:])
    assert not chosen[0, 100:].any()
    assert not chosen[1, :30].any()
