"""The live model as one that writes: what a plan's pieces ask it before a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from holdfast.carried import Question
from holdfast.data import Encoder, collate
from holdfast.data.aligned import SEQUENCE_KEYS
from holdfast.engine.forward import logits_at, next_labels
from holdfast.errors import DataError, UsageError
from holdfast.pieces.chooser import announced
from holdfast.pieces.per_example import rows_of
from holdfast.plan import NEW, WRITTEN, source_id
from holdfast.tasks.batches import asked, context_length
from holdfast.tasks.decoding import Pick, Sampled, likeliest
from holdfast.tasks.generation import stop_ids, write_tokens
from holdfast.tasks.scorers import SCORERS

if TYPE_CHECKING:
    from holdfast.engine.drawn import Drawn

PASS = 32
"""Rows at a time where nothing is trained."""


class LivePolicy:
    """A trainer's model, as :class:`holdfast.carried.Policy` says.

    Args:
        trainer: under a plan (:class:`holdfast.engine.mixin.PlanMixin`).
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.drawn: Drawn | None = trainer.drawn

    @property
    def seed(self) -> int:
        return int(self.trainer.args.seed)

    @property
    def size(self) -> int | None:
        return None if self.drawn is None else self.drawn.sources.sizes[NEW]

    @cached_property
    def encoder(self) -> Encoder | None:
        """What turns words into tokens and back, where the trainer has any."""
        known = None if self.drawn is None else self.drawn.sources.encoder
        processor = getattr(self.trainer, "processing_class", None)
        return known or (Encoder(processor) if processor is not None else None)

    @cached_property
    def model(self) -> Any:
        return self.trainer.accelerator.unwrap_model(self.trainer.model)

    @cached_property
    def stops(self) -> set[int]:
        if self.encoder is not None:
            return stop_ids(self.model, self.encoder)
        end: Any = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        return {int(t) for t in (end if isinstance(end, list) else [end]) if t is not None}

    @cached_property
    def pad(self) -> int:
        if self.encoder is not None:
            return self.encoder.pad_id
        return int(getattr(self.model.config.get_text_config(), "pad_token_id", None) or 0)

    @cached_property
    def marks(self) -> list[int]:
        """Tokens that stand for images, which no answer can hold."""
        names = ("image_token_id", "image_token_index", "video_token_id", "video_token_index")
        known = {getattr(self.model.config, name, None) for name in names}
        return sorted(int(mark) for mark in known if mark is not None)

    # Rows

    def questions(self, batch: Mapping[str, Any]) -> list[Question]:
        if self.drawn is not None:
            draws = zip(self.drawn.draws(batch), batch["source"].tolist(), strict=True)
            return [Question(s, d[1], self.drawn.sources.read(d)) for d, s in draws]
        try:
            rows = [_unpadded(row) for row in rows_of(batch)]
        except ValueError as error:
            raise UsageError(
                f"the plan '{self.trainer.plan.name}' has the model answer the questions of a "
                f"step, and they cannot be told apart here: {error} Use holdfast.tune."
            ) from None
        return [Question(*_tag(row, k), row) for k, row in enumerate(rows)]

    def example(self, index: int) -> Question:
        return Question(source_id(NEW), index, self._known().sources.read((NEW, index)))

    def coming(self, steps: int) -> list[int]:
        begin = self.trainer.state.global_step
        every = (d for step in self._known().steps[begin : begin + steps] for d in step)
        return sorted({index for source, index in every if source == NEW})

    def _known(self) -> Drawn:
        if self.drawn is None:
            raise UsageError(
                f"the plan '{self.trainer.plan.name}' asks questions of steps to come, and this "
                "trainer reads its own data; use holdfast.tune, or set refresh=1."
            )
        return self.drawn

    def batch(self, rows: Sequence[Question]) -> dict[str, Any]:
        batch: dict[str, Any] = dict(collate([r.features for r in rows], pad_id=self.pad))
        batch["source"] = torch.tensor([r.source for r in rows])
        batch["example"] = torch.tensor([r.index for r in rows])
        return {k: v.to(self.trainer.args.device) for k, v in batch.items()}

    def answered(self, question: Question, tokens: Sequence[int], number: int) -> Question:
        begin = question.begin
        if not begin:
            raise DataError(
                f"example {question.index} is text without a question, which a model cannot be "
                f"asked; '{self.trainer.plan.name}' wants questions with answers."
            )
        return Question(source_id(WRITTEN), number, _behind(question.features, begin, tokens))

    def demonstrated(self, question: Question, tokens: Sequence[int], number: int) -> Question:
        begin, known = question.begin, question.features
        both = {k: torch.cat([v, v[:begin] if k in SEQUENCE_KEYS else v]) for k, v in known.items()}
        whole = _behind(both, len(known["input_ids"]) + begin, tokens)
        room = context_length(self.model)
        if room is not None and len(whole["input_ids"]) > room:
            raise DataError(
                f"example {question.index} with its question again has "
                f"{len(whole['input_ids'])} tokens, and the model has {room} positions; leave "
                "long examples out."
            )
        return Question(source_id(WRITTEN), number, whole)

    # What the model says

    def write(
        self, questions: Sequence[Question], *, temperature: float, most: int, seed: int
    ) -> list[list[int]]:
        prompts = [self._prompt(q) for q in questions]
        lengths = [len(p["input_ids"]) for p in prompts]
        room = context_length(self.model)
        most = most if room is None or not lengths else min(most, room - max(lengths))
        if most < 1:
            raise DataError(
                f"a question of {max(lengths)} tokens leaves no room for an answer in the "
                f"{room} positions of the model; shorten it or leave it out."
            )
        pick: Pick = likeliest
        if temperature:
            pick = Sampled(len(prompts), most, temperature, seed)
        with torch.random.fork_rng(_devices()), self.trainer.compute_loss_context_manager():
            return write_tokens(
                self.model,
                prompts.__getitem__,
                lengths,
                max_new_tokens=most,
                stops=self.stops,
                pad=self.pad,
                pick=without(self.marks, pick),
            )

    def _prompt(self, question: Question) -> Mapping[str, Tensor]:
        known = self.answered(question, (), 0).features
        return {k: v.cpu() for k, v in known.items() if k != "labels"}

    def text(self, tokens: Sequence[int]) -> str:
        kept = [token for token in tokens if token not in self.stops]
        return str(self._words().tokenizer.decode(kept, skip_special_tokens=True))

    def tokens(self, text: str) -> list[int]:
        ids: list[int] = self._words().tokenizer.encode(text, add_special_tokens=False)
        return [*ids, *sorted(self.stops)[:1]]

    def _words(self) -> Encoder:
        if self.encoder is None:
            raise UsageError(
                f"the plan '{self.trainer.plan.name}' reads answers in words, and this trainer "
                "has no tokenizer; give it one (processing_class=)."
            )
        return self.encoder

    def score(self, scorer: str, question: Question, tokens: Sequence[int]) -> float:
        given, wanted = ([t for t in x if t not in self.stops] for x in (tokens, question.answer))
        if self.encoder is None:  # there are no words: the same tokens or not
            return float(given == wanted)
        return SCORERS[scorer].value(self.text(given), [self.text(wanted)]).value

    @torch.no_grad()
    def log_probs(self, rows: Sequence[Question], temperature: float) -> list[Tensor]:
        found: list[Tensor] = []
        for start in range(0, len(rows), PASS):
            batch = self.batch(rows[start : start + PASS])
            wanted, features = self._answers(batch)
            with asked(self.model), self.trainer.compute_loss_context_manager():
                logits = logits_at(self.model, self.model, features, wanted)
            each = (logits.float() / temperature).log_softmax(-1)
            chosen = each.gather(1, next_labels(batch["labels"])[wanted][:, None])[:, 0]
            found += torch.split(chosen.cpu(), wanted.sum(1).tolist())
        return found

    def consult(self, reference: str, rows: Sequence[Question]) -> Tensor:
        wanted, features = self._answers(self.batch(rows))
        known = self.trainer.bound.references[reference]
        logits: Tensor = known.logits(self.model, features, wanted)
        return logits

    def _answers(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """[B, T] where answers are predicted, and the model's inputs."""
        return next_labels(batch["labels"]) != -100, announced(self.model, batch)

    def note(self, name: str, value: float) -> None:
        self.trainer.note_value(name, value)


def without(tokens: Sequence[int], pick: Pick) -> Pick:
    """As ``pick``, but never one of ``tokens``."""
    if not tokens:
        return pick

    def chosen(logits: Tensor, owners: Sequence[int], written: Sequence[int]) -> Tensor:
        logits = logits.clone()
        logits[:, list(tokens)] = -torch.inf
        return pick(logits, owners, written)

    return chosen


def _behind(known: Mapping[str, Tensor], begin: int, tokens: Sequence[int]) -> dict[str, Tensor]:
    """An encoded example cut at ``begin``, with an answer behind it that alone is supervised."""
    ids = known["input_ids"]
    tail = torch.tensor(list(tokens), dtype=ids.dtype, device=ids.device)
    made = {k: v for k, v in known.items() if k not in SEQUENCE_KEYS}
    for key in (k for k in SEQUENCE_KEYS if k in known):
        more = tail if key in ("input_ids", "labels") else torch.zeros_like(tail)
        if key == "attention_mask":
            more = torch.ones_like(tail)
        elif key == "token_type_ids":  # an answer's, where the data tell it (PaliGemma)
            more = more + known[key][-1]
        made[key] = torch.cat([known[key][:begin], more])
    made["labels"][:begin] = -100
    return made


def _unpadded(row: Mapping[str, Any]) -> dict[str, Tensor]:
    """A batch of one as an encoded example."""
    there = row["attention_mask"][0].bool() if "attention_mask" in row else slice(None)
    kept = {k: v for k, v in row.items() if isinstance(v, Tensor) and v.ndim}
    return {k: v[0][there] if k in SEQUENCE_KEYS else v for k, v in kept.items()}


def _tag(row: dict[str, Tensor], place: int) -> tuple[int, int]:
    source, index = row.pop("source", None), row.pop("example", None)
    return (
        int(source) if source is not None else source_id(NEW),
        int(index) if index is not None else place,
    )


def _devices() -> list[int]:
    return list(range(torch.cuda.device_count()))
