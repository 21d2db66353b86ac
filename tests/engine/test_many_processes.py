"""Two processes with gloo: the schedule, the losses and the weights of one process."""

import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from engine_tools import phi3, train, values
from two_processes import CASES, gpt2, run

HERE = Path(__file__).parent
TOLERANCE = 2e-6
"""Largest difference in a weight (steps of 1e-2 were taken) and in a loss: rounding."""

ENGINES = {
    "ddp": {},
    "fsdp": {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"},
    "zero3": {
        "ACCELERATE_USE_DEEPSPEED": "true",
        "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3",
        "DS_ACCELERATOR": "cpu",
    },
}


def start(engine, out, cases, **more):
    """Both processes of one launch, without a launcher's process beside them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    sizes = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    shared = {**os.environ, **ENGINES[engine], **more, **meeting, **sizes}
    command = [sys.executable, str(HERE / "two_processes.py"), str(out), ",".join(cases)]
    return [
        subprocess.Popen(
            command,
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]


def finish(processes, seconds=900):
    texts = []
    for process in processes:
        try:
            texts.append(process.communicate(timeout=seconds)[0])
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return [p.returncode for p in processes], texts


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    out = tmp_path_factory.mktemp("alone")
    return {name: run(name, out / name) for name in CASES}


def check(engine, alone, tmp_path):
    codes, texts = finish(start(engine, tmp_path, [*CASES, "resumed"]))
    assert codes == [0, 0], "\n".join(texts)
    for name, one in alone.items():
        two = torch.load(tmp_path / f"{name}.pt", weights_only=True)
        assert two["spread"] == (engine != "ddp"), name
        assert one["values"].keys() == two["values"].keys(), name
        for weight, value in one["values"].items():
            torch.testing.assert_close(
                two["values"][weight], value, rtol=0, atol=TOLERANCE, msg=f"{name}: {weight}"
            )
        for a, b in zip(one["notes"], two["notes"], strict=True):
            assert a["step"] == b["step"]
            assert a["learning_rate"] == b["learning_rate"]
            for key in (k for k in a if k.startswith("loss") or k == "grad_norm"):
                assert b[key] == pytest.approx(a[key], abs=5 * TOLERANCE), (name, key)
    again = torch.load(tmp_path / "resumed.pt", weights_only=True)
    for weight, value in again["values"].items():
        assert torch.equal(again["again"][weight], value), f"resumed: {weight}"


def test_the_cases_move_what_they_say(alone):
    """Else the comparison would hold for a plan that does nothing."""
    for name, make in {"rows": phi3, "columns": gpt2}.items():
        moved = {
            weight
            for weight, value in values(make()).items()
            if not torch.equal(value, alone[name]["values"][weight])
        }
        assert moved
        assert all("qkv_proj" in w or "c_attn" in w for w in moved)
    assert alone["lwf"]["notes"][-1]["loss/distill"] > 1e-3


@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_two_processes_are_one(engine, alone, tmp_path):
    check(engine, alone, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="needs deepspeed")
def test_two_processes_of_zero3_are_one(alone, tmp_path):
    check("zero3", alone, tmp_path)


def test_a_run_goes_on_with_another_number_of_processes(tmp_path):
    """FSDP's checkpoint is one process's."""
    codes, texts = finish(start("fsdp", tmp_path, ["resumed"]))
    assert codes == [0, 0], "\n".join(texts)
    two = torch.load(tmp_path / "resumed.pt", weights_only=True)["values"]
    for folder in (tmp_path / "resumed" / "cut").rglob("checkpoint-6"):
        folder.rename(tmp_path / "finished")  # as if it had been cut at its checkpoint before
    one = train(
        phi3(), ["train:select=language.attn.q", "lwf:weight=0.5"], tmp_path / "resumed" / "cut",
        weight_decay=0.3, steps=6, save_every=2,
    )  # fmt: skip
    for weight, value in values(one.model).items():
        torch.testing.assert_close(two[weight], value, rtol=0, atol=TOLERANCE, msg=weight)


@pytest.mark.parametrize("rank", ["0", "1"])
def test_an_error_in_one_process_ends_both(rank, tmp_path):
    codes, texts = finish(start("ddp", tmp_path, ["gate-up"], FAIL_ON=rank))
    assert all(codes), codes
    assert sum("on purpose" in text for text in texts) == 1
