"""The public names, so that a break is a decision."""

import inspect

import holdfast


def test_public_names():
    assert holdfast.__all__ == sorted(holdfast.__all__)
    assert set(holdfast.__all__) == {
        "Plan", "Run", "advise", "compare", "continual_evaluation", "evaluate", "export",
        "load", "merge", "repair", "select", "tune", "with_plan", "within",
    }  # fmt: skip
    for name in holdfast.__all__:
        assert inspect.getdoc(getattr(holdfast, name)), name


def test_signatures():
    def names(function):
        return list(inspect.signature(function).parameters)

    assert names(holdfast.tune)[:4] == ["model", "data", "method", "out"]
    assert names(holdfast.load) == ["name", "device", "dtype"]
    assert names(holdfast.with_plan) == ["trainer", "plan"]
    assert names(holdfast.evaluate)[:2] == ["model", "tasks"]
