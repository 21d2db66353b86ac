"""Loss masks on real-life chat templates, against strings marked by hand.

In the expected texts the supervised characters stand between « and ».
"""

from __future__ import annotations

import pytest
from data_tokenizers import (
    CHATML,
    GEMMA,
    LLAMA3,
    MISTRAL_SPACED,
    MISTRAL_SYSTEM_LAST,
    MISTRAL_TIGHT,
    NO_PROMPT,
    OPENED_THINKING,
    PHI3,
    THINKING,
    VICUNA,
    ZEPHYR,
    byte_level,
    chatml,
    gemma,
    llama3,
    metaspace,
    phi3,
    supervised_text,
)

from holdfast.data import Encoder, Message, Part, Record, say
from holdfast.errors import DataError, UsageError

CHAT = Record(
    (
        say("user", "What colour?"),
        say("assistant", " blue.\n"),
        say("user", "How many?"),
        say("assistant", "14"),
    ),
    id="chat",
)
SYSTEM = Record((say("system", "Be brief."), say("user", "Why?"), say("assistant", "No.")), id="s")
THOUGHT = Record(
    (
        say("user", "What?"),
        say("assistant", "<think>\nstep one\n</think>\n\nblue"),
        say("user", "And?"),
        say("assistant", "<think>\nstep two\n</think>\n\nred"),
    ),
    id="t",
)

TABLE = [
    (
        "chatml",
        chatml,
        CHATML,
        CHAT,
        "<|im_start|>user\nWhat colour?<|im_end|>\n<|im_start|>assistant\n« blue.\n<|im_end|>»\n"
        "<|im_start|>user\nHow many?<|im_end|>\n<|im_start|>assistant\n«14<|im_end|>»\n",
    ),
    (
        "chatml-system",
        chatml,
        CHATML,
        SYSTEM,
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n"
        "<|im_start|>assistant\n«No.<|im_end|>»\n",
    ),
    (
        "llama3",
        llama3,
        LLAMA3,
        CHAT,
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nWhat colour?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n«blue.<|eot_id|>»"
        "<|start_header_id|>user<|end_header_id|>\n\nHow many?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n«14<|eot_id|>»",
    ),
    (
        "gemma",
        gemma,
        GEMMA,
        CHAT,
        "<bos><start_of_turn>user\nWhat colour?<end_of_turn>\n<start_of_turn>model\n"
        "«blue.<end_of_turn>»\n<start_of_turn>user\nHow many?<end_of_turn>\n"
        "<start_of_turn>model\n«14<end_of_turn>»\n",
    ),
    (
        "gemma-system",
        gemma,
        GEMMA,
        SYSTEM,
        "<bos><start_of_turn>user\nBe brief.\n\nWhy?<end_of_turn>\n<start_of_turn>model\n"
        "«No.<end_of_turn>»\n",
    ),
    (
        "mistral-spaced",
        lambda: metaspace(["[INST]", "[/INST]"]),
        MISTRAL_SPACED,
        CHAT,
        "<s>[INST] What colour? [/INST]«  blue.\n</s>»[INST] How many? [/INST]« 14</s>»",
    ),
    (
        "mistral-tight",
        lambda: metaspace(["[INST]", "[/INST]"]),
        MISTRAL_TIGHT,
        CHAT,
        "<s>[INST]What colour?[/INST]« blue.\n</s>»[INST]How many?[/INST]«14</s>»",
    ),
    (
        "mistral-plain-markers",  # [INST] is ordinary text, and byte level
        lambda: byte_level([], bos="<s>", eos="</s>", adds_bos=True),
        MISTRAL_SPACED,
        CHAT,
        "<s>[INST] What colour? [/INST]«  blue.\n</s>»[INST] How many? [/INST]« 14</s>»",
    ),
    (
        "zephyr",
        lambda: metaspace([]),
        ZEPHYR,
        CHAT,
        "<|user|>\nWhat colour?</s>\n<|assistant|>«\n blue.\n</s>»\n"
        "<|user|>\nHow many?</s>\n<|assistant|>«\n14</s>»\n",
    ),
    (
        "phi3",
        phi3,
        PHI3,
        CHAT,
        "<|user|>\nWhat colour?<|end|>\n<|assistant|>\n« blue.\n<|end|>»\n"
        "<|user|>\nHow many?<|end|>\n<|assistant|>\n«14<|end|>»\n<|endoftext|>",
    ),
    (
        "thinking",
        chatml,
        THINKING,
        THOUGHT,
        "<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\n«blue<|im_end|>»\n"
        "<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\n"
        "«<think>\nstep two\n</think>\n\nred<|im_end|>»\n",
    ),
    (
        "thinking-without-thoughts",
        chatml,
        THINKING,
        SYSTEM,
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n"
        "<|im_start|>assistant\n«<think>\n\n</think>\n\nNo.<|im_end|>»\n",
    ),
    (
        "thinking-opened-by-the-prompt",
        chatml,
        OPENED_THINKING,
        THOUGHT,
        "<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\n<think>\n"
        "«step one\n</think>\n\nblue<|im_end|>»\n<|im_start|>user\nAnd?<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n«step two\n</think>\n\nred<|im_end|>»\n",
    ),
    (
        "thinking-opened-but-not-thought",
        chatml,
        OPENED_THINKING,
        SYSTEM,
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n"
        "<|im_start|>assistant\n«No.<|im_end|>»\n",
    ),
    (
        "vicuna",
        lambda: metaspace([]),
        VICUNA,
        CHAT,
        "USER: What colour? ASSISTANT:«  blue.\n» USER: How many? ASSISTANT:« 14</s>»",
    ),
    (
        "mistral-system-in-the-last-question",  # so that turns before are rendered otherwise
        lambda: metaspace(["[INST]", "[/INST]"]),
        MISTRAL_SYSTEM_LAST,
        Record((SYSTEM.messages[0], *CHAT.messages), id="m"),
        "<s>[INST] What colour? [/INST]«  blue.\n</s>»"
        "[INST] Be brief.\n\nHow many? [/INST]« 14</s>»",
    ),
    (
        "template-without-generation-prompt",
        chatml,
        NO_PROMPT,
        SYSTEM,
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n"
        "<|im_start|>assistant\n«No.<|im_end|>»\n",
    ),
]


