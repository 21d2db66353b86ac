"""A byte-level BPE tokenizer trained on the lab's own text; it can spell any other text.

Digits and lone capital letters are tokens of their own, so that a number and an option
letter are the same tokens wherever they stand. A chat turn is
``<|user|>...<|end|>`` or ``<|assistant|>...<|end|>``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

END, PAD, IMAGE = "<|end|>", "<|pad|>", "<image>"
ROLES = ("<|user|>", "<|assistant|>", "<|system|>", "<|tool|>")
VOCABULARY = 768

_PIECES = r"\p{N}|\p{Lu}(?!\p{Ll})| ?\p{L}\p{Ll}*| ?[^\s\p{L}\p{N}]+|\s"
"""A digit; a lone capital; a word with the space before it; punctuation; a space."""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endif %}"
    "{{ '<|end|>' }}{% endgeneration %}"
    "{% else %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{{ '<|end|>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def train_tokenizer(texts: Iterable[str]) -> Any:
    """A ``PreTrainedTokenizerFast`` with at most ``VOCABULARY`` tokens."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=2,
        special_tokens=[PAD, END, *ROLES, IMAGE],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens={"image_token": IMAGE},
        clean_up_tokenization_spaces=False,
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
        model_max_length=1024,
    )


class Codec:
    """Encodes questions exactly as the chat template does, without rendering it each time."""

    def __init__(self, tokenizer: Any, image_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._image_tokens = image_tokens
        self.pad: int = tokenizer.pad_token_id

    def prefix(self, pictured: bool) -> list[int]:
        """What comes before a question: the user's header and the places of the picture."""
        header, image = self._tokenizer.convert_tokens_to_ids(["<|user|>", IMAGE])
        return [header, *([image] * self._image_tokens if pictured else [])]

    def branch(self, question: str, answer: str) -> tuple[list[int], int]:
        """Ids of question and answer, and how many of them belong to the question."""
        asked = self._encode(f"{question}{END}<|assistant|>")
        return asked + self._encode(f"{answer}{END}"), len(asked)

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))
