"""The selector language: what is read, what is refused and how."""

from __future__ import annotations

import re
from functools import lru_cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_families import build

from holdfast.anatomy import anatomy
from holdfast.errors import SelectorError


@pytest.fixture(scope="module")
def llama():
    return anatomy(build("llama"))


@pytest.fixture(scope="module")
def llava():
    return tiny_llava()


@pytest.fixture(scope="module")
def opt():
    return anatomy(build("opt"))


def names(found, text):
    return set(found.select(text).parameters)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("full", "all"),
        ("full", "vision + projector + language"),
        ("full-llm", "language"),
        ("full-llm", "all - vision - projector"),
        ("sa-proj", "language.attn"),
        ("sa-proj", "language.attn.q+k+v+o"),
        ("qkv", "language.attn - language.attn.o"),
        ("vo", "language.attn.v+o"),
        ("mlp", "language.mlp"),
        ("gate-up", "language.mlp.gate+up"),
        ("gate-up", "mlp - down"),
        ("down", "language.mlp.down"),
        ("sa-proj+gate-up", "language.attn + language.mlp.gate+up"),
        ("language.attn+mlp", "language.attn + language.mlp"),
        ("last-2", "language[-2:]"),
        ("last-2", "language[1:3]"),
        ("first-1", "language[0]"),
        ("first-1", "language[:1]"),
        ("language[:]", "language - embed - head - (language.norm - language[:].norm)"),
        ("language[-1].attn", "last-1 & sa-proj"),
        ("last-1-lmmcl", "freeze-last-2-lmmcl - language[0] + language[2]"),
        ("vision+projector", "vision + projector"),
        ("vision.mlp", "vision.mlp.up+down"),
        ("vision-fc1", "vision.mlp.up"),
        ("vision-sa - vision-qkv", "vision.attn.o"),
        ("vision[:]", "vision[0:2]"),
        ("embed", "language.embed"),
        ("attn.q", "language.attn.q"),
        ("(all)", " all "),
        ("all - (vision + projector)", "all-vision-projector".replace("-", " - ")),
        ("language & language.attn + projector", "(language & language.attn) + projector"),
        ("language[ 0 : 2 ].attn", "language[0:2].attn"),
    ],
)
def test_pairs_that_mean_the_same(llava, one, other):
    assert names(llava, one) == names(llava, other)


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("langauge", "did you mean 'language'?"),
        ("sa-prj", "did you mean 'sa-proj'?"),
        ("langauge.attn", "no tower 'langauge'; did you mean 'language'?"),
        ("language.mlp.gait", "did you mean 'mlp.gate'?"),
        ("language.atn", "did you mean 'attn'?"),
        ("language.attn.q+w", "there is no role 'attn.w'"),
        ("language.attn+projector", "put spaces around the '+'"),
        ("all-embed", "'all - embed'"),
        ("language +", "expected a tower"),
        ("+ language", "expected a tower"),
        ("(language", "not closed"),
        ("language)", "expected '+', '-', '&' or the end"),
        ("language vision", "expected '+', '-', '&' or the end"),
        ("language[]", "expected blocks such as"),
        ("language[a]", "expected blocks such as"),
        ("language[1:2:3]", "expected blocks such as"),
        ("language[0.5]", "expected blocks such as"),
        ("language.attn[3]", "blocks follow the tower"),
        ("language..attn", "did not expect this here"),
        ("language!", "did not expect this here"),
        ("language\x1b[31m", "cannot read the selector"),
        ("last-0", "there is no role 'last-0'"),
        ("language[7]", "has 3 blocks, 0 to 2"),
        ("language[1:9]", "has 3 blocks, 0 to 2"),
        ("language[2:2]", "has 3 blocks"),
        ("last-4", "has 3 blocks"),
        ("language - language", "takes away again"),
        ("language.router", "it has no 'router' there"),
        ("all - language[9]", "has 3 blocks"),
        ("vision.head", "There is: "),
        ("language[0].embed", "it has no 'embed' there"),
    ],
)
def test_refusals(llava, text, fragment):
    with pytest.raises(SelectorError, match=re.escape(fragment)) as caught:
        llava.select(text)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("text", ["vision", "projector", "vision-sa", "vision-fc1", "vision[0]"])
def test_a_text_model_has_no_vision(llama, text):
    with pytest.raises(
        SelectorError, match=r"nothing in this model.*language \(3 blocks\): attn\.k"
    ):
        llama.select(text)


def test_the_caret_stands_under_the_mistake(llama):
    with pytest.raises(SelectorError) as caught:
        llama.select("sa-proj + language.mpl.gate")
    problem, shown, caret = str(caught.value).splitlines()
    assert shown[caret.index("^") :].startswith("mpl.gate")
    assert "mpl" in problem


def test_two_layer_mlps_have_no_gate(opt):
    assert names(opt, "gate-up") == names(opt, "language.mlp.up")
    assert names(opt, "language.mlp.gate+up") == names(opt, "language.mlp.up")
    assert all("fc1" in n for n in names(opt, "gate-up"))
    assert all("fc2" in n for n in names(opt, "down"))
    with pytest.raises(SelectorError, match=r"it has no 'mlp\.gate' there"):
        opt.select("language.mlp.gate")


def test_one_missing_term_of_a_union_is_refused(llama):
    with pytest.raises(SelectorError, match="no projector tower"):
        llama.select("sa-proj + projector")


def test_taking_away_what_is_not_there_is_said(llama):
    chosen = llama.select("language - router")
    assert chosen.count == llama.count
    assert any("takes nothing away" in note for note in chosen.notes)


@lru_cache
def tiny_llava():
    return anatomy(build("llava"))


@settings(max_examples=400, deadline=None)
@given(
    st.one_of(
        st.text(max_size=40),
        st.text(alphabet="alqkv.+-&()[]:0123 gpn", max_size=60),
        st.lists(
            st.sampled_from(
                [
                    "all",
                    "language",
                    "vision",
                    "(",
                    ")",
                    "+",
                    " + ",
                    " - ",
                    "&",
                    ".attn",
                    "[0:2]",
                    "[-1]",
                    "sa-proj",
                    "last-2",
                    "mlp.gate+up",
                    " ",
                    "last-99999999",
                    "²",
                    "[٣]",
                ]
            ),
            max_size=14,
        ).map("".join),
    )
)
def test_any_text_is_a_selection_or_a_selector_error(text):
    found = tiny_llava()
    try:
        chosen = found.select(text)
    except SelectorError:
        return
    assert chosen.count > 0
    assert set(chosen.parameters) == {p.parameter for p in chosen.parts}


@pytest.mark.parametrize("text", ["(" * 5000, "all + " * 5000 + "all", "a" * 100_000, "[" * 9999])
def test_long_texts_end_in_an_error_not_in_a_crash(llama, text):
    with pytest.raises(SelectorError):
        llama.select(text)
