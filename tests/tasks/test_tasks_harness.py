"""lm-eval's tasks through our model class, against lm-eval's own."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from task_models import make_llama, make_tokenizer

from holdfast.errors import UnknownName, UsageError
from holdfast.tasks import evaluate, load_task

pytest.importorskip("lm_eval")

CHOICE = """
task: tiny_choice
dataset_path: json
dataset_kwargs:
  data_files: {data}
test_split: train
output_type: multiple_choice
doc_to_text: "{{{{question}}}} Answer:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{label}}}}"
metric_list:
  - metric: acc
  - metric: acc_norm
"""
WRITE = """
task: tiny_write
dataset_path: json
dataset_kwargs:
  data_files: {data}
test_split: train
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{choices[label]}}}}"
generation_kwargs:
  until: [" "]
  max_gen_toks: 12
metric_list:
  - metric: exact_match
"""
ROLL = """
task: tiny_roll
dataset_path: json
dataset_kwargs:
  data_files: {data}
test_split: train
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{question}}}}"
metric_list:
  - metric: word_perplexity
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("yaml")
    data = root / "data.jsonl"
    questions = ["what is this bird", "A B C D", "the colour of this ", "no", "is it red " * 9]
    choices = [["red", "blue green", "seven"], ["A", "B", "C"], ["yes no", "no", "yes"]]
    rows = [
        {"question": q, "choices": choices[i % 3], "label": i % 3} for i, q in enumerate(questions)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in (("choice", CHOICE), ("write", WRITE), ("roll", ROLL)):
        (root / f"{name}.yaml").write_text(text.format(data=data))
    return root


@pytest.fixture(scope="module")
def pair() -> tuple[Any, Any]:
    tokenizer = make_tokenizer(chat=False)
    return make_llama(len(tokenizer), max_position_embeddings=64).eval(), tokenizer


@pytest.fixture(scope="module")
def official(pair: tuple[Any, Any], folder: Path) -> dict[str, Any]:
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    model, tokenizer = pair
    found = simple_evaluate(
        HFLM(pretrained=model, tokenizer=tokenizer, batch_size=2, device="cpu"),
        tasks=["tiny_choice", "tiny_write", "tiny_roll"],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
    )
    assert found is not None
    return found


def ours(pair: tuple[Any, Any], folder: Path, name: str) -> Any:
    task, _, options = name.partition(":")
    full = f"lm_eval:{task}@{folder}" + (f":{options}" if options else "")
    (result,) = evaluate(*pair, load_task(full), batch_size=3)
    return result


def test_choices_get_the_likelihoods_of_lm_evals_own_model(
    pair: tuple[Any, Any], folder: Path, official: dict[str, Any]
) -> None:
    result = ours(pair, folder, "tiny_choice")
    samples = official["samples"]["tiny_choice"]
    assert [a.id for a in result.answers] == [str(s["doc_id"]) for s in samples]
    for answer, sample in zip(result.answers, samples, strict=True):
        theirs = [r[0] for r in sample["filtered_resps"]]
        assert answer.logprobs == pytest.approx(theirs, abs=1e-4)
        assert answer.score == sample["acc"]
        assert answer.references == (sample["doc"]["choices"][sample["doc"]["label"]],)
    report = official["results"]["tiny_choice"]
    for key in ("acc,none", "acc_stderr,none", "acc_norm,none"):
        assert result.meta["metrics"][key] == pytest.approx(report[key])
    assert result.score == pytest.approx(100 * report["acc,none"])


def test_replies_and_text_likelihoods_are_those_of_lm_evals_own_model(
    pair: tuple[Any, Any], folder: Path, official: dict[str, Any]
) -> None:
    written = ours(pair, folder, "tiny_write")
    theirs = [s["filtered_resps"][0] for s in official["samples"]["tiny_write"]]
    assert [a.reply for a in written.answers] == theirs
    assert any(theirs)
    rolled = ours(pair, folder, "tiny_roll")
    expected = official["results"]["tiny_roll"]["word_perplexity,none"]
    assert rolled.meta["metrics"]["word_perplexity,none"] == pytest.approx(expected, rel=1e-4)
    assert math.isnan(rolled.score)


def test_random_states_and_the_model_are_left_alone(pair: tuple[Any, Any], folder: Path) -> None:
    pair[0].train()
    torch.manual_seed(3)
    random.seed(3)
    expected = (torch.rand(2), random.random())
    torch.manual_seed(3)
    random.seed(3)
    ours(pair, folder, "tiny_choice:metric=acc_norm")
    assert torch.equal(torch.rand(2), expected[0])
    assert random.random() == expected[1]
    assert pair[0].training
    pair[0].eval()


def test_unknown_names_are_refused(pair: tuple[Any, Any], folder: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean 'tiny_choice'"):
        load_task(f"lm_eval:tiny_choise@{folder}")
    with pytest.raises(UsageError, match="not a folder"):
        load_task("lm_eval:tiny_choice@/nowhere")
    with pytest.raises(UsageError, match="has no metric 'f1'; it has acc"):
        ours(pair, folder, "tiny_choice:metric=f1")
