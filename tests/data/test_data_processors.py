"""Real processors and tiny random models: images in their places, batches equal to singles."""

from __future__ import annotations

import inspect

import pytest
import torch
from data_tokenizers import CHATML, byte_level, chatml, metaspace

from holdfast.data import Encoder, ImageRef, Record, collate, say
from holdfast.errors import DataError

torch.set_num_threads(1)

BLOCKS = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' }}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}{{ IMAGE }}{% else %}{{ c['text'] }}{% endif %}{% endfor %}"
    "{{ '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
IM = ["<|im_start|>", "<|im_end|>"]


def template(image: str) -> str:
    return BLOCKS.replace("IMAGE", repr(image))


def tokenizer_with(*specials: str, **named: str):
    tokenizer = byte_level([*IM, *specials, *named.values()], eos="<|im_end|>")
    for name, token in named.items():
        setattr(tokenizer, name, token)
        setattr(tokenizer, f"{name}_id", tokenizer.convert_tokens_to_ids(token))
    return tokenizer


def clip():
    from transformers import CLIPImageProcessorPil

    side = {"height": 28, "width": 28}
    return CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=side)


def llava():
    from transformers import LlavaProcessor

    return LlavaProcessor(
        clip(),
        tokenizer_with("<image>"),
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template("<image>\n"),
    )


def llava_next():
    from transformers import LlavaNextImageProcessorPil, LlavaNextProcessor

    side = {"height": 28, "width": 28}
    pins = [[28, 56], [56, 28], [56, 56]]
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": 28}, crop_size=side, image_grid_pinpoints=pins
    )
    return LlavaNextProcessor(
        images,
        tokenizer_with("<image>"),
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template("<image>\n"),
    )


def idefics3():
    from transformers import Idefics3ImageProcessorPil, Idefics3Processor

    rows = [f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)]
    tokens = tokenizer_with("<fake_token_around_image>", "<image>", "<global-img>", *rows)
    images = Idefics3ImageProcessorPil(
        size={"longest_edge": 56}, max_image_size={"longest_edge": 28}
    )
    return Idefics3Processor(images, tokens, image_seq_len=4, chat_template=template("<image>"))


def gemma3():
    from transformers import Gemma3ImageProcessorPil, Gemma3Processor

    tokens = tokenizer_with(image_token="<soft>", boi_token="<boi>", eoi_token="<eoi>")
    images = Gemma3ImageProcessorPil(size={"height": 28, "width": 28})
    return Gemma3Processor(images, tokens, image_seq_length=4, chat_template=template("<boi>"))


def paligemma():
    from transformers import PaliGemmaProcessor, SiglipImageProcessorPil

    images = SiglipImageProcessorPil(size={"height": 28, "width": 28})
    images.image_seq_length = 4
    return PaliGemmaProcessor(images, metaspace([], adds_bos=False))


FAMILIES = [llava, llava_next, idefics3, gemma3]


@pytest.fixture
def records(picture):
    wide, tall, square = (ImageRef(data=picture(*s)) for s in ((90, 30), (20, 50), (40, 40)))
    one = Record(
        (say("user", None, "What colour?"), say("assistant", "red")), images=(wide,), id="one"
    )
    two = Record(
        (
            say("system", "You are a helpful assistant."),
            say("user", None, "and", None, "?"),
            say("assistant", "blue or green"),
            say("user", "How about", None),
            say("assistant", "14"),
        ),
        images=(tall, square, wide),
        id="two",
    )
    none = Record((say("user", "How many?"), say("assistant", "2")), id="none")
    return one, two, none


def supervised(processor, encoded) -> list[str]:
    """The decoded runs of supervised tokens."""
    runs, last = [], None
    for i, label in enumerate(encoded["labels"].tolist()):
        if label != -100:
            if last != i - 1:
                runs.append([])
            runs[-1].append(label)
            last = i
    return [processor.tokenizer.decode(run) for run in runs]


