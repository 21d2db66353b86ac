"""Terms read off next-token predictions. No torch until one is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from holdfast.plan import NEW, Outputs, Reference

if TYPE_CHECKING:
    from torch import Tensor

Positions = Literal["answer", "all_text", "all", "llava_lmmcl_compat"]


@dataclass(kw_only=True)
class CrossEntropy:
    """The loss of ordinary fine-tuning: -log p(token t+1) at the supervised positions."""

    weight: float = 1.0
    source: str | None = None
    """The source of data that it reads; None: all."""
    name: str = "cross-entropy"
    fits: bool = field(default=True, init=False)
    reference: Reference | None = field(default=None, init=False)

    def positions(self, batch: Mapping[str, Tensor]) -> Tensor:
        from holdfast.pieces.positions import answer, of_source

        return of_source(answer(batch), batch, self.source)

    def __call__(self, outputs: Outputs) -> Tensor:
        from holdfast.pieces.objectives import cross_entropy

        return cross_entropy(outputs.logits, outputs.targets)


@dataclass(kw_only=True)
class PartCrossEntropy(CrossEntropy):
    """One of several cross-entropies, each on its own source, of which the loss is the mean.

    A step may have examples of some sources only; the mean is over those.
    """

    beside: tuple[str, ...] = ()
    """The names of all of them, this one's too."""

    def __post_init__(self) -> None:
        self.fits = self.source in (None, NEW)

    def weigh(self, means: Mapping[str, Tensor]) -> float:
        """One part of those that the step has."""
        return self.weight / max(1, sum(name in means for name in self.beside))


@dataclass(kw_only=True)
class Distill:
    """T^2 KL(softmax(z_teacher / T) || softmax(z_student / T)) at each chosen position.

    Hinton, Vinyals and Dean 2015; with the model before the new task as teacher it is
    Learning without Forgetting (Li and Hoiem 2016). The teacher is frozen, in evaluation
    mode, and reads the same inputs.

    Positions: ``answer``, where a supervised token is predicted; ``all_text``, where any
    token is predicted that is not padding and not part of an image; ``all``, where any token
    is predicted that is not padding; ``llava_lmmcl_compat``, the fifth of the sequence that
    the released code of Zhu et al. 2025 uses.
    """

    weight: float = 1.0
    temperature: float = 2.0
    at: Positions = "answer"
    teacher: Reference = "stage"
    chunk: int | None = None
    """Positions per piece (see :func:`holdfast.pieces.objectives.kl`); None: all at once."""
    source: str | None = None
    """The source of data that it reads; None: all."""
    name: str = "distill"
    fits: bool = field(default=False, init=False)
    reference: Reference | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.reference = self.teacher

    def positions(self, batch: Mapping[str, Tensor]) -> Tensor:
        from holdfast.pieces.positions import POSITIONS, of_source

        return of_source(POSITIONS[self.at](batch), batch, self.source)

    def __call__(self, outputs: Outputs) -> Tensor:
        from holdfast.pieces.objectives import kl

        assert outputs.reference is not None, "the engine gives the reference a term asks for"
        divergence = kl(
            outputs.logits, outputs.reference, temperature=self.temperature, chunk=self.chunk
        )
        return self.temperature**2 * divergence
