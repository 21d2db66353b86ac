"""Models that need care: multimodal rotary positions, and PEFT's wrapper."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from task_models import asking
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from holdfast.data import Encoder
from holdfast.tasks import choice_logprobs, generate
from holdfast.tasks.generation import write
from holdfast.tasks.likelihood import score_continuations

IMAGE = 6


@pytest.fixture
def qwen(tokenizer: Any) -> Any:
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]},
        "bos_token_id": None,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }
    text["rope_parameters"] |= {"rope_theta": 10000.0}
    vision = {
        "depth": 1,
        "embed_dim": 32,
        "num_heads": 4,
        "hidden_size": 32,
        "patch_size": 4,
        "mlp_ratio": 2,
    }
    torch.manual_seed(0)
    config = Qwen2VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=IMAGE,
        vision_start_token_id=2,
        vision_end_token_id=3,
    )
    model = Qwen2VLForConditionalGeneration(config).float().eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.25)
    return model


def encoded(words: int, height: int, width: int) -> dict[str, torch.Tensor]:
    """What Qwen2-VL's processor gives for one picture of height x width patches."""
    ids = torch.tensor([20, 2, *[IMAGE] * (height * width // 4), 3, *range(30, 30 + words)])
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == IMAGE).long(),
        "pixel_values": torch.randn(height * width, 3 * 2 * 4 * 4),
        "image_grid_thw": torch.tensor([[1, height, width]]),
    }


def test_multimodal_positions_are_the_models_own(qwen: Any, tokenizer: Any) -> None:
    prompts = [encoded(4, 4, 4), encoded(9, 4, 8)]
    lengths = [len(p["input_ids"]) for p in prompts]
    tails = [(40,), (41, 42, 43), (50, 51)]
    rows = score_continuations(
        qwen, lambda i: prompts[i], lengths, [tails, tails], pad_id=0, batch_size=2
    )
    for prompt, row in zip(prompts, rows, strict=True):
        for tail, found in zip(tails, row, strict=True):
            whole = dict(prompt)
            ids = torch.cat([prompt["input_ids"], torch.tensor(tail)])[None]
            whole |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            whole["mm_token_type_ids"] = (ids == IMAGE).long()
            with torch.no_grad():
                logp = qwen(**whole).logits[0].log_softmax(-1)[-len(tail) - 1 : -1]
            expected = float(logp.gather(1, torch.tensor(tail)[:, None]).sum())
            assert found.logprob == pytest.approx(expected, abs=3e-5)
    encoder = Encoder(tokenizer)
    single = [
        write(qwen, encoder, lambda _, k=k: prompts[k], [lengths[k]], max_new_tokens=6)[0]
        for k in range(2)
    ]
    both = write(qwen, encoder, lambda i: prompts[i], lengths, max_new_tokens=6, batch_size=2)
    assert both == single


def test_a_fresh_lora_answers_as_its_base(llama: Any, tokenizer: Any) -> None:
    peft = pytest.importorskip("peft")
    prompts = [asking(t, str(i)) for i, t in enumerate(["what is this", "no", "is it red " * 4])]
    choices = [["red", "blue bird"]] * 3
    replies = generate(llama, tokenizer, prompts, max_new_tokens=6)
    values = choice_logprobs(llama, tokenizer, prompts, choices)
    own = llama.generation_config
    wrapped = peft.get_peft_model(
        llama, peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    )
    assert generate(wrapped, tokenizer, prompts, max_new_tokens=6) == replies
    got = choice_logprobs(wrapped, tokenizer, prompts, choices)
    assert torch.allclose(torch.tensor(got), torch.tensor(values), atol=1e-5)
    assert llama.generation_config is own
