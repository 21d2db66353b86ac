"""What a prompt decides holds for its row: padded, with an answer behind it, and while writing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from holdfast.anatomy import anatomy
from holdfast.errors import UsageError
from holdfast.methods import plan
from holdfast.pieces.attending import Attending
from holdfast.pieces.bank import layers
from holdfast.pieces.chooser import Chooser, announce
from holdfast.tasks.generation import write_tokens
from holdfast.tasks.likelihood import score_continuations
from holdfast.testing import tiny_llama

torch.set_num_threads(1)
METHODS = ["sapt:rank=2,hidden=6", "l2m:rank=2,entries=9", "expert-gates:rank=2,steps=5"]
STOPS = {3, 7, 12, 23, 28}


def gpt2() -> Any:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=50, n_embd=16, n_layer=2, n_head=4, n_positions=64, bos_token_id=1,
        eos_token_id=2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, initializer_range=0.4,
    )  # fmt: skip
    return GPT2LMHeadModel(config).eval()


def prompts(lengths: list[int]) -> list[dict[str, torch.Tensor]]:
    g = torch.Generator().manual_seed(1)
    ids = [torch.randint(9, 50, (n,), generator=g) for n in lengths]
    return [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in ids]


def model_of(method: str, model: Any = None) -> tuple[Any, Chooser]:
    """A model after two stages of a method, whose updates all say something."""
    model = model or tiny_llama().model
    model.get_input_embeddings().weight.data.mul_(20)
    for stage in (0, 1):
        adapter: Any = plan([method]).adapt
        if hasattr(adapter, "calibrate"):
            given = prompts([5, 5, 5])
            ids = torch.stack([p["input_ids"] for p in given]) - 9 * stage
            adapter.calibrate([{"input_ids": ids}])
        model = adapter.attach(model, anatomy(model))
    torch.manual_seed(2)
    for _, layer in layers(model):
        for update in layer.updates:
            for up in update.ups:
                up.data.normal_(0, 0.5)
    (chooser,) = (m for m in model.modules() if isinstance(m, Chooser))
    if isinstance(chooser, Attending):
        for key in chooser.keys:
            key.data.mul_(5)  # prompts attend differently
    return adapter.detach(model, None).eval(), chooser


@pytest.mark.parametrize("method", METHODS)
def test_a_reply_is_the_same_alone_and_where_rows_leave_and_join(method: str) -> None:
    model, chooser = model_of(method)
    lengths = [3, 9, 5, 12, 4, 7, 6, 8, 10, 11, 5, 6]
    given = prompts(lengths)
    how: dict[str, Any] = {"max_new_tokens": 8, "stops": STOPS, "pad": 0}
    written = write_tokens(model, given.__getitem__, lengths, batch_size=4, **how)
    # a gate reads the model twice, so that generate writes its rows, and fills them up
    together = [
        reply[: next((k for k, t in enumerate(reply, 1) if t in STOPS), 8)] for reply in written
    ]
    assert len({len(reply) for reply in together}) > 1, "replies of one length test nothing"
    decided = []
    for row, reply in zip(given, together, strict=True):
        ids = row["input_ids"][None]
        for token in reply:  # without a cache, and told where the prompt ends
            announce(model, ids, torch.arange(ids.shape[1])[None] < len(row["input_ids"]))
            with torch.no_grad():
                logits = model(input_ids=ids, use_cache=False).logits[0, -1]
            assert int(logits.argmax()) == token
            ids = torch.cat([ids, torch.tensor([[token]])], 1)
        assert chooser.chosen is not None
        decided.append(chooser.chosen[0])
    assert len({tuple(d.reshape(-1).tolist()) for d in decided}) > 1, "all prompts chose alike"


@pytest.mark.parametrize("method", METHODS)
def test_continuations_are_scored_as_their_prompts_decide(method: str) -> None:
    """Several of each prompt, from its cache; the prompts begin alike, and end differently."""
    model, _ = model_of(method)
    head = torch.randint(9, 50, (20,), generator=torch.Generator().manual_seed(5))
    ids = [torch.cat([head, p["input_ids"]]) for p in prompts([4, 9, 6])]
    given = [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in ids]
    many = [[(11, 12, 13), (14,)], [(15, 16)], [(17, 18), (19, 20, 21), (22,)]]
    lengths = [len(p["input_ids"]) for p in given]
    found = score_continuations(model, given.__getitem__, lengths, many, pad_id=0, batch_size=3)
    for prompt, scored, continuations in zip(given, found, many, strict=True):
        for one, tokens in zip(scored, continuations, strict=True):
            row = torch.cat([prompt["input_ids"], torch.tensor(tokens)])[None]
            labels = row.masked_fill(torch.arange(row.shape[1]) < len(prompt["input_ids"]), -100)
            with torch.no_grad():
                log_p = model(input_ids=row, labels=labels).logits[0].log_softmax(-1)
            want = log_p[-len(tokens) - 1 : -1].gather(1, torch.tensor(tokens)[:, None]).sum()
            assert one.logprob == pytest.approx(float(want), abs=1e-4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("make", [None, gpt2], ids=["llama", "gpt2"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_and_answers_change_nothing(method: str, make: Any, side: str) -> None:
    model, chooser = model_of(method, make() if make else None)
    (row,) = prompts([5])
    with torch.no_grad():
        model(**{k: v[None] for k, v in row.items()})
        alone = chooser.chosen
        pad, answer = torch.zeros(3, dtype=torch.long), torch.tensor([30, 31])
        order = [pad, row["input_ids"], answer]
        masks = [pad, torch.ones(7, dtype=torch.long)]
        labels = [pad - 100, torch.full((5,), -100), answer]
        if side == "right":
            order, masks, labels = order[1:] + order[:1], masks[::-1], labels[1:] + labels[:1]
        mask = torch.cat(masks)[None]
        places = (mask.cumsum(1) - 1).clamp(min=0)
        ids, labels = torch.cat(order)[None], torch.cat(labels)[None]
        model(input_ids=ids, attention_mask=mask, labels=labels, position_ids=places)
    assert alone is not None
    assert chooser.chosen is not None
    torch.testing.assert_close(chooser.chosen, alone)


def test_a_cache_that_was_filled_elsewhere_is_refused() -> None:
    model, _ = model_of(METHODS[0])
    row = prompts([5])[0]["input_ids"][None]
    with torch.no_grad():
        cache = model.model(row, use_cache=True).past_key_values
        with pytest.raises(UsageError, match="did not fill"):
            model(row[:, :1], past_key_values=cache)
