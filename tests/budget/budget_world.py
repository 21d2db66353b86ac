"""A model written by hand that knows letters and is to learn digits.

The residual stream is one-hot in the last token, so the head's columns are what is known: to teach
the digits moves nothing that the letters need, and to teach the letters something else unlearns
them.
"""

import json

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from holdfast.benchmarks.grid import Failure
from holdfast.engine.tune import tune
from holdfast.errors import HoldfastError

KNOWN = dict(zip("abcdef", "uvwxyz", strict=True))
TAUGHT = dict(zip("012", "789", strict=True))
TURNED = dict(zip("abcdef", "vwxyzu", strict=True))
"""Other answers to what is known: they cannot be learned without a loss."""
SPECIAL = ["<pad>", "<end>", "<wrong>"]
WORDS = [*SPECIAL, *KNOWN, *KNOWN.values(), *TAUGHT, *TAUGHT.values()]
ID = {word: i for i, word in enumerate(WORDS)}
WIDTH = 32
CHAT = (
    "{% for m in messages %}{{ m.content }} "
    "{% if m.role == 'assistant' %}<end> {% endif %}{% endfor %}"
)
HEAD = "train:select=language.head"


def make_model(folder):
    core = Tokenizer(models.WordLevel(ID, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.add_special_tokens(SPECIAL)
    PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<end>", chat_template=CHAT
    ).save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=WIDTH, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=32,
        pad_token_id=0, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    model.model.embed_tokens.weight.copy_(torch.eye(len(WORDS), WIDTH))
    model.model.layers[0].self_attn.o_proj.weight.zero_()
    model.model.layers[0].mlp.down_proj.weight.zero_()
    head = model.lm_head.weight.zero_()
    for asked, answer in KNOWN.items():
        head[ID[answer], ID[asked]] = 0.5
    for asked in TAUGHT:
        head[ID["<wrong>"], ID[asked]] = 0.2
    for answer in (*KNOWN.values(), *TAUGHT.values()):
        head[ID["<end>"], ID[answer]] = 0.5
    model.save_pretrained(folder)
    return str(folder)


def make_task(file, pairs, n):
    asked = list(pairs.items())
    rows = [
        {"id": str(i), "prompt": asked[i % len(asked)][0], "completion": asked[i % len(asked)][1]}
        for i in range(n)
    ]
    file.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return str(file)


def make_world(folder):
    """The model, and files of what is known, taught and turned."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {"known": (KNOWN, 360), "taught": (TAUGHT, 60), "turned": (TURNED, 60)}
    return make_model(folder / "tiny"), {
        name: make_task(folder / f"{name}.jsonl", pairs, n) for name, (pairs, n) in files.items()
    }


def in_this_process(members, *, known, workers, on, progress):
    """``run_grid`` without processes."""
    failures = []
    for member in members:
        try:
            tune(member.config, known=known)
        except HoldfastError as error:
            failures.append(Failure(member, str(error)))
    return failures