@pytest.mark.parametrize("family", FAMILIES)
def test_mask_behind_expanded_images(family, records):
    processor = family()
    one, two, none = records
    encoder = Encoder(processor)
    assert supervised(processor, encoder(one)) == ["red<|im_end|>"]
    assert supervised(processor, encoder(two)) == ["blue or green<|im_end|>", "14<|im_end|>"]
    assert supervised(processor, encoder(none)) == ["2<|im_end|>"]


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_are_those_of_the_ecosystems_own_path(family, records):
    """Against apply_chat_template(tokenize=True), which renders and expands in one go."""
    from holdfast.data.images import load_image

    processor = family()
    for record in records:
        images = iter(load_image(image) for image in record.images)
        chat = [
            {
                "role": m.role,
                "content": [
                    {"type": "text", "text": p.text}
                    if p.kind == "text"
                    else {"type": "image", "image": next(images)}
                    for p in m.parts
                ],
            }
            for m in record.messages
        ]
        theirs = processor.apply_chat_template(
            chat, tokenize=True, return_dict=True, return_tensors="pt"
        )
        ours = Encoder(processor)(record)
        assert ours["input_ids"].tolist() == theirs["input_ids"][0].tolist()
        for key in set(theirs) - {"input_ids", "attention_mask", "token_type_ids"}:
            assert torch.equal(ours[key], theirs[key]), key
        asked = Encoder(processor).encode_prompt(record)
        length = len(asked["input_ids"])
        assert ours["input_ids"][:length].tolist() == asked["input_ids"].tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_image_tokens_are_never_supervised_or_cut(family, records):
    processor = family()
    two = records[1]
    whole = Encoder(processor).encode(two)
    everything = Encoder(processor, loss_on="all")(two)
    image = whole.features["input_ids"][everything["labels"] == -100]
    assert len(image) == whole.image_tokens > 0
    word = processor.tokenizer.convert_tokens_to_ids("red")
    assert word not in image.tolist()
    last = int((everything["labels"] == -100).nonzero().max())
    with pytest.raises(DataError, match=r"would cut an image.*raise it"):
        Encoder(processor, max_length=last, loss_on="all")(two)
    kept = Encoder(processor, max_length=last + 2, loss_on="all")(two)
    assert len(kept["input_ids"]) == last + 2
    for key in ("pixel_values", "image_sizes"):
        assert key not in kept or torch.equal(kept[key], whole.features[key])


def test_a_placeholder_in_the_text_is_refused(records):
    record = Record((say("user", "see <image>"), say("assistant", "no")), id="bad")
    with pytest.raises(DataError, match=r"'bad' has 0 image\(s\).*1 of the model's"):
        Encoder(llava())(record)


def test_images_for_a_text_model_are_refused(records):
    tokenizer = chatml()
    tokenizer.chat_template = CHATML
    with pytest.raises(DataError, match=r"1 image\(s\), but the model reads text only"):
        Encoder(tokenizer)(records[0])


def test_a_text_tokenizers_template_inside_a_processor(records):
    """A template that reads strings gets the image token in the string."""
    processor = llava()
    processor.chat_template = CHATML
    encoded = Encoder(processor)(records[0])
    text = processor.tokenizer.decode(encoded["input_ids"])
    assert text.startswith("<|im_start|>user\n" + "<image>" * 4 + "\nWhat colour?<|im_end|>")


def test_the_users_processor_is_not_changed(records):
    processor = llava()
    kind, tokenizer = type(processor.tokenizer), processor.tokenizer
    Encoder(processor)(records[0])
    assert processor.tokenizer is tokenizer
    assert type(processor.tokenizer) is kind


def test_paligemma_reads_prefix_and_suffix(records):
    processor = paligemma()
    one = records[0]
    encoded = Encoder(processor)(one)
    assert supervised(processor, encoded) == ["red</s>"]
    tokens = encoded["token_type_ids"].tolist()
    labels = encoded["labels"].tolist()
    assert [t == 1 for t in tokens] == [x != -100 for x in labels]
    prompt = Encoder(processor).encode_prompt(one)
    length = len(prompt["input_ids"])
    assert prompt["input_ids"].tolist() == encoded["input_ids"].tolist()[:length]
    with pytest.raises(DataError, match="Split the conversation"):
        Encoder(processor)(records[1])


