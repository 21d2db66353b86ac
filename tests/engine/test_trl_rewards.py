"""TRL's reinforcement trainers under a plan, with our scorers as rewards."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from engine_tools import llama, values
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import holdfast
from holdfast.data import Encoder
from holdfast.data.records import Record, say
from holdfast.errors import UsageError
from holdfast.tasks import Example, Task
from holdfast.tasks.rewards import questions, reward, success_rates

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tokenizer():
    words = {f"w{i}": i for i in range(62)} | {"<pad>": 62, "<eos>": 63}
    core = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>")


def run(tmp_path, tokenizer, kind, plan, **changes):
    trl = pytest.importorskip("trl")
    model = llama(pad_token_id=62, eos_token_id=63)
    start = values(model)
    data = Dataset.from_list(
        [{"prompt": f"w{i} w{i + 1}", "references": [f"w{i + 2}"]} for i in range(8)]
    )
    arguments = getattr(trl, f"{kind}Config")(
        **{
            "output_dir": str(tmp_path), "max_steps": 2, "per_device_train_batch_size": 4,
            "num_generations": 4, "max_completion_length": 3, "use_cpu": True, "bf16": False,
            "learning_rate": 1e-2, "report_to": "none", "save_strategy": "no",
            "disable_tqdm": True, "logging_steps": 1, "seed": 3, **changes,
        }
    )  # fmt: skip

    def odd(completions, **columns):
        return [float(sum(map(ord, text)) % 3) for text in completions]

    trainer = holdfast.with_plan(getattr(trl, f"{kind}Trainer"), plan)(
        model=model, processing_class=tokenizer, train_dataset=data, args=arguments,
        reward_funcs=[reward("contains"), odd],
    )  # fmt: skip
    trainer.train()
    return start, values(model), [row for row in trainer.state.log_history if "loss" in row]


def test_grpo_trains_what_the_plan_says_and_its_terms_count(tmp_path, tokenizer):
    start, plain, logged = run(tmp_path, tokenizer, "GRPO", "sa-proj")
    for name, value in start.items():
        assert torch.equal(value, plain[name]) != ("self_attn" in name), name
    assert "rewards/contains/mean" in logged[0]
    _, held, logged = run(tmp_path, tokenizer, "GRPO", "sa-proj | l2-sp:weight=1000 | lwf")
    assert logged[0]["loss/distill"] == pytest.approx(0, abs=1e-5), "the teacher is itself"
    assert logged[1]["loss/distill"] > 1e-7
    assert logged[1]["loss/l2-sp"] > 1e-7
    far = [sum(float((v - start[n]).square().sum()) for n, v in w.items()) for w in (plain, held)]
    assert far[1] < far[0], "what pulls back to the start holds the weights closer to it"


@pytest.mark.parametrize("kind", ["GRPO", "RLOO"])
def test_a_term_counts_once_however_a_step_is_cut(tmp_path, tokenizer, kind):
    """A term so heavy that it is all of the gradient: norms for one and for two passes a step."""
    how = {"learning_rate": 1e-4, "beta": 0.0}
    norms = []
    for passes in (1, 2):
        _, _, logged = run(
            tmp_path, tokenizer, kind, "sa-proj | l2-sp:weight=1e8",
            gradient_accumulation_steps=passes, **how,
        )  # fmt: skip
        norms.append(logged[1]["grad_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=0.2)


def test_what_has_its_own_answers_is_refused(tmp_path, tokenizer):
    with pytest.raises(UsageError, match=r"'grpo'.*GRPOTrainer.* has its own"):
        run(tmp_path, tokenizer, "GRPO", "sa-proj | grpo")
    with pytest.raises(UsageError, match=r"'refresh'.*acts on the examples of a step"):
        run(tmp_path, tokenizer, "GRPO", "sa-proj | refresh")


def test_a_reward_is_the_scorer_of_a_task():
    prompt = Record((say("user", "2 + 2?"),))
    task = Task("sums", [Example("a", prompt, ("4", "four"))], scorer="integer")
    (row,) = questions(task)
    assert row == {
        "prompt": [{"role": "user", "content": "2 + 2?"}], "references": ["4", "four"],
    }  # fmt: skip
    score = reward(task)
    assert score.__name__ == "integer"
    said = [[{"role": "assistant", "content": "It is 4."}], "5", ""]
    assert score(prompts=[None] * 3, completions=said, references=[["4"]] * 3) == [1.0, 0.0, 0.0]
    assert reward("exact")(completions=["Red."], references=["red"]) == [1.0]
    with pytest.raises(UsageError, match="column 'references'; the data set has: answer"):
        score(completions=["4"], answer=["4"])
    with pytest.raises(UsageError, match="compares choices"):
        reward(Task("c", [], ask="choices"))


def test_success_rates_are_shares_of_sampled_answers(tokenizer):
    model = llama(pad_token_id=62, eos_token_id=63, initializer_range=0.3)
    prompts = [Record((say("user", f"w{i}"),)) for i in range(2)]
    encoder, wanted = Encoder(tokenizer), []
    for prompt in prompts:
        ids = encoder.encode_prompt(prompt)["input_ids"]
        with torch.no_grad():
            wanted.append(model(ids[None]).logits[0, -1, :62].softmax(-1).max(0))
    examples = [
        Example(f"{i}", prompt, (f"w{int(best.indices)}",))
        for i, (prompt, best) in enumerate(zip(prompts, wanted, strict=True))
    ]
    how = {"samples": 300, "max_new_tokens": 1}
    rates = success_rates(model, tokenizer, examples, **how)
    for rate, best in zip(rates, wanted, strict=True):
        p = float(best.values)
        assert abs(rate - p) < 4.5 * (p * (1 - p) / 300) ** 0.5 + 0.05
    assert rates == success_rates(model, tokenizer, examples, batch_size=64, **how)
