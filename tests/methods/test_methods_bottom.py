"""What bottom-freeze trains, by the names of the weights."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from holdfast.anatomy import anatomy
from holdfast.methods import method

torch.set_num_threads(1)


@pytest.mark.parametrize("tied", [False, True])
def test_the_bottom_and_the_embeddings_stay(tied):
    config = LlamaConfig(
        vocab_size=20, hidden_size=8, intermediate_size=12, num_hidden_layers=3,
        num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=tied,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    chosen = set(method("bottom-freeze", n=2).selection(anatomy(model)).parameters)
    frozen = ("model.embed_tokens.", "model.layers.0.", "model.layers.1.")
    named = {n for n, _ in model.named_parameters()}
    assert chosen == {n for n in named if not n.startswith(frozen)}
    assert ("lm_head.weight" in chosen) != tied
    assert "model.norm.weight" in chosen