every_template = pytest.mark.parametrize(
    ("make", "template", "record", "expected"), [r[1:] for r in TABLE], ids=[r[0] for r in TABLE]
)


@pytest.mark.parametrize(
    ("make", "template", "record", "expected"),
    [row[1:] for row in TABLE],
    ids=[r[0] for r in TABLE],
)
def test_mask_is_the_answer_and_its_end_of_turn_token(make, template, record, expected):
    tokenizer = make()
    tokenizer.chat_template = template
    assert supervised_text(tokenizer, Encoder(tokenizer)(record)) == expected


@pytest.mark.parametrize(
    ("make", "template", "record", "expected"),
    [row[1:] for row in TABLE],
    ids=[r[0] for r in TABLE],
)
def test_prompt_is_what_stands_before_the_last_answer(make, template, record, expected):
    """The tokens asked with are a prefix of the tokens trained on, up to the first label."""
    tokenizer = make()
    tokenizer.chat_template = template
    encoder = Encoder(tokenizer, turns="last")
    prompt = encoder.encode_prompt(record)["input_ids"].tolist()
    whole = encoder(record)
    first = (whole["labels"] != -100).nonzero()[0].item()
    opened = template is OPENED_THINKING and record is SYSTEM
    if not opened:  # there the prompt opens reasoning that the record does not have
        assert whole["input_ids"].tolist()[:first] == prompt
    assert "labels" not in encoder.encode_prompt(record)


def test_only_the_last_turn():
    tokenizer = chatml()
    tokenizer.chat_template = CHATML
    text = supervised_text(tokenizer, Encoder(tokenizer, turns="last")(CHAT))
    assert text.count("«") == 1
    assert "«14<|im_end|>»" in text


def test_turns_that_are_not_to_be_trained_on():
    tokenizer = chatml()
    tokenizer.chat_template = CHATML
    messages = list(CHAT.messages)
    messages[3] = Message("assistant", messages[3].parts, train=False)
    text = supervised_text(tokenizer, Encoder(tokenizer)(Record(tuple(messages), id="x")))
    assert text.count("«") == 1
    assert "« blue.\n<|im_end|>»" in text


def test_neighbouring_user_turns_are_joined_where_the_template_wants_alternation():
    tokenizer = gemma()
    tokenizer.chat_template = GEMMA
    record = Record((say("user", "One."), say("user", "Two."), say("assistant", "3")), id="j")
    text = supervised_text(tokenizer, Encoder(tokenizer)(record))
    assert "user\nOne.\n\nTwo.<end_of_turn>" in text
    assert "«3<end_of_turn>»" in text


