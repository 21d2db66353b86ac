"""The selector language: sets, whatever is written."""

from __future__ import annotations

from functools import cache

import torch
from fuzz_tools import HOSTILE, SEEDS, cases, is_clean, ours
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from holdfast.anatomy import anatomy
from holdfast.anatomy.recipes import RECIPE_NAMES
from holdfast.anatomy.selector import parse
from holdfast.errors import SelectorError

BLOCKS = 3


@cache
def llama():
    config = LlamaConfig(
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=BLOCKS,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=16,
    )
    with torch.device("meta"):
        return anatomy(LlamaForCausalLM(config))


UNITS = ("", ".attn", ".mlp", ".attn.q", ".attn.q+k", ".mlp.gate+up", ".mlp.down")
TERMS = [
    *("all", "language", "embed", "head", "sa-proj", "gate-up", "last-2", "down", "language.norm"),
    *(f"language{r}{u}" for r in ("", "[0]", "[-1]", "[:2]", "[1:]", "[1:1]") for u in UNITS),
]


def tree(rng, depth=3):
    if not depth or rng.random() < 0.3:
        return rng.choice(TERMS)
    return tree(rng, depth - 1), rng.choice("+-&"), tree(rng, depth - 1)


TREE = SEEDS.map(tree)


def written(node):
    return node if isinstance(node, str) else f"({written(node[0])} {node[1]} {written(node[2])})"


def meant(text):
    """Names of the selected parts; None for a selector that is refused; empty: nothing left."""
    try:
        return frozenset(p.parameter for p in llama().select(text).parts)
    except SelectorError as error:
        said = str(error)
    assert is_clean(said)
    return frozenset() if "takes away again" in said else None


def sets(node):
    """The same by Python's sets, term by term; None where a term is refused."""
    if isinstance(node, str):
        return meant(node)
    left, right = sets(node[0]), sets(node[2])
    if left is None or right is None:
        return None
    return {"+": left | right, "-": left - right, "&": left & right}[node[1]]


@cases(120, node=TREE)
def test_a_selector_means_what_sets_mean(node):
    expected = sets(node)
    if expected is not None:
        assert meant(written(node)) == expected


@cases(60, a=TREE, b=TREE, c=TREE)
def test_algebra(a, b, c):
    a, b, c = written(a), written(b), written(c)
    if None in (meant(a), meant(b), meant(c)):
        return
    assert meant(f"{a} + {b}") == meant(f"{b} + {a}")
    assert meant(f"{a} & {b}") == meant(f"{b} & {a}")
    assert meant(f"{a} + {a}") == meant(a) == meant(f"{a} & {a}")
    assert meant(f"{a} - {a}") == frozenset()
    assert meant(f"({a} + {b}) + {c}") == meant(f"{a} + ({b} + {c})")
    assert meant(f"{a} & ({b} + {c})") == meant(f"({a} & {b}) + ({a} & {c})")
    assert meant(f"{a} - ({b} + {c})") == meant(f"({a} - {b}) & ({a} - {c})")
    assert meant(f"{a} + {b} - {c}") == meant(f"({a} + {b}) - {c}")
    assert meant(f"{a} + {b} & {c}") == meant(f"{a} + ({b} & {c})")
    assert meant(f"({a} - {b}) + ({a} & {b})") == meant(a)


@cases(40, node=TREE, spaces=st.lists(st.sampled_from([" ", "  ", "\t", "\n"]), min_size=9))
def test_white_space_says_nothing(node, spaces):
    text = written(node)
    spread = "".join(spaces[i % len(spaces)] if c == " " else c for i, c in enumerate(text))
    assert meant(f" {spread} ") == meant(text)


ALPHABET = st.sampled_from(
    [*"+-&()[]:. 0123456789\t\x1b\0é", "all", "language", "attn", ".q", "-2:"]
)


@cases(200, text=st.lists(ALPHABET, max_size=14).map("".join))
def test_any_signs(text):
    meant(text)


@cases(
    100,
    text=st.one_of(
        st.text(max_size=30), HOSTILE, st.tuples(st.sampled_from(TERMS), HOSTILE).map("".join)
    ),
)
def test_any_text(text):
    assert ours(parse, text) is not None or meant(text) is None


@cases(40, node=TREE, at=st.integers(0, 200), what=ALPHABET)
def test_one_sign_too_many(node, at, what):
    text = written(node)
    meant(text[: at % len(text)] + what + text[at % len(text) :])


@cases(20, name=st.sampled_from(RECIPE_NAMES), number=st.integers(-2, 10**7))
def test_numbered_recipes(name, number):
    found = meant(name.replace("N", str(number)))
    if name == "last-N" and 0 < number <= BLOCKS:
        assert found == meant(f"language[-{number}:]")
    elif "N" in name and not 0 < number <= BLOCKS:
        assert found is None


def test_what_would_take_for_ever():
    for text in ("language[" + " " * 20_000 + "x]", "a" * 200_000, "a." * 50_000, "(" * 100_000):
        assert meant(text) is None
    assert len(str(error_of("a" * 200_000))) < 5000


def error_of(text):
    try:
        llama().select(text)
    except SelectorError as error:
        return error
    raise AssertionError("it was not refused")
