from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from probe_models import noisy, text_pair

from holdfast.cli import main
from holdfast.probes import PROBES


@pytest.fixture(scope="module")
def folders(tmp_path_factory: Any) -> Path:
    home = tmp_path_factory.mktemp("models")
    base, tokenizer, _ = text_pair()
    for name, model in (("base", base), ("tuned", noisy(base))):
        model.save_pretrained(home / name)
        tokenizer.save_pretrained(home / name)
    rows = [{"question": f"what is \x1b[31m{i}", "answer": "seven"} for i in range(3)]
    (home / "data.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return home


def run(home: Path, *more: str) -> int:
    return main(["probe", str(home / "base"), str(home / "tuned"), "--quiet", *more])


def test_json_has_every_row(folders: Path, capsys: Any):
    data = str(folders / "data.jsonl")
    code = run(folders, "--data", data, "--json", "--probe", "divergence", "--probe", "layers")
    assert code == 0
    found = json.loads(capsys.readouterr().out)
    assert [r["probe"] for r in found["results"]] == ["divergence", "layers"]
    rows = {(r["measure"], r["side"]): r for r in found["results"][0]["rows"]}
    assert rows["forward_kl", "pair"]["value"] > 0
    assert rows["forward_kl", "pair"]["data"] == data
    assert rows["forward_kl", "pair"]["unit"] == "nats per token"


def test_the_table_and_the_page(folders: Path, tmp_path: Path, capsys: Any):
    data, out = str(folders / "data.jsonl"), tmp_path / "page"
    assert run(folders, "--data", data, "--taught", data, "--out", str(out), "--limit", "2") == 0
    shown = capsys.readouterr().out
    assert "forced.max_probability" in shown
    assert "\x1b[31m" not in shown
    assert "| forward_kl | pair |" in (out / "drift.md").read_text()
    written = (out / "drift.html").read_text(encoding="utf-8")
    assert "forward_kl" in written
    assert "numbers moved by more than chance explains" in written


def test_weights_need_no_prompts(folders: Path, capsys: Any):
    assert run(folders, "--probe", "weights", "--json") == 0
    (found,) = json.loads(capsys.readouterr().out)["results"]
    assert found["facts"]["unmatched_tensors"] == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["a", "b"], "name the prompts to read with --data"),
        (["a", "--probe", "weights"], "1 models were named (a)"),
        (["a", "b", "--probe", "weight"], "did you mean 'weights'"),
        (["a", "b", "--probe", "weights"], "there is no model 'a'"),
    ],
)
def test_mistakes_are_sentences(arguments: list[str], says: str, capsys: Any):
    assert main(["probe", *arguments]) in (2, 4)
    assert says in " ".join(capsys.readouterr().err.split())


def test_probes_are_listed(capsys: Any):
    assert main(["list", "probes", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [r["name"] for r in listed] == [e.name for e in PROBES]


def test_in_training(tmp_path: Path):
    """Measured at the steps asked for, against the model as it was; training is not disturbed."""
    from transformers import Trainer, TrainingArguments

    from holdfast.data import Encoder, collate
    from holdfast.errors import UsageError
    from holdfast.probes import ProbeCallback, divergence

    def train(callbacks: list[Any]) -> Any:
        model, processor, prompts = text_pair()
        encoder = Encoder(processor)
        arguments = TrainingArguments(
            output_dir=str(tmp_path), max_steps=4, learning_rate=1e-2, use_cpu=True,
            report_to="none", save_strategy="no", disable_tqdm=True, logging_steps=1,
            per_device_train_batch_size=2, remove_unused_columns=False,
        )  # fmt: skip
        trainer = Trainer(
            model=model, args=arguments, train_dataset=[encoder(r) for r in prompts],
            data_collator=lambda rows: collate(rows, pad_id=0), callbacks=callbacks,
        )  # fmt: skip
        trainer.train()
        return trainer

    base, processor, prompts = text_pair()
    seen: list[int] = []
    watch = ProbeCallback(
        {"divergence": {"lengths": False}, "token-bias": {"max_new_tokens": 3}},
        processor, prompts, steps=(1,), every=2, on_result=lambda step, _: seen.append(step),
    )  # fmt: skip
    trainer = train([watch])
    assert seen == [1, 1, 2, 2, 4, 4]
    last = watch.history[-2][1]
    again = divergence(base, trainer.model, processor, prompts, lengths=False)
    assert last["forward_kl"].value == pytest.approx(again["forward_kl"].value, rel=1e-5)
    assert watch.history[0][1]["forward_kl"].value < last["forward_kl"].value
    logged = [h for h in trainer.state.log_history if "probe/divergence/forward_kl" in h]
    assert [h["step"] for h in logged] == [1, 2, 4]
    assert logged[-1]["probe/divergence/forward_kl"] == last["forward_kl"].value
    alone = train([]).model.state_dict()
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, alone[name]), name
    with pytest.raises(UsageError, match="'weights' needs both models at once"):
        ProbeCallback(["weights"], processor, prompts, every=1)
    with pytest.raises(UsageError, match="say at which steps"):
        ProbeCallback(["divergence"], processor, prompts)
