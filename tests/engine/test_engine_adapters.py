"""New adapters and merges in stages of the engine: sources, plain models, restarts to the bit."""

import shutil

import pytest
import torch
from engine_tools import collate, examples, llama, values

from holdfast.config import Train
from holdfast.engine import carrying
from holdfast.engine.stage import train_stage
from holdfast.errors import ConfigError
from holdfast.methods import plan

torch.set_num_threads(1)


def stage(methods, model, folder, *, seed=1, data=None, recalled=None, **changes):
    made = recalled or carrying.recall(plan(methods), None)
    settings = {"learning_rate": 1e-2, "steps": 4, "batch_size": 4, "save_every": 2, **changes}
    trained = train_stage(
        made, model, examples(8), collate, Train(**settings, cache="off"),
        folder=folder / "checkpoints", seed=seed, base_weights={}, sources=data,
        advance=lambda done, total: None, note=lambda row: None, adapter_folder=None,
    )  # fmt: skip
    return trained, made


GENERAL = {"general": examples(6, seed=9)}
CASES = {
    "corda": (["corda:rank=4,examples=3"], GENERAL),
    "corda-ipm": (["corda:rank=4,mode=ipm"], None),
    "lora-null": (["lora-null:rank=4", "wise-ft"], GENERAL),
    "oplora": (["oplora:rank=2,keep=3"], None),
    "osf": (["osf:project=weights", "ties:density=0.5"], None),
    "o-lora": (["o-lora:rank=2", "sfa:beta=0.3"], None),
    "sfa": (["mlp", "sfa", "dare:drop=0.5"], None),
}


@pytest.mark.parametrize("name", CASES)
def test_a_stage_that_was_cut_off_goes_on_to_the_same_bits(name, tmp_path):
    methods, data = CASES[name]
    whole, _ = stage(methods, llama(), tmp_path / "a", data=data)
    assert values(whole.model).keys() == values(llama()).keys()  # a plain model again
    before = values(llama())
    moved = {n for n, v in values(whole.model).items() if not torch.equal(v, before[n])}
    assert moved
    assert moved <= set(whole.changed)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    shutil.rmtree(tmp_path / "b" / "checkpoints" / "checkpoint-4")
    again, _ = stage(methods, llama(), tmp_path / "b", data=data)
    for n, v in values(again.model).items():
        assert torch.equal(v, values(whole.model)[n]), n


def test_what_adapters_look_at_is_asked_for_and_read(tmp_path):
    with pytest.raises(
        ConfigError, match=r"'corda:rank=2' reads the source 'general'.*does not have"
    ):
        stage(["corda:rank=2"], llama(), tmp_path)
    with pytest.raises(ConfigError, match="does not read it"):
        stage(["oplora"], llama(), tmp_path, data=GENERAL)


def test_other_data_to_keep_makes_another_adapter(tmp_path):
    found = []
    for i, seed in enumerate((9, 10)):
        data = {"general": examples(6, seed=seed)}
        found.append(stage(["lora-null:rank=4"], llama(), tmp_path / str(i), data=data)[0].model)
    one, two = map(values, found)
    assert any(not torch.equal(one[n], two[n]) for n in one)


def test_the_teacher_of_a_cut_out_adapter_is_the_model_at_the_start(tmp_path):
    """At the first step a distance to the start of the stage is 0, also to the base later."""
    for name, method in (("stage", "lwf"), ("base", "lwf:teacher=base")):
        losses = []
        made = carrying.recall(plan(["lora-null:rank=4", method]), None)
        train_stage(
            made, llama(), examples(8), collate,
            Train(learning_rate=1e-9, steps=1, batch_size=4, cache="off"),
            folder=tmp_path / name, seed=1, base_weights=values(llama()), sources=GENERAL,
            advance=lambda done, total: None, note=losses.append, adapter_folder=None,
        )  # fmt: skip
        assert abs(losses[0]["loss/distill"]) < 1e-5


def test_sfa_with_one_period_is_wise_ft(tmp_path):
    one, _ = stage(["mlp", "sfa:beta=0.3,period=1"], llama(), tmp_path / "a")
    two, _ = stage(["mlp", "wise-ft:alpha=0.3"], llama(), tmp_path / "b")
    for n, v in values(one.model).items():
        torch.testing.assert_close(v, values(two.model)[n])


def test_ties_over_two_stages_reads_what_the_first_kept(tmp_path):
    base = values(llama())
    first, made = stage(["mlp", "ties:density=1"], llama(), tmp_path / "1")
    carrying.keep(made, None, tmp_path / "1")
    recalled = carrying.recall(plan(["mlp", "ties:density=1"]), tmp_path / "1")
    (edit,) = recalled.settle
    middle = values(first.model)
    for key, tau in edit.earlier.items():
        torch.testing.assert_close(base[key.split(" / ")[1]] + tau, middle[key.split(" / ")[1]])
    assert len(edit.earlier) == 2 * 3