def vision_config():
    from transformers import CLIPVisionConfig

    return CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
    )


def text_config(processor):
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=len(processor.tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
    )


def llava_model(processor):
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    image = processor.image_token_id
    return LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=vision_config(),
            text_config=text_config(processor),
            image_token_index=image,
        )
    )


def llava_next_model(processor):
    from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration

    pins = processor.image_processor.image_grid_pinpoints
    return LlavaNextForConditionalGeneration(
        LlavaNextConfig(
            vision_config=vision_config(),
            text_config=text_config(processor),
            image_token_index=processor.image_token_id,
            image_grid_pinpoints=pins,
        )
    )


def idefics3_model(processor):
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration

    text = text_config(processor)
    text.pad_token_id = 0
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 7,
    }
    return Idefics3ForConditionalGeneration(
        Idefics3Config(
            image_token_id=processor.image_token_id,
            vision_config=vision,
            text_config=text,
            scale_factor=2,
        )
    )


def text_model(processor):
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM(text_config(processor))


@pytest.mark.parametrize(
    ("family", "build"),
    [
        (llava, llava_model),
        (llava_next, llava_next_model),
        (idefics3, idefics3_model),
        (llava, text_model),
    ],
)
@pytest.mark.parametrize("side", ["right", "left"])
def test_a_batch_gives_the_logits_of_its_members(family, build, side, records):
    torch.manual_seed(0)
    processor = family()
    model = build(processor).eval()
    if build is text_model:
        processor = processor.tokenizer
        processor.chat_template = CHATML
        records = [
            Record((say("user", "a" * n), say("assistant", "b" * n)), id="x") for n in (3, 9)
        ]
    encoder = Encoder(processor)
    singles = [encoder(r) for r in records]
    batch = collate(singles, pad_id=encoder.pad_id, side=side, pad_to_multiple_of=8)
    assert batch["input_ids"].shape[1] % 8 == 0
    accepted = inspect.signature(model.forward).parameters
    with torch.no_grad():
        together = model(**{k: v for k, v in batch.items() if k in accepted})
        summed, count = 0.0, 0
        for row, single in enumerate(singles):
            alone = model(**{k: v for k, v in collate([single], pad_id=0).items() if k in accepted})
            here = batch["attention_mask"][row].bool()
            torch.testing.assert_close(
                together.logits[row][here], alone.logits[0], atol=1e-5, rtol=1e-4
            )
            n = int((single["labels"][1:] != -100).sum())
            summed, count = summed + float(alone.loss) * n, count + n
    assert float(together.loss) == pytest.approx(summed / count, abs=1e-5)


def test_collate_pads_every_feature():
    a = {
        "input_ids": torch.tensor([1, 2, 3]),
        "labels": torch.tensor([-100, 2, 3]),
        "attention_mask": torch.ones(3, dtype=torch.long),
        "pixel_values": torch.ones(1, 2, 4, 4),
    }
    b = {
        "input_ids": torch.tensor([4]),
        "labels": torch.tensor([4]),
        "attention_mask": torch.ones(1, dtype=torch.long),
        "pixel_values": torch.ones(2, 3, 4, 2),
        "token_type_ids": torch.ones(1, dtype=torch.long),
    }
    batch = collate([a, b], pad_id=9, side="left")
    assert batch["input_ids"].tolist() == [[1, 2, 3], [9, 9, 4]]
    assert batch["labels"].tolist() == [[-100, 2, 3], [-100, -100, 4]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert batch["token_type_ids"].tolist() == [[0, 0, 0], [0, 0, 1]]
    assert batch["pixel_values"].shape == (3, 3, 4, 4)
    assert batch["pixel_values"].sum() == 2 * 16 + 2 * 3 * 4 * 2
