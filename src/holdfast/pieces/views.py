"""Views of examples: a feed that shows several in a step, and a term that compares them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from holdfast.errors import ConfigError, UsageError
from holdfast.pieces.feeds import draws
from holdfast.plan import NEW, VIEWS, Draw, Outputs, Reference, source_id, view

if TYPE_CHECKING:
    from torch import Tensor

Change = Literal["colour", "rand", "none"]


@dataclass(frozen=True, kw_only=True)
class ViewBatch:
    """A step of B slots reads B / V examples, each in V views; the first is the example itself.

    The optimizer steps are as many as without views and each example is visited as often, but in
    bursts that are V times further apart (the recall interval). Every visit has views of its own.

    Args:
        views: V; 1 reads shuffled epochs.
        image, operations, strength, mask: how a view is changed, see
            :class:`holdfast.pieces.augment.Shown`.

    Raises:
        ConfigError: when read, if a step cannot be filled with whole bursts.
    """

    views: int = 4
    image: Change = "colour"
    operations: int = 2
    strength: float = 0.5
    mask: float = 0.15
    name: str = "view-batch"
    sources: tuple[str, ...] = field(default=(), init=False)

    @property
    def together(self) -> int:
        """The views of one example stay in one pass."""
        return self.views

    def steps(self, sizes: Mapping[str, int], batch: int, epochs: float) -> int:
        return max(1, math.floor(epochs * sizes[NEW] / batch))

    def __call__(self, sizes: Mapping[str, int], step: int, batch: int, seed: int) -> list[Draw]:
        if batch % self.views:
            raise ConfigError(
                f"'{self.name}' fills a step of {batch} examples with {self.views} views of each, "
                f"which leaves {batch % self.views} over; give train.batch_size a multiple of "
                f"{self.views}."
            )
        count = batch // self.views
        found: list[Draw] = []
        for place, i in enumerate(draws(sizes[NEW], count, seed, step * count), step * count):
            visit = place // sizes[NEW]
            found.append((NEW, i))
            found += [(VIEWS, view(i, visit * (self.views - 1) + k)) for k in range(1, self.views)]
        return found

    def show(self, examples: Sequence[Any], seed: int) -> Sequence[Any]:
        """The changed views of encoded examples."""
        from holdfast.pieces.augment import Shown

        return Shown(examples, seed, self.image, self.operations, self.strength, self.mask)


@dataclass(kw_only=True)
class ViewConsistency:
    """mean over examples i, views j >= 2 and answer positions t of KL(p_i1(t) || p_ij(t)).

    The first view is the teacher and gets no gradient; no temperature. Views of an example are
    known by its index, never by equal labels.

    Args:
        views: V, of which V - 1 are compared with the first.
    """

    weight: float = 1.0
    views: int = 4
    name: str = "views"
    source: str = field(default=VIEWS, init=False)
    """What it reads, beside the stage's own data."""
    fits: bool = field(default=False, init=False)
    reference: Reference | None = field(default=None, init=False)

    def positions(self, batch: Mapping[str, Tensor]) -> Tensor:
        from holdfast.pieces.positions import answer

        return answer(batch)

    def __call__(self, outputs: Outputs) -> Tensor:
        import torch

        from holdfast.pieces.objectives import kl

        if outputs.sources is None or outputs.examples is None:
            raise UsageError(
                "the term 'views' compares views that a feed draws; use holdfast.tune or "
                "'holdfast tune' with the method view-batch."
            )
        values = torch.zeros(len(outputs.logits), device=outputs.logits.device)
        student, teacher = pairs(outputs)
        if not len(student):
            return values + outputs.logits.sum() * 0.0
        apart = kl(outputs.logits[student], outputs.logits[teacher].detach())
        # the engine's mean is over the first views' positions too, which count for nothing
        return values.index_put((student,), apart * (self.views / (self.views - 1)))


def pairs(outputs: Outputs) -> tuple[Tensor, Tensor]:
    """[P], [P]: positions in changed views, and the same positions in their first views."""
    import torch

    from holdfast.plan import viewed

    assert outputs.sources is not None
    assert outputs.examples is not None
    rows, sources, examples = (
        x.tolist() for x in (outputs.rows, outputs.sources, outputs.examples)
    )
    places: dict[int, list[int]] = {}
    of: dict[int, tuple[int, int]] = {}
    for place, (row, source, example) in enumerate(zip(rows, sources, examples, strict=True)):
        places.setdefault(row, []).append(place)
        of[row] = (source, example)
    first = {example: row for row, (source, example) in of.items() if source == source_id(NEW)}
    student: list[int] = []
    teacher: list[int] = []
    for row, (source, index) in of.items():
        known = first.get(viewed(index)[0]) if source == source_id(VIEWS) else None
        if known is not None and len(places[known]) == len(places[row]):
            student += places[row]
            teacher += places[known]
    device = outputs.rows.device
    return torch.tensor(student, device=device).long(), torch.tensor(teacher, device=device).long()
