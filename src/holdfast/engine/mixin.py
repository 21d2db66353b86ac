"""The engine: a plan as a mixin over transformers' Trainer and TRL's trainers.

The mixin changes what a plan speaks of and nothing else: which weights train, what is added
to the loss, what happens around the optimizer step, what is done to the weights at the end.
Data, precision, devices, callbacks, tracking and checkpoints stay the trainer's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn
from transformers import TrainerCallback

from holdfast.carried import Anchored
from holdfast.engine.ahead import look_ahead
from holdfast.engine.bound import Bound, bind, no_second_adapter
from holdfast.engine.carrying import pieces
from holdfast.engine.depth import spare_below
from holdfast.engine.rolling import added, no_other_loss, rolls
from holdfast.engine.token_loss import TokenLoss
from holdfast.errors import UsageError
from holdfast.pieces.distill import CrossEntropy
from holdfast.pieces.sharding import before_each_step, hollow
from holdfast.plan import Plan, TokenTerm, WeightTerm

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import Trainer

    from holdfast.engine.drawn import Drawn
    from holdfast.engine.reuse import Reuse


WORTH = 1.5
"""How often an example has to be read on average for its values to be kept."""


class PlanMixin:
    """Trains under ``plan``. Use :func:`with_plan` to put it over a trainer class."""

    plan: ClassVar[Plan]
    gather_loss: ClassVar[bool] = False
    """Compute the ordinary loss here too, at supervised positions only. A trainer of the user's
    own keeps its own loss unless the plan adds terms to it."""
    reads_feed: ClassVar[bool] = False
    """Whether the trainer's data come in the order of the plan's feed."""
    packed: bool = False
    """Read each pass as one row without padding (:mod:`holdfast.engine.packing`)."""
    base_weights: ClassVar[Mapping[str, Tensor] | None] = None
    """Values at the start of the run of weights that earlier stages changed."""
    adapter_folder: Path | None = None
    """Where an adapter is saved in its own format before it is merged."""
    cache: str = "auto"
    """Where what never changes is kept: ``auto``, ``off`` or a folder (:mod:`holdfast.cache`)."""
    cache_limit: int | None = None
    """Bytes on disk; None: the store's own bound."""
    drawn: Drawn | None = None
    """The examples that will be read, where the trainer knows them."""
    reuse: Reuse | None = None
    """What steps look up instead of computing; None where nothing is seen twice."""
    bound: Bound
    _left: str | None = None
    """The checkpoint that training goes on from, until its random numbers are taken up."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        no_second_adapter(self.plan, kwargs)
        if self.plan.feed is not None and not self.reads_feed:
            raise UsageError(
                f"the plan '{self.plan.name}' sets which examples are read at a step, and this "
                "trainer reads its own; use holdfast.tune or 'holdfast tune'."
            )
        super().__init__(*args, **kwargs)
        seed: int = self.args.seed  # type: ignore[attr-defined]
        self.bound = bind(self.plan, self.model, base=self.base_weights, seed=seed)
        self.model: nn.Module = self.bound.model
        self.model_wrapped = self.model
        token = [t for t in self.plan.learn if isinstance(t, TokenTerm)]
        weight = [t for t in self.plan.learn if not isinstance(t, TokenTerm)]
        if rolls(self):
            no_other_loss(self.plan, type(self))
        elif (token and not any(t.fits for t in token)) or (self.gather_loss and not token):
            token.insert(0, CrossEntropy())
        self.token_terms: list[TokenTerm] = token
        self.weight_terms: list[WeightTerm] = weight
        self.token_loss = TokenLoss(self, token)
        self._sums: dict[str, float | Tensor] = {}
        self._values: dict[str, float] = {}
        if self.token_terms and not rolls(self):
            # the loss is already divided by the tokens of the whole optimizer step
            self.model_accepts_loss_kwargs = True
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:  # type: ignore[attr-defined]
            _whole_terms(self.plan, weight)
            self.bound.hollow = hollow(self.bound.model)
        self.add_callback(_AfterStep(self.bound))  # type: ignore[attr-defined]
        self.add_callback(_Begin(self))  # type: ignore[attr-defined]

    # A training that goes on

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
        self._left = checkpoint

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Once: the trainer would do it after the step's pieces have drawn their numbers."""
        if checkpoint is not None and self._left is not None:
            self._left = None
            super()._load_rng_state(checkpoint)  # type: ignore[misc]

    # The loss

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: Any
    ) -> Any:
        """A step's passes, once the plan's pieces have looked at them, counted over all of them."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)  # type: ignore[misc]
        if rolls(self):
            return batches, items
        self._load_rng_state(self._left)  # what comes next may draw
        if batches:
            batches = look_ahead(self, batches)
        if batches and self.token_terms:
            self.token_loss.begin(batches, device)
        return batches, items

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        if rolls(self) and model.training:
            own: Tensor = super().compute_loss(model, inputs)  # type: ignore[misc]
            return own + added(self, model, inputs)
        if return_outputs or not model.training or not self.token_terms:
            with self.known(model, inputs) as rest:
                loss = super().compute_loss(  # type: ignore[misc]
                    model,
                    rest,
                    return_outputs=return_outputs,
                    num_items_in_batch=num_items_in_batch,
                )
            return loss if return_outputs or not model.training else loss + self._weight_loss()
        return self.token_loss(model, inputs) + self._weight_loss()

    def known(
        self, model: nn.Module, inputs: dict[str, Any], tags: Mapping[str, Any] | None = None
    ) -> AbstractContextManager[dict[str, Any]]:
        """Within, a training step looks up what it can. Yields the inputs that are left to give."""
        if self.reuse is None or not model.training:
            return nullcontext(inputs)
        return self.reuse.around(inputs, model, tags, self.packed)

    def open_reuse(self, state: Any) -> Reuse | None:
        """What this run will look up, asked once the model is where it will train."""
        seen = self.drawn.repeats if self.drawn is not None else state.num_train_epochs
        if any(getattr(piece, "writes", False) for piece in pieces(self.plan)) or rolls(self):
            return None  # what steps read is not known before
        if self.bound.hollow is not None or (seen < WORTH and self.cache == "auto"):
            return None
        from holdfast.engine.reuse import open_reuse

        wanted = {t.reference for t in self.token_terms} - {None, "ema"}
        reuse = open_reuse(
            self.accelerator.unwrap_model(self.model),  # type: ignore[attr-defined]
            self.cache,
            limit=self.cache_limit,
            mode=f"{self.accelerator.mixed_precision}",  # type: ignore[attr-defined]
            drawn=self.drawn,
            positions=self.token_loss.union,
            references={n: r for n, r in self.bound.references.items() if n in wanted},
        )
        if reuse is not None and self.drawn is not None:
            reuse.fill(self.args.process_index, self.args.world_size)  # type: ignore[attr-defined]
        return reuse

    def _weight_loss(self) -> Tensor | float:
        if not self.weight_terms:
            return 0.0
        steps = getattr(self, "current_gradient_accumulation_steps", 1)
        parameters, references = self.bound.parameters(), self.bound.references
        total: Tensor | float = 0.0
        for term in self.weight_terms:
            start = references[getattr(term, "reference", None) or "stage"].weights
            value = term(parameters, start) / steps
            self.note_term(term.name, value)
            total = total + term.weight * value
        return total

    def note_term(self, name: str, value: Tensor) -> None:
        self._sums[name] = self._sums.get(name, 0.0) + value.detach()

    def note_value(self, name: str, value: float) -> None:
        """Have a number of this step in the log, averaged over steps."""
        self._values[name] = self._values.get(name, 0.0) + value

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add each term's mean since the last log, unweighted, as ``loss/<term>``."""
        steps = max(1, self.state.global_step - getattr(self, "_noted_at", 0))  # type: ignore[attr-defined]
        if "loss" in logs and len(self._sums) > 1 - rolls(self):
            sums = {n: float(v) for n, v in self._mean(self._sums).items()}
            logs |= {f"loss/{n}": round(v / steps, 6) for n, v in sums.items()}
        if "loss" in logs:
            logs |= {n: round(v / steps, 6) for n, v in self._values.items()}
            self._sums.clear()
            self._values.clear()
            self._noted_at = self.state.global_step  # type: ignore[attr-defined]
        super().log(logs, *args, **kwargs)  # type: ignore[misc]

    def _mean(self, values: dict[str, Any]) -> dict[str, Any]:
        """Over all processes."""
        if self.args.world_size == 1:  # type: ignore[attr-defined]
            return values
        return self.accelerator.reduce(dict(values), reduction="mean")  # type: ignore[attr-defined,no-any-return]

    # The step

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        engine = getattr(self, "deepspeed", None)
        if engine is not None:  # it takes the step itself, in the backward pass
            before_each_step(engine, self._before_step)
        loss: Tensor = super().training_step(*args, **kwargs)  # type: ignore[misc]
        if engine is None and self.accelerator.sync_gradients:  # type: ignore[attr-defined]
            self._before_step()
        return loss

    def _before_step(self) -> None:
        if self.bound.updates:
            parameters = self.bound.parameters()
            for update in self.bound.updates:
                update.before_step(parameters)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """The trainer's own optimizer; parts with another rate get groups of their own."""
        made = self.optimizer is None  # type: ignore[has-type]
        optimizer = super().create_optimizer(*args, **kwargs)  # type: ignore[misc]
        if made and self.bound.scales and hasattr(optimizer, "param_groups"):
            scale = {
                id(p): self.bound.scales.get(n, 1.0) for n, p in self.bound.parameters().items()
            }
            optimizer.param_groups[:] = _split(optimizer.param_groups, scale)
        self.optimizer = optimizer
        return optimizer

    # The end

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train, then do to the weights what the plan's ``settle`` says."""
        output = super().train(*args, **kwargs)  # type: ignore[misc]
        if self.plan.settle:
            self.model = self.model_wrapped = self.bound.detach(self.adapter_folder)
        return output


