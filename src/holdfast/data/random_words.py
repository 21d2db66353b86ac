"""Questions of random words, about the pictures that a model is being taught on.

What a model says to nonsense shows what it knows: Krishna et al. 2020 ("Thieves on Sesame
Street!", arXiv 1910.12366) copied whole models by their answers to random words. Here the model
that is copied is the one before training, so that what it knew can be kept without any of its
old data.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from holdfast.data.dataset import DataSet
from holdfast.data.records import Record, say
from holdfast.errors import DataError

RANDOM_WORDS = "random-words"
"""The name of the source."""
MOST = 512
"""Questions, if the stage has as many examples."""
FEWEST_WORDS = 16
LENGTH = (2, 8)
"""Words in a question."""
MARKS = ("?", ".", "")


def random_words(records: Sequence[Record], tokenizer: Any, seed: int) -> DataSet:
    """Questions of 2 to 8 words drawn from the tokenizer's vocabulary, with a word as the answer.

    They come from ``records``, of which at most 512 are taken at random, in turn one that keeps
    the record's pictures and one without any: a model that sees answers text as well. The
    answer is a word too: what is read off a question is the model's distribution where an
    answer begins, not whether it says that word.

    Args:
        seed: of the choice of records and of every word.

    Raises:
        DataError: the vocabulary has fewer than 16 words that can stand alone.
    """
    rng = random.Random(seed)
    words = vocabulary(tokenizer)
    if len(words) < FEWEST_WORDS:
        raise DataError(
            f"the tokenizer has {len(words)} words that can stand alone, and random questions "
            f"need {FEWEST_WORDS}; take gere with general texts of your own instead."
        )
    chosen = range(len(records))
    if len(records) > MOST:
        chosen = sorted(rng.sample(chosen, MOST))  # type: ignore[assignment]
    found = [_question(records[i], i, k % 2 == 0, words, rng) for k, i in enumerate(chosen)]
    return DataSet(found, source=RANDOM_WORDS, name=RANDOM_WORDS, format="made")


def vocabulary(tokenizer: Any) -> list[str]:
    """The words of a tokenizer's vocabulary: letters alone, begun as a word in a text is.

    Tokens that mark a word's beginning (byte-level and SentencePiece vocabularies) are taken;
    where none is marked, all that are letters.
    """
    known = set(tokenizer.all_special_ids)
    tokens = sorted((i, t) for t, i in tokenizer.get_vocab().items() if i not in known)
    begun = [i for i, t in tokens if t[:1] in ("\u0120", "\u2581")]
    texts = (tokenizer.decode([i]).strip() for i in begun or [i for i, _ in tokens])
    return sorted({text for text in texts if text.isalpha()})


def _question(
    record: Record, index: int, sees: bool, words: Sequence[str], rng: random.Random
) -> Record:
    text = " ".join(rng.choice(words) for _ in range(rng.randint(*LENGTH))) + rng.choice(MARKS)
    images = record.images if sees else ()
    return Record(
        (say("user", *[None for _ in images], text), say("assistant", rng.choice(words))),
        images,
        id=f"{RANDOM_WORDS}:{index}",
    )
