"""A user's own JSONL with images and a local model folder, through every command."""

import json

import pytest
import torch
from e2e_tools import model_folder, own_data, run, write_rows
from transformers import AutoModelForImageTextToText

import holdfast
from holdfast.errors import ModelError


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("user")
    folder = model_folder(tmp_path)
    data, _ = own_data(tmp_path)
    finished = holdfast.tune(
        str(folder), str(data), "gate-up", out=tmp_path / "run", tasks=["lab:colour"],
        evaluate={"limit": 6}, steps=4, batch_size=4, learning_rate=1e-3,
    )  # fmt: skip
    return tmp_path, folder, data, finished


def test_loading_takes_three_lines(tuned):
    tmp_path, folder, _, _ = tuned
    model, processor = holdfast.load(tmp_path / "run")
    text = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "text", "text": "What colour?"}]}],
        tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt",
    )  # fmt: skip
    reply = model.generate(**text, max_new_tokens=4)
    assert reply.shape[1] > text["input_ids"].shape[1]
    base = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    now = dict(model.named_parameters())
    for name, value in base.named_parameters():
        moved = "language_model" in name and ("gate_proj" in name or "up_proj" in name)
        assert torch.equal(value, now[name]) != moved, name


def test_everything_is_in_the_run(tuned):
    tmp_path, _, _, finished = tuned
    assert finished.finished
    assert finished.tasks("target") == ["mine"]
    assert finished.tasks("held-out") == ["lab:colour"]
    for stage in (0, 1):
        assert len(finished.answers(stage, "mine")) == 2
        assert len(finished.answers(stage, "lab:colour")) == 6
    facts = json.loads((tmp_path / "run" / "model" / "delta.json").read_text())
    assert len(facts["base_hash"]) == 64
    assert not list((tmp_path / "run").rglob("checkpoint-*"))


def test_evaluate_and_export(tuned, capsys):
    tmp_path, _, data, _ = tuned
    code, out, _ = run(
        capsys, "evaluate", tmp_path / "run", "-t", f"{data}:scorer=contains", "--json",
        "--out", tmp_path / "answers", "--limit", 8,
    )  # fmt: skip
    assert code == 0
    [row] = json.loads(out)["tasks"]
    assert row["n"] == 8
    assert len((tmp_path / "answers" / "mine.jsonl").read_text().splitlines()) == 8
    code, _, _ = run(capsys, "export", tmp_path / "run", "--out", tmp_path / "full")
    assert code == 0
    model, _ = holdfast.load(tmp_path / "run")
    full = AutoModelForImageTextToText.from_pretrained(tmp_path / "full", dtype=torch.float32)
    ours = dict(model.named_parameters())
    assert all(torch.equal(v, ours[n]) for n, v in full.named_parameters())


def test_the_saved_configuration_repeats_the_run(tuned, capsys):
    tmp_path, _, _, finished = tuned
    again = tmp_path / "again"
    code, out, _ = run(
        capsys, "tune", "--config", tmp_path / "run" / "run.yaml", "--out", again, "--json"
    )
    assert code == 0
    assert json.loads(out)["run"] == str(again)
    one = (tmp_path / "run" / "model" / "delta.safetensors").read_bytes()
    assert (again / "model" / "delta.safetensors").read_bytes() == one
    other = holdfast.Run.read(again)
    for stage in (0, 1):
        assert other.answers(stage, "mine") == finished.answers(stage, "mine")
    code, _, err = run(capsys, "tune", "--config", tmp_path / "run" / "run.yaml", "--out", again)
    assert code == 0
    assert "finished already" in err


def test_a_dry_run_prints_the_plan_and_writes_nothing(tuned, capsys):
    tmp_path, folder, data, _ = tuned
    arguments = ["tune", folder, "-d", data, "-m", "sa-proj", "-t", "lab:colour", "--steps", "3"]
    arguments += ["--lr", "1e-4", "--set", "evaluate.limit=4", "--out", tmp_path / "dry"]
    code, out, _ = run(capsys, *arguments, "--dry-run", "--json")
    assert code == 0
    facts = json.loads(out)
    model, _ = holdfast.load(folder)
    assert facts["trained_parameters"] == holdfast.select(model, "sa-proj").count
    assert facts["stages"][0]["images"] == facts["stages"][0]["records"] == 22
    assert facts["stages"][0]["steps"] == 3
    assert facts["memory_bytes"] > 0
    assert facts["seconds"] > 0
    assert not (tmp_path / "dry").exists()
    code, out, _ = run(capsys, *arguments, "--dry-run")
    assert code == 0
    assert "peak memory" in out


