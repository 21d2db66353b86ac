"""Tokenizers trained on the spot, and chat templates as real models have them."""

from __future__ import annotations

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] "
    "+ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + "
    "'<|end_header_id|>\\n\\n' + m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}{% for m in messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<start_of_turn>' + role + '\\n' + m['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
MISTRAL_SPACED = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ '[INST] ' + m['content'] + ' [/INST]' }}{% elif m['role'] == 'assistant' %}"
    "{{ ' ' + m['content'] + eos_token }}{% else %}{{ raise_exception('Only user and assistant') }}"
    "{% endif %}{% endfor %}"
)
MISTRAL_TIGHT = MISTRAL_SPACED.replace("'[INST] '", "'[INST]'").replace("' [/INST]'", "'[/INST]'")
MISTRAL_TIGHT = MISTRAL_TIGHT.replace("{{ ' ' + m['content']", "{{ m['content']")
MISTRAL_SYSTEM_LAST = (
    "{{ bos_token }}{% set ns = namespace(s='', last=-1) %}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{% set ns.s = m['content'] + '\\n\\n' %}{% endif %}"
    "{% if m['role'] == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ '[INST] ' + (ns.s if loop.index0 == ns.last else '') + m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m['content'] + eos_token + '\\n' }}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}{% endfor %}"
)
PHI3 = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m['content'] + '<|end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"
)
THINKING = (  # as Qwen 3: reasoning of turns before the last question is dropped
    "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}{% for m in messages %}"
    "{% if m['role'] == 'assistant' %}{% set c = m['content'] %}{% set r = '' %}"
    "{% if '</think>' in c %}{% set r = c.split('</think>')[0].rstrip('\\n').split('<think>')[-1]"
    ".lstrip('\\n') %}{% set c = c.split('</think>')[-1].lstrip('\\n') %}{% endif %}"
    "{% if loop.index0 > ns.last %}{{ '<|im_start|>assistant\\n<think>\\n' + r.strip('\\n') + "
    "'\\n</think>\\n\\n' + c.lstrip('\\n') }}{% else %}"
    "{{ '<|im_start|>assistant\\n' + c }}{% endif %}"
    "{{ '<|im_end|>\\n' }}{% else %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + "
    "'<|im_end|>\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
OPENED_THINKING = CHATML.replace(  # as QwQ: the prompt opens the reasoning
    "'<|im_start|>assistant\\n' }}", "'<|im_start|>assistant\\n<think>\\n' }}"
)
VICUNA = (  # as LLaVA 1.5: no end-of-turn token at all, and a space behind each answer
    "{% for m in messages %}{{ m['role'] | upper + ': ' + m['content'] + ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
NO_PROMPT = CHATML[: CHATML.index("{% if add_gen")]  # ignores add_generation_prompt

IM = ["<|im_start|>", "<|im_end|>", "<think>", "</think>"]
HEADERS = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
TURNS = ["<start_of_turn>", "<end_of_turn>"]


def chatml():
    return byte_level(IM, eos="<|im_end|>")


def llama3():
    return byte_level(HEADERS, bos="<|begin_of_text|>", eos="<|eot_id|>", adds_bos=True)


def gemma():
    return byte_level(TURNS, bos="<bos>", eos="<eos>", adds_bos=True)


def phi3():
    return byte_level(["<|user|>", "<|assistant|>", "<|end|>"], eos="<|endoftext|>")


CORPUS = [
    "user assistant system model What colour is the bird? The answer is red, blue or green.",
    "How many apples are in this image? There are fourteen apples. Yes, no, maybe; 12:30 A B C",
    "You are a helpful assistant. INST USER: ASSISTANT: thinking about it step by step\n\n done.",
]


def byte_level(specials: list[str], *, bos: str | None = None, eos: str, adds_bos: bool = False):
    """A byte-level BPE tokenizer, as GPT-2, Llama 3 and Qwen have."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    # Words as Llama 3 and Qwen cut them: line breaks stay together, digits in threes.
    words = (
        r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    names = list(dict.fromkeys([*([bos] if bos else []), eos, *specials]))
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=names,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=bos, eos_token=eos, pad_token=eos
    )


def metaspace(specials: list[str], *, adds_bos: bool = True):
    """A tokenizer in the manner of SentencePiece, as Llama 2 and Mistral have."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=["<unk>", "<s>", "</s>", *specials, *bytes_],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="</s>",
    )


def supervised_text(tokenizer, encoded) -> str:
    """The decoded sequence with its supervised runs between « and »."""
    out, inside = [], False
    ids, labels = encoded["input_ids"].tolist(), encoded["labels"].tolist()
    cut = [0] + [i for i in range(1, len(ids)) if (labels[i] == -100) != (labels[i - 1] == -100)]
    for start, stop in zip(cut, [*cut[1:], len(ids)], strict=True):
        inside = labels[start] != -100
        text = tokenizer.decode(ids[start:stop], clean_up_tokenization_spaces=False)
        # Decoding a run on its own drops a leading space of SentencePiece-like tokenizers.
        before = tokenizer.decode(ids[:start], clean_up_tokenization_spaces=False)
        text = tokenizer.decode(ids[:stop], clean_up_tokenization_spaces=False)[len(before) :]
        out.append(f"«{text}»" if inside else text)
        assert all(x in (-100, y) for x, y in zip(labels, ids, strict=True))
    return "".join(out)
