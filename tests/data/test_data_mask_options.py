"""What else an encoder can supervise, and where it cuts."""

from __future__ import annotations

import pytest
from data_tokenizers import CHATML, LLAMA3, chatml, llama3, metaspace, supervised_text

from holdfast.data import Encoder, Record, say
from holdfast.errors import DataError, UsageError

SYSTEM = Record((say("system", "Be brief."), say("user", "Why?"), say("assistant", "No.")), id="s")


def test_compat_mask_is_llava_nexts():
    """Per message as its training code does: assistant segments whole, and structure anywhere."""
    tokenizer = chatml()
    tokenizer.chat_template = CHATML
    encoded = Encoder(tokenizer, loss_on="llava_next_compat")(SYSTEM)
    structure = set(tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"]))
    structure.add(tokenizer.encode("\n")[0])
    ids, labels = [], []
    for message in SYSTEM.messages:
        chat = [{"role": message.role, "content": message.text}]
        piece = tokenizer.apply_chat_template(chat, tokenize=True, return_dict=True)["input_ids"]
        ids += piece
        trained = message.role == "assistant"
        labels += [t if trained or t in structure else -100 for t in piece]
    assert encoded["input_ids"].tolist() == ids
    assert encoded["labels"].tolist() == labels


def test_compat_mask_on_llama3():
    tokenizer = llama3()
    tokenizer.chat_template = LLAMA3
    text = supervised_text(tokenizer, Encoder(tokenizer, loss_on="llava_next_compat")(SYSTEM))
    assert text.startswith("«<|begin_of_text|><|start_header_id|>»system«<|end_header_id|>")
    assert text.endswith("<|start_header_id|>assistant<|end_header_id|>\n\nNo.<|eot_id|>»")
    with pytest.raises(UsageError, match="loss_on='answer'"):
        Encoder(metaspace([]), loss_on="llava_next_compat")


def test_all_supervises_every_token_but_an_added_bos():
    tokenizer = chatml()
    tokenizer.chat_template = CHATML
    encoded = Encoder(tokenizer, loss_on="all")(SYSTEM)
    assert encoded["labels"].tolist() == encoded["input_ids"].tolist()


def test_truncation_cuts_the_end_and_refuses_a_lost_answer():
    tokenizer = chatml()
    tokenizer.chat_template = CHATML
    whole = Encoder(tokenizer)(SYSTEM)["input_ids"]
    kept = Encoder(tokenizer, max_length=len(whole) - 2)(SYSTEM)
    assert kept["input_ids"].tolist() == whole.tolist()[:-2]
    assert {len(v) for v in kept.values()} == {len(whole) - 2}
    with pytest.raises(DataError, match=f"max_length=5.*{len(whole)} tokens"):
        Encoder(tokenizer, max_length=5)(SYSTEM)


def test_options_are_checked():
    with pytest.raises(UsageError, match="answer, llava_next_compat, all"):
        Encoder(chatml(), loss_on="answers")
    with pytest.raises(UsageError, match="max_length"):
        Encoder(chatml(), max_length=1)
