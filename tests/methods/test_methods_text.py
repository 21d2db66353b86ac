"""How methods are written, checked, named and combined."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import ConfigError, PlanConflict, UnknownName
from holdfast.methods import METHODS, describe, gate_up, lora, method, mlp, plan, train, wise_ft


def test_text_and_python_make_the_same_plan() -> None:
    assert method("lora:rank=8,scope=sa-proj") == lora(rank=8, scope="sa-proj")
    assert method("wise-ft:alpha=0.5").settle[0] == wise_ft().settle[0]
    assert method("lora", rank=8) == lora(rank=8)
    assert method("last-4") == method("last-n:n=4")
    assert method("lora:also-train=projector") == lora(also_train="projector")


def test_quotes_keep_commas_and_bars() -> None:
    assert method("train:select='a, b | c'").train == "a, b | c"
    assert method(r'train:select="say \"x\", y"').train == 'say "x", y'
    assert plan("train:select='embed | x' | wise-ft").name == 'train:select="embed | x" | wise-ft'


@given(st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), min_size=1))
def test_any_value_survives_its_own_name(text: str) -> None:
    made = train(select=text)
    assert method(made.name).train == text
    assert plan([made.name]).train == text


def test_several_texts_fold_from_left_to_right() -> None:
    assert plan(["mlp", "lwf", "wise-ft:alpha=0.1"]) == plan("mlp | lwf | wise-ft:alpha=0.1")
    assert plan(["mlp", "wise-ft"]) == mlp() | wise_ft()
    with pytest.raises(ConfigError, match="no method"):
        plan([])
    with pytest.raises(PlanConflict, match=r"'mlp'.*'gate-up'"):
        plan(["mlp", "gate-up"])
    with pytest.raises(PlanConflict, match=r"train:select='mlp \+ gate-up'"):
        mlp() | gate_up()


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("gat-up", UnknownName, "did you mean 'gate-up'"),
        ("lora:rnk=3", UnknownName, "did you mean 'rank'"),
        ("lora:rank=0", ConfigError, "rank='0'"),
        ("lora:rank=eight", ConfigError, "integer"),
        ("lora:rank=2.5", ConfigError, "integer"),
        ("lora:dropout=1", ConfigError, "less than 1"),
        ("lora:stages=merged", ConfigError, "'merge', 'keep' or 'stack'"),
        ("lora:scope=' '", ConfigError, "empty scope"),
        ("lora:stages=stack,also_train=projector", ConfigError, "stack"),
        ("lwf:weight=nan", ConfigError, "finite"),
        ("lwf:weight=-1", ConfigError, "greater than or equal to 0"),
        ("lwf:temperature=0", ConfigError, "greater than 0"),
        ("lwf:positions=answers", ConfigError, "'answer'"),
        ("wise-ft:alpha=1.5", ConfigError, "less than or equal to 1"),
        ("last-n", ConfigError, "required"),
        ("last-0", ConfigError, "greater than or equal to 1"),
        ("last-n:n=2,n=3", ConfigError, "twice"),
        ("mlp:", ConfigError, "cannot read"),
        ("lora:rank", ConfigError, "cannot read 'rank'"),
        ("lora:rank=", ConfigError, "no value"),
        ("train:select='a", ConfigError, "not closed"),
        ("train:select='a'b", ConfigError, "cannot read"),
        ("", ConfigError, "cannot read"),
        ("a b", ConfigError, "cannot read"),
    ],
)
def test_a_bad_text_says_what_is_wrong(text: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error) as raised:
        method(text)
    assert says in str(raised.value)


@pytest.mark.parametrize(
    "call",
    [lambda: lora(rank=True), lambda: lora(rank=2.0), lambda: wise_ft(alpha="high")],
)
def test_python_values_are_checked_too(call: object) -> None:
    with pytest.raises(ConfigError):
        call()  # type: ignore[operator]


def test_a_name_shows_only_what_was_changed() -> None:
    assert lora(rank=8, dropout=None).name == "lora:rank=8"
    assert wise_ft(alpha=0.5).name == "wise-ft"
    assert (gate_up() | wise_ft(alpha=0.25)).name == "gate-up | wise-ft:alpha=0.25"
    assert lora(rank=8).owners == {"adapt": "lora:rank=8"}


def test_the_published_learning_rates() -> None:
    assert method("full").learning_rate == 5e-6
    assert method("full").lr_scale == (("vision", 0.4),)
    assert method("full:vision_lr_scale=1").lr_scale == ()
    assert method("vision").learning_rate == 2e-6
    assert method("lora").learning_rate == 5e-5
    assert method("gate-up").learning_rate == 5e-6


def test_lora_compatibility_is_a_set_of_defaults() -> None:
    adapter = lora(lmmcl_compat=True).adapt
    assert (
        adapter
        == method("lora:rank=256,alpha=32,dropout=0.05,also_train=projector,stages=keep").adapt
    )
    mine = lora(lmmcl_compat=True, rank=8, dropout=0.0).adapt
    assert mine == lora(rank=8, alpha=32.0, also_train="projector", stages="keep").adapt


def test_a_table_of_all_methods() -> None:
    rows = {row.name: row for row in describe()}
    assert rows.keys() == {entry.name for entry in METHODS}
    assert rows["wise-ft"].settings == {"alpha": 0.5, "anchor": "previous"}
    assert rows["last-n"].settings["n"] is ...
    assert all(row.paper and row.summary for row in rows.values())


def test_methods_are_listed_without_torch() -> None:
    code = (
        "import sys, holdfast.methods as m; m.describe(); m.plan('lora | lwf | wise-ft')"
        "; m.method('two-experts'); sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_method_that_is_given_twice():
    with pytest.raises(PlanConflict, match="'wise-ft' is given 2 times; give it once"):
        plan(["mlp", "wise-ft", "wise-ft:alpha=0.2"])
