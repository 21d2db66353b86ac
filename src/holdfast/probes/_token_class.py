"""Classes of tokens: numbers, letters, yes and no, times; found by name or from answers."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from holdfast.errors import UnknownName, UsageError

SPACES = "Ġ▁Ċ \t\r\n"
"""White space, and the marks by which BPE and SentencePiece vocabularies write it."""
_NUMBER_WORD_LIST = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty "
    "ninety hundred thousand million billion"
)
_NUMBER_WORDS = frozenset(_NUMBER_WORD_LIST.split())
_NUMBER = re.compile(r"[0-9]+|[0-9]*(?:1st|2nd|3rd|[0-9]th)|[0-9]+[.,][0-9]+", re.ASCII)
_SHARE = 0.1
"""Share of a task's answers that must be of a class for it to be named."""


@dataclass(frozen=True)
class TokenClass:
    """A set of tokens."""

    name: str
    ids: tuple[int, ...]
    """In order, each once."""

    def within(self, size: int) -> TokenClass:
        """The tokens that a head of ``size`` outputs can write.

        Raises :class:`UsageError` if there is none.
        """
        ids = tuple(i for i in self.ids if i < size)
        if not ids:
            raise UsageError(
                f"none of the {len(self.ids)} tokens of the class '{self.name}' is among the "
                f"{size:,} that the model can write."
            )
        return TokenClass(self.name, ids)

    def index(self, device: torch.device | str | None = None) -> Tensor:
        """[|C|] the ids, to index logits with."""
        return torch.tensor(self.ids, dtype=torch.long, device=device)

    def texts(self, tokenizer: Any) -> list[str]:
        """The tokens as the vocabulary writes them."""
        return [str(t) for t in tokenizer.convert_ids_to_tokens(list(self.ids))]


def is_number(text: str) -> bool:
    """ASCII digits, an ordinal (3rd), one number with one '.' or ',' inside, or a number word.

    Number words are zero to twenty, the tens, hundred, thousand, million, billion, in any case.
    Digits of other scripts are not counted, as in the official code of Zhu et al. 2025.
    """
    return text.lower() in _NUMBER_WORDS or _NUMBER.fullmatch(text) is not None


def is_letter(text: str) -> bool:
    """One capital letter, A to Z."""
    return len(text) == 1 and "A" <= text <= "Z"


def is_yes_no(text: str) -> bool:
    """'yes' or 'no', in any case."""
    return text.lower() in ("yes", "no")


def is_time(text: str) -> bool:
    """What 'HH:MM' is written with: digits, a colon, or both in one token."""
    return re.fullmatch(r"[0-9]{1,2}|:|[0-9]{0,2}:[0-9]{0,2}", text, re.ASCII) is not None


NAMED: Mapping[str, tuple[Callable[[str], bool], re.Pattern[str]]] = {
    "yes-no": (is_yes_no, re.compile(r"(?:yes|no)", re.IGNORECASE)),
    "letters": (is_letter, re.compile(r"\(?[A-Z][.)]?")),
    "times": (is_time, re.compile(r"\d{1,2}:\d{2}", re.ASCII)),
    "numbers": (is_number, re.compile(r"-?[\d.,]*\d", re.ASCII)),
}
"""By name: which tokens are of the class, and which answers are written with it."""


def token_class(name: str, tokenizer: Any) -> TokenClass:
    """The tokens of a class of :data:`NAMED` in a tokenizer's vocabulary.

    A token is matched as the vocabulary writes it, without the marks of spaces: 'Ġ12' and
    '▁seven' are numbers, a byte token such as '<0x31>' is not.

    Raises :class:`UnknownName` for a class that does not exist, and :class:`UsageError` if the
    vocabulary has none of its tokens.
    """
    if name not in NAMED:
        raise UnknownName("token class", name, NAMED)
    ids = _ids(name, tokenizer)
    if not ids:
        raise UsageError(f"the vocabulary has no token of the class '{name}'.")
    return TokenClass(name, ids)