def test_tuning_what_was_tuned(tuned):
    """A second run on top of the first keeps the first's changes and the first's base."""
    tmp_path, _, data, _ = tuned
    holdfast.tune(
        str(tmp_path / "run"), str(data), "sa-proj", out=tmp_path / "second",
        evaluate={"limit": 2}, steps=2, batch_size=4, learning_rate=1e-3,
    )  # fmt: skip
    first, _ = holdfast.load(tmp_path / "run")
    second, _ = holdfast.load(tmp_path / "second")
    before = dict(first.named_parameters())
    for name, value in second.named_parameters():
        moved = "language_model" in name and "self_attn" in name
        assert torch.equal(value, before[name]) != moved, name
    facts = json.loads((tmp_path / "second" / "model" / "delta.json").read_text())
    assert facts["base"].endswith("my-model")


@pytest.mark.parametrize(
    "methods",
    [["lora:rank=2"], ["lora:rank=2,stages=keep"], ["two-experts"], ["mlp", "lwf", "wise-ft"]],
)
def test_every_kind_of_result_loads_to_the_same_logits(tmp_path, methods):
    """Two stages; what is loaded answers as what was scored."""
    first, rows = own_data(tmp_path, 12)
    second = write_rows(tmp_path / "more.jsonl", rows[::-1])
    out = tmp_path / "run"
    finished = holdfast.tune(
        "lab:vlm", [str(first), str(second)], methods, out=out, tasks=["lab:shape"],
        evaluate={"limit": 8}, steps=3, batch_size=4, learning_rate=3e-3,
    )  # fmt: skip
    [result] = holdfast.evaluate(str(out), "lab:shape", limit=8)
    assert [a.reply for a in result.answers] == [a.reply for a in finished.answers(2, "lab:shape")]
    assert sorted({r["stage"] for r in finished.scores()}) == [0, 1, 2]
    if methods == ["lora:rank=2"]:
        holdfast.export(str(out), tmp_path / "peft", form="peft")
        assert (tmp_path / "peft" / "adapter_config.json").exists()
        from peft import PeftModel

        base, _ = holdfast.load("lab:vlm")
        merged = PeftModel.from_pretrained(base, tmp_path / "peft").merge_and_unload()
        ours, _ = holdfast.load(out)
        mine = dict(ours.named_parameters())
        for name, value in merged.named_parameters():
            torch.testing.assert_close(value, mine[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", ["lora:rank=2", "lora:rank=2,stages=keep"])
def test_the_exported_adapter_is_the_tuned_model(tmp_path, method):
    """After two stages: adapters that were merged add up, one that was kept is there once."""
    from peft import PeftModel

    first, rows = own_data(tmp_path, 12)
    second = write_rows(tmp_path / "more.jsonl", rows[::-1])
    holdfast.tune(
        "lab:vlm", [str(first), str(second)], method, out=tmp_path / "run",
        evaluate={"limit": 1}, steps=3, batch_size=4, learning_rate=3e-3,
    )  # fmt: skip
    holdfast.export(tmp_path / "run", tmp_path / "peft", form="peft")
    base, _ = holdfast.load("lab:vlm")
    theirs = PeftModel.from_pretrained(base, tmp_path / "peft").merge_and_unload()
    ours, _ = holdfast.load(tmp_path / "run")
    ids = torch.arange(5, 20)[None]
    with torch.no_grad():
        expected, found = ours(input_ids=ids).logits, theirs(input_ids=ids).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_no_adapter_is_exported_that_is_not_the_tuned_model(tmp_path):
    """WiSE-FT edits what the adapter was merged into: the adapter alone is another model."""
    data, _ = own_data(tmp_path, 12)
    holdfast.tune(
        "lab:vlm", str(data), ["lora:rank=2", "wise-ft"], out=tmp_path / "run",
        evaluate={"limit": 1}, steps=1, batch_size=4, learning_rate=3e-3,
    )  # fmt: skip
    with pytest.raises(ModelError, match="edited the merged weights"):
        holdfast.export(tmp_path / "run", tmp_path / "peft", form="peft")
