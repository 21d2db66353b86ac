"""Which next-token predictions a term reads: [B, T] masks, True at t for token t+1."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from holdfast.errors import UsageError
from holdfast.plan import source_id


def answer(batch: Mapping[str, Tensor]) -> Tensor:
    """Predictions of supervised tokens: t where ``labels[t+1]`` is not -100."""
    return _next(batch["labels"] != -100)


def everything(batch: Mapping[str, Tensor]) -> Tensor:
    """Predictions of every token that is not padding: text, images and prompt."""
    attended = _attended(batch)
    return attended & _next(attended)


def text(batch: Mapping[str, Tensor]) -> Tensor:
    """Predictions of every token that is neither padding nor part of an image or video.

    Reads ``mm_token_type_ids`` (0 for text), which processors of multimodal models make.

    Raises:
        UsageError: the batch has pixels and does not say which tokens they stand for.
    """
    wanted = everything(batch)
    kinds = batch.get("mm_token_type_ids")
    if kinds is not None:
        return wanted & _next(kinds == 0)
    pixels = [key for key in batch if key.startswith("pixel_values")]
    if pixels:
        raise UsageError(
            f"positions='all_text' cannot tell text from images here: the batch has {pixels[0]} "
            "but no mm_token_type_ids. Use positions='answer' or 'all', or a processor called "
            "with return_mm_token_type_ids=True."
        )
    return wanted


def llava_lmmcl(batch: Mapping[str, Tensor]) -> Tensor:
    """The fifth of a sequence that the released code of Zhu et al. 2025 distils on.

    Of n tokens, m = min(0.2 n, 1000) positions: 40% of m from the start, 40% from the end,
    the rest evenly from between. Positions are not shifted, so the last one may be among
    them, although no token follows it.
    """
    attended = _attended(batch)
    wanted = torch.zeros_like(attended)
    for row, present in enumerate(attended):
        places = present.nonzero().squeeze(1)
        wanted[row, places[_spread(len(places)).to(places.device)]] = True
    return wanted


POSITIONS: dict[str, Callable[[Mapping[str, Tensor]], Tensor]] = {
    "answer": answer,
    "all_text": text,
    "all": everything,
    "llava_lmmcl_compat": llava_lmmcl,
}


def of_source(wanted: Tensor, batch: Mapping[str, Tensor], source: str | None) -> Tensor:
    """Those of the positions ``wanted`` [B, T] that lie in examples of one source; None: all.

    Raises:
        UsageError: the batch does not say which sources its rows are from.
    """
    if source is None:
        return wanted
    if "source" not in batch:
        raise UsageError(
            f"a term reads the source '{source}' only, and this batch does not say where its "
            "rows are from; use holdfast.tune or 'holdfast tune'."
        )
    return wanted & (batch["source"] == source_id(source)).to(wanted.device)[:, None]


def _spread(n: int) -> Tensor:
    m = min(int(n * 0.2), 1000)
    start = end = int(m * 0.4)
    middle, room = m - start - end, n - start - end
    between = torch.empty(0, dtype=torch.long)
    if 0 < middle < room:
        between = torch.arange(start, n - end, room // middle)[:middle]
    return torch.cat([torch.arange(start), between, torch.arange(n - end, n)])


def _attended(batch: Mapping[str, Tensor]) -> Tensor:
    mask = batch.get("attention_mask")
    if mask is None:
        return torch.ones_like(batch["input_ids"], dtype=torch.bool)
    return mask.bool()


def _next(mask: Tensor) -> Tensor:
    """At t, the value of ``mask`` at t+1; False at the last position."""
    moved = torch.zeros_like(mask)
    moved[:, :-1] = mask[:, 1:]
    return moved
