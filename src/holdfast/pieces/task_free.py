"""Memory-aware synapses in a stream without boundaries. No torch until a step is taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from holdfast.carried import Ahead, Ended, State
from holdfast.pieces.anchors import Quadratic
from holdfast.pieces.plateaus import Plateaus

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.pieces.importance import Kind


@dataclass(kw_only=True)
class TaskFree(Quadratic):
    """weight * sum_i Omega_i (w_i - w*_i)^2, with Omega and w* renewed whenever the loss is flat.

    Aljundi et al. 2019, "Task-free continual learning". Before each step the losses of its
    examples are noted, and the ``buffer`` hardest of all that were met are kept. At a plateau
    of the loss Omega becomes the mean of what the plateaus so far have found, read without
    labels off the hard buffer, w* becomes the present weights, and the buffer is emptied.

    Departure: the paper trains on the hard buffer as well; combine with ``er`` for that.

    Args:
        code_compat: as the authors' code: half of the penalty; Omega from |d ||f(x)|| / d w|,
            summed over the hard buffer; ``deviation`` is a variance; the buffer's losses are
            read anew before each step, and it is not emptied.
    """

    kind: Any = "outputs"
    combine: Any = "latest"
    half: float = 1.0
    name: str = "task-free"
    buffer: int = 30
    window: int = 5
    mean: float = 0.2
    deviation: float = 0.1
    code_compat: bool = False
    found: int = field(default=0, repr=False)
    """Plateaus so far."""
    plateaus: Plateaus = field(default_factory=Plateaus, repr=False)
    hard: list[tuple[float, dict[str, Tensor]]] = field(default_factory=list, repr=False)
    """(loss, row), hardest first."""

    def __post_init__(self) -> None:
        deviation = self.deviation**0.5 if self.code_compat else self.deviation
        self.plateaus = Plateaus(self.window, self.mean, deviation)
        self.half = 0.5 if self.code_compat else 1.0

    def look_ahead(self, step: Ahead) -> None:
        losses = [row.tolist() for row in step.losses(step.batches)]
        every = [loss for values in losses for loss in values]
        flat = self.plateaus.meet(sum(every) / len(every))
        if flat and self.code_compat:  # the step's own examples are not in the buffer yet
            self._consolidate(step)
        if self.code_compat and self.hard:
            rows = self._hard_rows(step)
            again = [float(values) for values in step.losses(rows)]
            self.hard = [(loss, row) for loss, (_, row) in zip(again, self.hard, strict=True)]
        for batch, values in zip(step.batches, losses, strict=True):
            self._meet(batch, values)
        if flat and not self.code_compat:
            self._consolidate(step)
            self.hard = []

    def _hard_rows(self, step: Ahead) -> list[dict[str, Tensor]]:
        device = next(iter(step.parameters.values())).device
        return [{k: v.to(device) for k, v in row.items()} for _, row in self.hard]

    def _meet(self, batch: Mapping[str, Any], losses: list[float]) -> None:
        from holdfast.pieces.per_example import rows_of

        for loss, row in zip(losses, rows_of(batch), strict=True):
            self.hard.append((loss, {k: v.detach().cpu() for k, v in row.items()}))
        self.hard = sorted(self.hard, key=lambda pair: -pair[0])[: self.buffer]

    def _consolidate(self, step: Ahead) -> None:
        from holdfast.pieces.importance import importance

        if not self.hard:  # a window of the very first losses
            return
        rows, was = self._hard_rows(step), step.model.training
        step.model.eval()
        kind: Kind = "output-norms" if self.code_compat else "outputs"
        new = importance(kind, step.model, step.parameters, rows)
        step.model.train(was)
        self.found += 1
        for name, mean in new.items():
            omega = mean * len(rows) if self.code_compat else mean
            old = self.importances.get(name, 0.0)
            old = old.to(omega.device) if hasattr(old, "to") else old
            self.importances[name] = old + (omega - old) / self.found
            self.centres[name] = step.parameters[name].detach().float().clone()

    def state(self) -> dict[str, Tensor]:
        """Everything, for a checkpoint and for the next stage."""
        import torch

        held = {f"importance/{n}": v for n, v in self.importances.items()}
        held |= {f"centre/{n}": v for n, v in self.centres.items()}
        held["found"] = torch.tensor([self.found])
        held["plateaus"] = torch.tensor(self.plateaus.numbers(), dtype=torch.float64)
        held["losses"] = torch.tensor([loss for loss, _ in self.hard], dtype=torch.float64)
        for i, (_, row) in enumerate(self.hard):
            held |= {f"row/{i}/{key}": value for key, value in row.items()}
        return held

    def load(self, state: State) -> None:
        for prefix, into in (("importance/", self.importances), ("centre/", self.centres)):
            into.clear()
            into |= {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}
        if not state:
            return
        self.found = int(state["found"])
        self.plateaus.read(state["plateaus"].tolist())
        self.hard = []
        for i, loss in enumerate(state["losses"].tolist()):
            start = f"row/{i}/"
            row = {k.removeprefix(start): v for k, v in state.items() if k.startswith(start)}
            self.hard.append((loss, row))

    def keep(self, ended: Ended) -> dict[str, Tensor]:
        """What :meth:`state` says: the stream goes on."""
        return self.state()

    def recall(self, state: State) -> TaskFree:
        known = replace(self, importances={}, centres={}, hard=[], found=0)
        known.load(state)
        return known
