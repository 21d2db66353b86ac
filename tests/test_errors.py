"""Errors survive a process boundary and say what to do."""

import pickle

import pytest

from holdfast import errors


@pytest.mark.parametrize(
    "error",
    [
        errors.UnknownName("method", "gateup", ["gate-up", "mlp"]),
        errors.DataError("two problems", ["one", "two"]),
        errors.PlanConflict("a and b"),
        errors.RunError("full"),
    ],
)
def test_pickled_and_back(error):
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert vars(back) == vars(error)


def test_unknown_names_show_the_nearest_and_all():
    text = str(errors.UnknownName("method", "gateup", ["mlp", "gate-up"]))
    assert text == "there is no method 'gateup'; did you mean 'gate-up'? There is: gate-up, mlp."
    assert "nothing" in str(errors.UnknownName("method", "x", []))


def test_a_missing_extra_names_its_install_line():
    with pytest.raises(errors.MissingExtra, match=r"pip install 'holdfast\[lora\]'"):
        errors.need("no_such_module_anywhere", "lora")


def test_the_tree_refines_standard_errors():
    assert issubclass(errors.SelectorError, ValueError)
    assert issubclass(errors.RunError, RuntimeError)
    assert issubclass(errors.MissingExtra, ImportError)