def test_system_turn_is_kept_where_the_template_ignores_it():
    tokenizer = metaspace(["[INST]", "[/INST]"])
    tokenizer.chat_template = MISTRAL_SPACED.replace(
        "{% else %}{{ raise_exception('Only user and assistant') }}", ""
    )
    text = supervised_text(tokenizer, Encoder(tokenizer)(SYSTEM))
    assert text == "<s>[INST] Be brief.\n\nWhy? [/INST]« No.</s>»"


def test_no_double_bos_and_no_foreign_eos():
    """The template wrote the BOS; the tokenizer would add a second one, and an EOS."""
    from tokenizers import processors

    tokenizer = llama3()
    inner = tokenizer.backend_tokenizer
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    inner.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A <|eot_id|>",
        special_tokens=[("<|begin_of_text|>", bos), ("<|eot_id|>", eos)],
    )
    tokenizer.chat_template = LLAMA3
    ids = Encoder(tokenizer)(SYSTEM)["input_ids"].tolist()
    assert ids.count(bos) == 1
    assert ids.count(eos) == 3  # one a turn
    tokenizer.chat_template = None
    base = Encoder(tokenizer)
    plain = Record((say("user", "What?"), say("assistant", " blue")), id="p")
    assert base(plain)["input_ids"].tolist().count(eos) == 1
    assert eos not in base.encode_prompt(plain)["input_ids"].tolist()


@pytest.mark.parametrize("make", [llama3, lambda: metaspace([]), phi3])
def test_base_model_reads_prompt_completion_and_end_of_sequence(make):
    tokenizer = make()
    record = Record((say("user", "What colour? The answer is"), say("assistant", " blue")), id="b")
    encoded = Encoder(tokenizer)(record)
    bos = tokenizer.bos_token or ""
    expected = f"{bos}What colour? The answer is« blue{tokenizer.eos_token}»"
    # SentencePiece-like tokenizers put a space in front of the text and show it here.
    assert supervised_text(tokenizer, encoded).replace("<s> ", "<s>") == expected
    joined = tokenizer("What colour? The answer is blue" + tokenizer.eos_token)["input_ids"]
    assert encoded["input_ids"].tolist() == joined


def test_a_token_across_the_seam_is_supervised():
    """'Answer: ' + 'yes' becomes one token ' yes' in SentencePiece-like tokenizers."""
    tokenizer = metaspace([])
    record = Record((say("user", "The answer is "), say("assistant", "red")), id="b")
    encoded = Encoder(tokenizer)(record)
    supervised = encoded["input_ids"][encoded["labels"] != -100]
    assert tokenizer.decode(supervised).strip().startswith("red")


def test_plain_text_is_supervised_whole():
    tokenizer = chatml()
    record = Record((Message("assistant", (Part("text", "The bird is red."),)),), id="x", raw=True)
    encoded = Encoder(tokenizer)(record)
    assert supervised_text(tokenizer, encoded) == "«The bird is red.<|im_end|>»"
    with pytest.raises(DataError, match="plain text"):
        Encoder(tokenizer).encode_prompt(record)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for m in messages %}{{ m['content'] | upper + '\\n' }}{% endfor %}", "neither"),
        (CHATML.replace("m['content'] +", "m['content'] | reverse +"), "neither"),
    ],
)
def test_a_template_that_shows_no_content_is_refused(template, reason):
    tokenizer = chatml()
    tokenizer.chat_template = template
    with pytest.raises(UsageError, match=reason):
        Encoder(tokenizer)


@pytest.mark.parametrize(
    "answer",
    [
        "m['content'] | upper",  # the mark cannot be found again
        "m['content'] | length",
        "m['content'] + m['content']",  # shown twice
        "m['content'] | replace('Mark', 'x')",
    ],
)
def test_a_template_that_rewrites_answers_is_refused_and_not_guessed(answer):
    tokenizer = chatml()
    tokenizer.chat_template = CHATML.replace(
        "m['content']", f"(m['content'] if m['role'] != 'assistant' else {answer} | string)"
    )
    with pytest.raises(DataError, match="chat template") as error:
        Encoder(tokenizer)(CHAT)
    assert "'chat'" in str(error.value)


def test_the_end_of_turn_token_is_learned_once():
    """Data that was rendered before often has it in the answer already."""
    tokenizer = chatml()
    tokenizer.chat_template = CHATML
    record = Record((say("user", "Why?"), say("assistant", "No.<|im_end|>")), id="twice")
    with pytest.raises(DataError, match=r"'twice'.*contains '<\|im_end\|>'.*learned twice"):
        Encoder(tokenizer)(record)
    tokenizer.chat_template = None
    assert supervised_text(tokenizer, Encoder(tokenizer)(record)) == "Why?«No.<|im_end|>»"
