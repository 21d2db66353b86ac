"""Activations are computed twice where they would not fit, and nothing else changes."""

from types import SimpleNamespace

import pytest
import torch
from engine_tools import examples, llama, train, values

from holdfast.engine import memory

CPU = torch.device("cpu")


def test_what_fits_is_counted(monkeypatch):
    """12 bytes a trained weight and 34 numbers of 2 bytes a token, block and unit of width."""
    config = SimpleNamespace(hidden_size=10, num_hidden_layers=3)
    needed = 1000 * 12 + 34 * 10 * 3 * 7 * 2
    for room, short in ((needed / 0.9 + 1, False), (needed / 0.9 - 1, True)):
        monkeypatch.setattr(memory, "free", lambda device, room=room: int(room))
        assert memory.is_short(config, 1000, 7, CPU, half=False) is short
    monkeypatch.setattr(memory, "free", lambda device: None)
    assert not memory.is_short(config, 1000, 7, CPU, half=False)


def test_a_system_that_says_what_is_free_is_believed():
    assert memory.free(CPU) is None or memory.free(CPU) > 2**20


@pytest.mark.parametrize(("setting", "twice"), [("auto", True), (False, False), (True, True)])
def test_short_of_memory(tmp_path, monkeypatch, setting, twice):
    """The same weights come out, to rounding, and the blocks are run again in the backward pass."""
    rows = examples(8)
    plain = train(llama(), "gate-up", tmp_path / "plain", data=rows, steps=2)
    monkeypatch.setattr(memory, "free", lambda device: 1)
    model, runs = llama(), []
    model.model.layers[1].mlp.gate_proj.register_forward_pre_hook(lambda *_: runs.append(1))
    found = train(
        model, "gate-up", tmp_path / "short", data=rows, steps=2, gradient_checkpointing=setting
    )
    once = 2
    assert (len(runs) > once) is twice
    for name, value in values(found.model).items():
        assert torch.allclose(value, values(plain.model)[name], atol=1e-6), name