class _Begin(TrainerCallback):  # type: ignore[misc]
    """Opens the cache once the model is on its device and wrapped."""

    def __init__(self, trainer: PlanMixin) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.model.train()
        spare_below(self.trainer.model)
        for update in self.trainer.bound.updates:
            if isinstance(update, Anchored):
                update.begin(state.global_step, state.max_steps)
        self.trainer.reuse = self.trainer.open_reuse(state)
        self.trainer.token_loss.survey()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.trainer.reuse is not None:
            self.trainer.reuse.close()


class _AfterStep(TrainerCallback):  # type: ignore[misc]
    """Updates that act on the weights once the optimizer has moved them."""

    def __init__(self, bound: Bound) -> None:
        self.bound = bound

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bound.updates:
            parameters = self.bound.parameters()
            for update in self.bound.updates:
                update.after_step(parameters)


def _whole_terms(plan: Plan, terms: Sequence[WeightTerm]) -> None:
    if terms:
        raise UsageError(
            f"'{terms[0].name}' of the plan '{plan.name}' reads whole weights, and FSDP and "
            "DeepSpeed spread each over the processes; run it in one process or under DDP "
            "(torchrun without either)."
        )


def _split(groups: Sequence[dict[str, Any]], scale: Mapping[int, float]) -> list[dict[str, Any]]:
    parts = []
    for group in groups:
        for factor in sorted({scale.get(id(p), 1.0) for p in group["params"]}):
            chosen = [p for p in group["params"] if scale.get(id(p), 1.0) == factor]
            parts.append({**group, "params": chosen, "lr": group["lr"] * factor})
    return parts


def with_plan(trainer: type[Trainer], plan: Plan | str | Sequence[str]) -> type[Trainer]:
    """A trainer class that trains under a plan.

    Works on transformers' ``Trainer`` and everything made from it (TRL's ``SFTTrainer``);
    callbacks, ``report_to``, accelerate and DeepSpeed settings keep working, and so does the
    rest of the user's script.

    Args:
        trainer: the class to build on.
        plan: a plan, a method's name with settings, or several to combine.

    Example:
        >>> from trl import SFTTrainer
        >>> Narrow = holdfast.with_plan(SFTTrainer, "gate-up")
        >>> trainer = Narrow(model, args=args, train_dataset=data)
        >>> trainer.train()

    Raises:
        UnknownName, PlanConflict: the plan's names do not exist or do not go together.
        SelectorError: when the trainer is made, if the plan selects nothing in its model.
    """
    from holdfast.methods import plan as combine

    if not isinstance(plan, Plan):
        plan = combine([plan] if isinstance(plan, str) else list(plan))
    return type(f"{trainer.__name__}WithPlan", (PlanMixin, trainer), {"plan": plan})
