"""Records as model inputs, with labels only where the loss reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from holdfast.data.align import run_processor
from holdfast.data.aligned import IGNORED, Aligned
from holdfast.data.images import load_image
from holdfast.data.problems import shown
from holdfast.data.records import Record
from holdfast.data.render import Renderer
from holdfast.data.spans import Conversation, Rendered, Turns
from holdfast.data.suffix import prefix_of, suffix_of, takes_suffix
from holdfast.errors import DataError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

LossOn = Literal["answer", "llava_next_compat", "all"]

STRUCTURE = (
    ("\n", "<|im_start|>", "<|im_end|>"),
    ("\n\n", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
)
"""Tokens that LLaVA-NeXT's training code supervises wherever they stand (ChatML, Llama 3)."""


@dataclass(frozen=True)
class Encoding:
    """One encoded record, and what there is to count in it."""

    features: dict[str, Tensor]
    supervised: int
    """Tokens that the loss reads."""
    image_tokens: int
    cut: int
    """Tokens of text that did not fit into ``max_length``."""

    @property
    def tokens(self) -> int:
        return len(self.features["input_ids"])


class Encoder:
    """Turns records into what a model reads.

    Args:
        processor: a transformers processor (multimodal) or a tokenizer (text).
        loss_on: ``"answer"`` supervises each assistant turn's content and its end-of-turn
            token, exactly once. ``"llava_next_compat"`` is the mask of LLaVA-NeXT's released
            training code, which also supervises the assistant header and every structural
            token of the whole sequence (its issue 212). ``"all"`` supervises all text.
        turns: every assistant turn, or only the last.
        max_length: longer sequences lose text at their end; never part of an image.

    Raises:
        UsageError: an unknown option, or a processor whose chat template cannot be used.
    """

    def __init__(
        self,
        processor: Any,
        *,
        loss_on: LossOn = "answer",
        max_length: int | None = None,
        turns: Turns = "all",
    ) -> None:
        for name, value, known in (
            ("loss_on", loss_on, get_args(LossOn)),
            ("turns", turns, get_args(Turns)),
        ):
            if value not in known:
                raise UsageError(f"{name}={value!r} is not known; there is: {', '.join(known)}")
        if max_length is not None and max_length < 2:
            raise UsageError(f"max_length={max_length}: at least 2 tokens are needed to learn one")
        self.processor = processor
        self.tokenizer: Any = getattr(processor, "tokenizer", None) or processor
        self.loss_on, self.turns, self.max_length = loss_on, turns, max_length
        self.conversation = Conversation(Renderer(processor))
        self.takes_images = getattr(processor, "image_processor", None) is not None
        self._suffix = takes_suffix(processor) and not self.conversation.render.has_template
        self._structure = self._structural_ids() if loss_on == "llava_next_compat" else frozenset()
        self._adds_bos = self._begins_with_bos()

    @property
    def pad_id(self) -> int:
        """The token that batches are padded with; its positions are never read."""
        for token in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        return 0

    def __call__(self, record: Record) -> dict[str, Tensor]:
        """Encode a record for training.

        Returns:
            ``input_ids``, ``attention_mask``, ``labels`` (each [T]; labels not shifted, -100
            where nothing is learned), other per-token features of the processor ([T]), and the
            image features in the processor's own shapes.

        Raises:
            DataError: the record cannot be rendered, its images cannot be read or do not fit,
                or nothing of it would be supervised.
        """
        return self.encode(record).features

    def encode(self, record: Record) -> Encoding:
        """As calling the encoder, with the counts of what was done."""
        if self._suffix:
            aligned, supervised_tokens = self._run_suffix(record)
        else:
            compat = self.loss_on == "llava_next_compat"
            rendered = self.conversation.whole(record, self.turns, segments=compat)
            aligned = self._run(rendered.text, record)
            supervised_tokens = self._supervised(rendered, aligned, record)
        aligned.set_labels(supervised_tokens)
        images = aligned.image_tokens()
        cut = aligned.truncate(self.max_length, images, record)
        supervised = int((aligned.features["labels"][1:] != IGNORED).sum())
        if not supervised:
            why = (
                f"its answer begins behind max_length={self.max_length} "
                f"(it has {len(aligned.ids)} tokens)"
                if cut
                else "it has no assistant turn to learn from"
            )
            raise DataError(f"record {shown(record.id)} has no supervised token: {why}")
        return Encoding(aligned.features, supervised, sum(images), cut)

    def encode_prompt(self, record: Record) -> dict[str, Tensor]:
        """Encode what the model is asked, up to where its answer begins; without labels.

        Raises:
            DataError: as when called; also for a prompt longer than ``max_length``, which is
                refused and not cut, since its end is the question.
        """
        if self._suffix:
            aligned = self._run(
                prefix_of(record, self.conversation.render.image_token or ""), record
            )
        else:
            aligned = self._run(self.conversation.prompt(record), record)
        if self.max_length is not None and len(aligned.ids) > self.max_length:
            raise DataError(
                f"the prompt of record {shown(record.id)} has {len(aligned.ids)} tokens, "
                f"max_length is {self.max_length}"
            )
        return aligned.features

    def _run_suffix(self, record: Record) -> tuple[Aligned, list[bool]]:
        """Prefix and suffix through the processor, which marks the suffix with token type 1."""
        text = prefix_of(record, self.conversation.render.image_token or "")
        aligned = self._run(text, record, suffix=[suffix_of(record)])
        types = aligned.features["token_type_ids"].tolist()
        images = aligned.image_tokens()
        if self.loss_on == "all":
            return aligned, [not image for image in images]
        return aligned, [kind == 1 for kind in types]

    def _run(self, text: str, record: Record, **extra: Any) -> Aligned:
        self._check_images(text, record)
        special = self._adds_bos and not text.startswith(str(self.tokenizer.bos_token))
        if self.processor is self.tokenizer:
            output = self.tokenizer(text, add_special_tokens=special)
            calls = [(text, output)]
        else:
            images = [load_image(image) for image in record.images]
            try:
                output, calls = run_processor(
                    self.processor,
                    text=[text],
                    images=[images] if images else None,
                    add_special_tokens=special,
                    return_tensors="pt",
                    **extra,
                )
            except (ValueError, TypeError, IndexError, KeyError) as error:
                raise DataError(
                    f"record {shown(record.id)}: the model's processor "
                    f"({type(self.processor).__name__}) refused it: {error}"
                ) from error
        return Aligned.of(output, calls, self.processor, text)

    def _check_images(self, text: str, record: Record) -> None:
        name = shown(record.id)
        if record.images and not self.takes_images:
            raise DataError(
                f"record {name} has {len(record.images)} image(s), but the model reads text only"
            )
        token = self.conversation.render.image_token
        if not self.takes_images or not token:
            return
        places = text.count(token)
        if places != len(record.images):
            raise DataError(
                f"record {name} has {len(record.images)} image(s), but its text has {places} "
                f"of the model's image placeholder {token!r}: remove the placeholder from the "
                "text, or use a chat template that places every image"
            )

    def _supervised(self, rendered: Rendered, aligned: Aligned, record: Record) -> list[bool]:
        if self.loss_on == "all":
            return aligned.covered([(0, len(rendered.text))], record)
        if self.loss_on == "answer":
            return aligned.covered(rendered.answers, record)
        chosen = aligned.covered(rendered.segments, record)
        images = aligned.image_tokens()
        return [
            inside or (token in self._structure and not image)
            for inside, token, image in zip(chosen, aligned.ids, images, strict=True)
        ]

    def _structural_ids(self) -> frozenset[int]:
        vocabulary = self.tokenizer.get_vocab()
        for names in STRUCTURE:
            if names[-1] in vocabulary:
                ids = (self.tokenizer.encode(name, add_special_tokens=False) for name in names)
                return frozenset(i[0] for i in ids if len(i) == 1)
        raise UsageError(
            "loss_on='llava_next_compat' is the mask of LLaVA-NeXT's training code, which exists "
            "for ChatML (<|im_end|>) and Llama-3 (<|eot_id|>) models; this tokenizer has neither. "
            "Use loss_on='answer'"
        )

    def _begins_with_bos(self) -> bool:
        """Whether the ecosystem lets this tokenizer add its BOS to a rendered conversation.

        A tokenizer's own ``apply_chat_template`` never does; a processor's does, unless the
        template wrote one; plain text gets whatever the tokenizer adds.
        """
        bos = self.tokenizer.bos_token_id
        if bos is None:
            return False
        templated = self.conversation.render.has_template
        if templated and self.processor is self.tokenizer:
            return False
        ids = self.tokenizer("a", add_special_tokens=True)["input_ids"]
        return bool(ids) and ids[0] == bos
