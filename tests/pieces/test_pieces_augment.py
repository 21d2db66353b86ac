"""Changed views of examples."""

import io

import pytest
import torch
from PIL import Image

from holdfast.data.records import ImageRef
from holdfast.engine.feeding import Sources, schedule
from holdfast.methods import view_batch
from holdfast.pieces.augment import COLOUR, SHAPE, Shown
from holdfast.plan import NEW, VIEWS, view


def row(length, prompt):
    ids = torch.arange(10, 10 + length)
    labels = ids.clone()
    labels[:prompt] = -100
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def test_a_view_changes_the_prompt_and_never_the_answer():
    shown = Shown([row(60, 50)], seed=0, mask=0.3)
    first, other = shown[view(0, 1)], shown[view(0, 2)]
    plain = shown[view(0, 0)]
    assert torch.equal(first["input_ids"][50:], plain["input_ids"][50:])
    assert torch.equal(first["labels"], plain["labels"])
    changed = (first["input_ids"] != plain["input_ids"]).sum()
    assert 5 <= changed <= 25
    assert not torch.equal(first["input_ids"], other["input_ids"]), "another view is another"
    again = Shown([row(60, 50)], seed=0, mask=0.3)[view(0, 1)]
    assert torch.equal(first["input_ids"], again["input_ids"]), "a view is the same wherever made"
    assert torch.equal(plain["input_ids"], row(60, 50)["input_ids"])


def test_a_text_without_a_prompt_is_changed_anywhere_and_predicts_the_same():
    shown = Shown([row(40, 0)], seed=1, mask=0.5)[view(0, 1)]
    assert (shown["input_ids"] != row(40, 0)["input_ids"]).any()
    assert torch.equal(shown["labels"], row(40, 0)["labels"])


def picture():
    made = Image.new("RGB", (12, 8), (200, 30, 90))
    made.paste((10, 200, 40), (2, 2, 7, 6))
    return made


@pytest.mark.parametrize("name", [*COLOUR, *SHAPE])
@pytest.mark.parametrize("strength", [-1.0, 0.7])
def test_an_operation_keeps_the_size(name, strength):
    assert (COLOUR | SHAPE)[name](picture(), strength).size == (12, 8)


class Encoded(list):
    """Encoded records whose encoder gives the picture's pixels."""

    def __init__(self):
        buffer = io.BytesIO()
        picture().save(buffer, format="PNG")
        from holdfast.data.records import Record

        self.records = [Record((), (ImageRef(data=buffer.getvalue()),), "a")]
        super().__init__([self.encoder(self.records[0])])

    def encoder(self, record):
        from holdfast.data.images import load_image

        pixels = torch.frombuffer(
            bytearray(load_image(record.images[0]).tobytes()), dtype=torch.uint8
        )
        return {**row(8, 4), "pixel_values": pixels}


def test_images_are_changed_through_the_encoder(monkeypatch):
    encoded = Encoded()
    monkeypatch.setattr(Shown, "_special", lambda self: frozenset())
    views = [Shown(encoded, seed=0, strength=0.9)[view(0, k)]["pixel_values"] for k in range(1, 6)]
    assert any(not torch.equal(v, encoded[0]["pixel_values"]) for v in views)
    still = Shown(encoded, seed=0, image="none")[view(0, 1)]["pixel_values"]
    assert torch.equal(still, encoded[0]["pixel_values"])


def test_views_of_an_example_share_a_pass_however_a_step_is_cut():
    from holdfast.config import Train

    rows = [row(5 + i, 2) for i in range(12)]
    train = Train(batch_size=8, micro_batch_size=4, epochs=4)
    planned = schedule(view_batch(views=4), Sources(rows), train, seed=0)
    assert planned.passes == 2
    assert planned.largest == 4
    for step in range(len(planned.steps)):
        for group in planned.groups(step):
            examples = {i if name == NEW else i >> 20 for name, i in group}
            assert len(group) == 4
            assert len(examples) == 1
            assert sum(name == VIEWS for name, _ in group) == 3
