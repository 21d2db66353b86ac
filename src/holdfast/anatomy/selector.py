"""The selector language: which parts of a model, in one line.

    all                            every weight
    language  vision  projector    one tower
    language.mlp.gate+up           units of a tower; '+' without spaces lists units
    language[8:16].attn            blocks 8 to 15; language[-2:], language[3], language[:]
    embed  head  attn.q            without a tower: the language tower's
    sa-proj  gate-up  last-2       a published recipe (see recipes.py)
    A + B   A - B   A & B   (A)    union, difference, intersection; '-' needs the spaces

'&' binds tighter than '+' and '-', which go from left to right. A text is parsed once into a
value that never changes; nothing about a model is needed for that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from holdfast.anatomy.families import LAYOUTS
from holdfast.anatomy.layouts import Fused
from holdfast.anatomy.parts import TOWERS, Tower
from holdfast.anatomy.recipes import RECIPE_NAMES, recipe
from holdfast.errors import SelectorError, nearest


@dataclass(frozen=True)
class Blocks:
    """A range of blocks: ``[start:stop]``, or one block if ``single``."""

    start: int | None
    stop: int | None
    single: bool = False


@dataclass(frozen=True)
class Path:
    """One term: a tower, perhaps some blocks of it, perhaps some units of these."""

    text: str
    tower: Tower
    blocks: Blocks | None = None
    units: tuple[str, ...] = ()
    """Empty: everything there."""
    optional: bool = False
    """In a recipe: units that this family does not have are passed over."""


@dataclass(frozen=True)
class All:
    """Every part."""


@dataclass(frozen=True)
class Combination:
    """Two selectors and what is done with them."""

    operator: Literal["+", "-", "&"]
    left: Selector
    right: Selector


@dataclass(frozen=True)
class Named:
    """A recipe, and what it stands for."""

    name: str
    body: Selector


Selector = All | Path | Combination | Named


@dataclass(frozen=True)
class _Token:
    kind: Literal["word", "operator", "end"]
    text: str
    at: int


_WORD = r"[A-Za-z_]\w*(?:[.+-](?=\w)\w+|\[[^\[\]]*\])*"
_TOKEN = re.compile(rf"\s*(?:(?P<word>{_WORD})|(?P<operator>[-+&()]))")
_BLOCKS = re.compile(r"\s*(-?\d+)?\s*(:)?\s*(-?\d+)?\s*")
_MAX_DEPTH = 100
_MAX_TOKENS = 500
_MAX_LENGTH = 10_000


def known_units() -> tuple[str, ...]:
    """Every unit that some row of the family table uses, and the groups that they form."""
    units = {"other", "head", "linear", "newline", "scale", "adapter"}
    for row in LAYOUTS:
        for leaf in (*row.leaf.values(), *row.outer.values()):
            if not isinstance(leaf, Fused):
                units.add(leaf.partition("@")[0])
    units |= {"attn.q", "attn.k", "attn.v", "mlp.gate", "mlp.up"}
    return tuple(sorted(units | {u.partition(".")[0] for u in units}))


@lru_cache(maxsize=512)
def parse(text: str) -> Selector:
    """The selector that ``text`` says.

    Raises :class:`holdfast.errors.SelectorError`, with a caret at the place, if the text is
    malformed or names a role that does not exist.
    """
    return _Parser(text).parse()


class _Parser:
    def __init__(self, text: str, optional: bool = False) -> None:
        self.text, self.optional = text, optional
        self.tokens = self._tokens()
        self.next = 0
        self.depth = 0

    def parse(self) -> Selector:
        if not self.text.strip():
            raise SelectorError(
                "the selector is empty; write for example 'sa-proj' or 'language.mlp.gate+up'."
            )
        result = self._sum()
        if self._peek().kind != "end":
            raise self._error("expected '+', '-', '&' or the end", self._peek().at)
        return result

    def _tokens(self) -> list[_Token]:
        if len(self.text) > _MAX_LENGTH:
            raise SelectorError(
                f"the selector has {len(self.text):,} characters; at most {_MAX_LENGTH:,} are read."
            )
        tokens, at = [], 0
        while self.text[at:].strip():
            found = _TOKEN.match(self.text, at)
            if not found:
                at += len(self.text[at:]) - len(self.text[at:].lstrip())
                raise self._error("did not expect this here", at)
            kind: Literal["word", "operator"] = "word" if found["word"] else "operator"
            tokens.append(_Token(kind, found[kind], found.start(kind)))
            at = found.end()
            if len(tokens) > _MAX_TOKENS:
                raise self._error(f"a selector has at most {_MAX_TOKENS} words and signs", at)
        return [*tokens, _Token("end", "", len(self.text))]

    def _peek(self) -> _Token:
        return self.tokens[self.next]

    def _take(self) -> _Token:
        self.next += 1
        return self.tokens[self.next - 1]

    def _sum(self) -> Selector:
        left = self._product()
        while self._peek().text in ("+", "-"):
            operator: Literal["+", "-"] = "+" if self._take().text == "+" else "-"
            left = Combination(operator, left, self._product())
        return left

    def _product(self) -> Selector:
        left = self._term()
        while self._peek().text == "&":
            self._take()
            left = Combination("&", left, self._term())
        return left

    def _term(self) -> Selector:
        token = self._take()
        if token.kind == "word":
            return self._word(token)
        if token.text != "(":
            self.next -= 1
            raise self._error("expected a tower, a unit, a recipe or '('", token.at)
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise self._error(f"parentheses are nested more than {_MAX_DEPTH} deep", token.at)
        inner = self._sum()
        if self._peek().text != ")":
            raise self._error("this '(' is not closed", token.at)
        self._take()
        self.depth -= 1
        return inner

    def _word(self, token: _Token) -> Selector:
        """One word; several joined by '+' without spaces are units of one path, or a union."""
        pieces = token.text.split("+")
        if len(pieces) > 1 and not re.search(r"[.\[]", pieces[0]):
            at, result = token.at, self._single(pieces[0], token.at)
            for piece in pieces[1:]:
                at += len(piece) + 1
                result = Combination("+", result, self._single(piece, at))
            return result
        return self._single(token.text, token.at)

    def _single(self, word: str, at: int) -> Selector:
        if word == "all":
            return All()
        body = recipe(word)
        if body is not None:
            return Named(word, _Parser(body, optional=True).parse())
        return self._path(word, at)

    def _path(self, word: str, at: int) -> Path:
        first = re.match(r"[\w-]+", word)
        assert first is not None
        rest = word[first.end() :]
        blocks = None
        if first[0] not in TOWERS:
            return self._units(word, "language", None, word, at, at)
        if rest.startswith("["):
            inside, _, rest = rest[1:].partition("]")
            blocks = self._blocks(inside, at + first.end())
        tower: Tower = first[0]
        if not rest:
            return Path(word, tower, blocks, (), self.optional)
        if not rest.startswith("."):
            raise self._error("expected '.' and a unit after the tower", at + len(word) - len(rest))
        return self._units(word, tower, blocks, rest[1:], at, at + len(word) - len(rest) + 1)

    def _blocks(self, inside: str, at: int) -> Blocks:
        found = _BLOCKS.fullmatch(inside) if len(inside) <= 40 else None
        if not found or not (found[1] or found[2]):
            raise self._error("expected blocks such as [3], [8:16] or [-2:]", at)
        start = int(found[1]) if found[1] else None
        stop = int(found[3]) if found[3] else None
        return Blocks(start, stop, single=not found[2])

    def _units(
        self, word: str, tower: Tower, blocks: Blocks | None, path: str, at: int, from_: int
    ) -> Path:
        """``mlp.gate+up``: the first piece is a whole unit, the others share its group."""
        if "[" in path:
            raise self._error("blocks follow the tower, as in language[3].attn.q", from_)
        pieces = path.split("+")
        group = pieces[0].rpartition(".")[0]
        units = [pieces[0]] + [f"{group}.{p}" if group else p for p in pieces[1:]]
        known = known_units()
        for piece, unit in zip(pieces, units, strict=True):
            if unit not in known:
                raise self._unknown(word, unit, piece, from_)
            from_ += len(piece) + 1
        return Path(word, tower, blocks, tuple(units), self.optional)

    def _unknown(self, word: str, unit: str, piece: str, at: int) -> SelectorError:
        known: list[str] = sorted({*known_units(), *TOWERS, "all", *RECIPE_NAMES})
        bare = "[" not in word and "." not in word
        if bare and "-" in word and all(w in known for w in word.split("-")):
            spaced = " - ".join(word.split("-"))
            return self._error(f"'{word:.200}' is one name; to subtract write '{spaced:.200}'", at)
        later = "+" in word and not re.search(rf"(^|\.){re.escape(piece)}\+", word)
        if later and (piece.partition(".")[0] in known or recipe(piece)):
            return self._error(
                f"'+' without spaces lists units of one tower, and '{piece:.80}' is not one; "
                "put spaces around the '+' for a union",
                at,
            )
        first = re.split(r"[.\[]", word)[0]
        groups = {u.partition(".")[0] for u in known_units()}
        if not bare and first not in groups | set(TOWERS):
            return self._error(
                f"there is no tower '{first:.80}'{nearest(first[:80], TOWERS)}", at, stop=""
            )
        names = known if bare else list(known_units())
        return self._error(f"there is no role '{unit:.80}'{nearest(unit[:80], names)}", at, stop="")

    def _error(self, problem: str, at: int, stop: str = ".") -> SelectorError:
        first = max(0, at - 60)
        return SelectorError(
            f"cannot read the selector: {printable(problem)}{stop}\n"
            f"  {printable(self.text[first : at + 60])}\n  {' ' * (at - first)}^"
        )


def printable(text: str) -> str:
    """``text`` on one line without control characters, of the same length."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in text)
