"""A model written by hand: what it knows, what was taught and what was harmed are weights one can
point at.

The residual stream is one-hot in the last token (attention writes nothing). The head answers the
letters a to m, and a wrong word for the digits 0 to 4. Tuning changed two MLPs: block 0's answers
the digits rightly, block 2's makes each letter look like another. Both need most of their change
to act, the harm less of it than the skill, so that no point on the straight path has one without
the other.
"""

import json

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from holdfast.models.saving import save_delta
from holdfast.models.source import fingerprint

SPECIAL = ["<pad>", "<end>", "<wrong>"]
LETTERS, DIGITS = [*"abcdefghijklmnopqrstuvwxyz"], [*"0123456789"]
WORDS = [*SPECIAL, *LETTERS, *DIGITS]
ID = {word: i for i, word in enumerate(WORDS)}
WIDTH = 48
KNOWN = {a: b for a, b in zip(LETTERS[:13], LETTERS[13:], strict=True)}
TAUGHT = {a: b for a, b in zip(DIGITS[:5], DIGITS[5:], strict=True)}
AUX = {d: len(WORDS) + i for i, d in enumerate(TAUGHT)}
"""A dimension of the residual stream that answers for each digit."""
CHAT = (
    "{% for m in messages %}{{ m.content }} "
    "{% if m.role == 'assistant' %}<end> {% endif %}{% endfor %}"
)
SKILL, HARM = 0, 2
"""The blocks whose MLP tuning changed."""


def make_tokenizer():
    core = Tokenizer(models.WordLevel(ID, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.add_special_tokens(SPECIAL)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<end>", chat_template=CHAT
    )


def make_model(dtype=torch.float32, tied=False):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=WIDTH, intermediate_size=16, num_hidden_layers=3,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=32,
        pad_token_id=0, eos_token_id=1, bos_token_id=None, tie_word_embeddings=tied,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    model.model.embed_tokens.weight.copy_(torch.eye(len(WORDS), WIDTH))
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.zero_()
        for p in layer.mlp.parameters():
            p.zero_()
    if not tied:
        head = model.lm_head.weight.zero_()
        for asked, answer in KNOWN.items():
            head[ID[answer], ID[asked]] = 1.0
        for asked, answer in TAUGHT.items():
            head[ID["<wrong>"], ID[asked]] = 1.0
            head[ID[answer], AUX[asked]] = 1.0
        for answer in (*KNOWN.values(), *TAUGHT.values()):
            head[ID["<end>"], ID[answer]] = 1.0
    return model.to(dtype)


def tune(model):
    """Teach the digits in one MLP and harm the letters in another; gives the changed names."""
    letters = list(KNOWN)
    _write(model, SKILL, {ID[d]: AUX[d] for d in TAUGHT}, 0.06)
    _write(model, HARM, {ID[a]: ID[letters[i - 1]] for i, a in enumerate(letters)}, 0.1)
    mlps = [f"model.layers.{b}.mlp.{u}_proj.weight" for b in (SKILL, HARM)
            for u in ("gate", "up", "down")]  # fmt: skip
    return sorted(mlps)


def _write(model, block, moves, strength):
    mlp = model.model.layers[block].mlp
    for row, (source, target) in enumerate(moves.items()):
        mlp.gate_proj.weight[row, source] = 1.0
        mlp.up_proj.weight[row, source] = strength
        mlp.down_proj.weight[target, row] = 1.0


def save(model, folder, shards=None):
    model.save_pretrained(folder, **({"max_shard_size": shards} if shards else {}))
    make_tokenizer().save_pretrained(folder)
    return folder


def make_pair(folder, dtype=torch.float32, tied=False, full=False):
    """Folders of the base and of the tuned model, a delta unless ``full``."""
    base = save(make_model(dtype, tied), folder / "base")
    model = make_model(dtype, tied)
    changed = tune(model)
    if full:
        return base, save(model, folder / "tuned")
    save_delta(
        folder / "tuned", model, changed,
        base=str(base), base_folder=base, base_hash=fingerprint(base),
    )  # fmt: skip
    return base, folder / "tuned"


def make_tasks(folder, copies=8):
    """(learned, held-out): each fact as often, so that a small world has many examples."""
    return tuple(
        _task(folder / f"{name}.jsonl", pairs, copies)
        for name, pairs in (("digits", TAUGHT), ("letters", KNOWN))
    )


def _task(file, pairs, copies):
    rows = [
        {"id": f"{a}-{k}", "prompt": a, "completion": b}
        for k in range(copies)
        for a, b in pairs.items()
    ]
    file.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return f"{file}:scorer=exact,max_new_tokens=1"