def _ids(name: str, tokenizer: Any) -> tuple[int, ...]:
    fits = NAMED[name][0]
    vocabulary = tokenizer.get_vocab()
    return tuple(sorted({i for t, i in vocabulary.items() if fits(str(t).strip(SPACES))}))


def number_tokens(tokenizer: Any) -> TokenClass:
    """The set C of the number-token bias (Zhu et al. 2025, arXiv 2510.08564); see is_number."""
    return token_class("numbers", tokenizer)


def classes_of(
    answers: Sequence[str], tokenizer: Any, *, background: Iterable[str] = ()
) -> list[TokenClass]:
    """The classes of tokens that a task's answers are written with.

    Every class of :data:`NAMED` in whose form at least a tenth of the answers are, or which
    at least half of them hold in a sentence ('There are 14 birds'), most first. If more than
    half of the answers are in no such form, the class 'answers' is added: see :func:`frequent`.

    Args:
        answers: the task's reference answers.
        background: other texts of the model's (its captions), that answers are told apart from.

    Raises :class:`UsageError` if there are no answers.
    """
    if not answers:
        raise UsageError("token classes are found from answers, and there are none.")
    whole = [kind_of(answer) for answer in answers]
    within = [kind or kind_within(a) for kind, a in zip(whole, answers, strict=True)]
    enough = Counter(k for k in whole if k).items(), Counter(k for k in within if k).items()
    counts = {k: n for k, n in enough[1] if 2 * n >= len(answers)}
    counts |= {k: n for k, n in enough[0] if n >= _SHARE * len(answers)}
    names = [k for k in sorted(counts, key=lambda k: -counts[k]) if _ids(k, tokenizer)]
    found = [token_class(name, tokenizer) for name in names]
    other = [a for a, kind in zip(answers, within, strict=True) if kind not in names]
    if 2 * len(other) > len(answers):
        learned = frequent(other, tokenizer, background=background)
        found += [learned] if learned.ids else []
    return found


def kind_of(answer: str) -> str | None:
    """The class of :data:`NAMED` that a whole answer is written with, or None."""
    text = answer.strip().rstrip(".!")
    if text.lower() in _NUMBER_WORDS:
        return "numbers"
    return next((n for n, (_, whole) in NAMED.items() if whole.fullmatch(text)), None)


def kind_within(answer: str) -> str | None:
    """The class that a sentence holds its answer in: a leading yes or no, a time, a number."""
    kinds = [kind_of(word.strip(",;:()\"'")) for word in answer.split()]
    if kinds[:1] == ["yes-no"]:
        return "yes-no"
    return next((k for k in ("times", "numbers") if k in kinds), None)


def frequent(
    answers: Sequence[str], tokenizer: Any, *, background: Iterable[str] = (), most: int = 64
) -> TokenClass:
    """The tokens that are more frequent in answers than elsewhere, at most ``most``.

    Ranked by the smoothed log ratio of frequencies, log (n_a + 1)/(N_a + V) - log (n_b + 1)/
    (N_b + V). Kept are those in two answers and at least twice as frequent as in the
    background, if there is one. Special tokens are left out.
    """
    special = set(tokenizer.all_special_ids)

    def count(texts: Iterable[str]) -> tuple[Counter[int], Counter[int]]:
        total: Counter[int] = Counter()
        holding: Counter[int] = Counter()
        for text in texts:
            ids = [i for i in tokenizer.encode(text, add_special_tokens=False) if i not in special]
            total.update(ids)
            holding.update(set(ids))
        return total, holding

    (mine, holding), (theirs, _) = count(answers), count(background)
    size = len(tokenizer)
    shift = math.log((theirs.total() + size) / (mine.total() + size))
    ratio = {i: math.log((n + 1) / (theirs[i] + 1)) + shift for i, n in mine.items()}
    least = math.log(2) if theirs else -math.inf
    kept = [i for i, r in ratio.items() if r >= least and holding[i] >= 2]
    kept.sort(key=lambda i: (-ratio[i], i))
    return TokenClass("answers", tuple(sorted(kept[:most])))
