"""Looked-up activations and reference logits against plain passes and plain training."""

import pytest
import torch
from engine_tools import collate, examples, gemma2, llama, phi3, train, values
from reuse_models import SEES, TEXT, gpt2, llava, llava_batch, text_batch

from holdfast.anatomy import select
from holdfast.cache.store import Store
from holdfast.engine.forward import Reference
from holdfast.engine.prefix import Prefix
from holdfast.engine.reuse import Reuse
from holdfast.engine.seam import Seam
from holdfast.pieces.positions import answer


def ready(model, chosen):
    select(model, chosen).apply(model)
    return model.train()


def step(model, inputs):
    model.zero_grad()
    loss = model(**inputs, use_cache=False).loss
    loss.backward()
    return loss.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}


def same(a, b, **tolerance):
    assert a[0] == pytest.approx(b[0], rel=tolerance.get("rtol", 0) or 1e-12)
    assert a[1].keys() == b[1].keys()
    for name in a[1]:
        torch.testing.assert_close(a[1][name], b[1][name], **tolerance, msg=name)


def calls(module):
    seen = []
    module.register_forward_hook(lambda *a: seen.append(1))
    return seen


@pytest.mark.parametrize("chosen", ["last-1", "head"])
@pytest.mark.parametrize("name", TEXT)
def test_a_text_models_lower_blocks(name, chosen):
    model = TEXT[name]()
    if "head" in chosen and model.config.tie_word_embeddings:
        pytest.skip("the head is the embedding")
    ready(model, chosen)
    batch = text_batch()
    plain = step(model, batch)
    reuse = Reuse(model, Store())
    assert isinstance(reuse.kind, Prefix), reuse.why
    for hits in range(3):
        with reuse.around(batch) as inputs:
            same(step(model, inputs), plain, rtol=0, atol=0)
        assert reuse.hits == hits
    other = text_batch([4, 2, 0, 3])
    plain = step(model, other)
    with reuse.around(other) as inputs:
        same(step(model, inputs), plain, rtol=1e-5, atol=1e-6)
    assert (reuse.hits, reuse.misses, reuse.why) == (3, 1, None)


@pytest.mark.parametrize("chosen", ["gate-up", "last-1", "full-llm", "projector"])
@pytest.mark.parametrize("name", SEES)
def test_a_multimodal_models_tower(name, chosen):
    make, batches = SEES[name]
    model = ready(make(), chosen)
    reuse = Reuse(model, Store())
    if (name, chosen) == ("qwen2.5-vl", "projector"):
        assert "vision tower trains" in reuse.why
        return
    batch, other = batches(), batches((1, 0))
    plain, swapped = step(model, batch), step(model, other)
    with reuse.around(batch) as inputs:
        same(step(model, inputs), plain, rtol=0, atol=0)
    tower = getattr(model.model, "vision_tower", None) or model.model.visual
    blocks = next(m for m in tower.modules() if isinstance(m, torch.nn.ModuleList))
    seen = calls(blocks[0])
    with reuse.around(batch) as inputs:
        same(step(model, inputs), plain, rtol=0, atol=0)
    assert reuse.hits == 1, reuse.why
    assert len(seen) == 1, "the comparison alone runs the tower"
    with reuse.around(other) as inputs:
        same(step(model, inputs), swapped, rtol=1e-4, atol=1e-6)
    assert len(seen) == 1
    assert reuse.hits == 2
    assert isinstance(reuse.kind, Seam if chosen in ("full-llm", "projector") else Prefix)


def test_left_padding_is_computed():
    """A padding token in front may predict the first real one, and its state is not kept."""
    model = ready(gpt2(), "last-1")
    reuse = Reuse(model, Store())
    left = {k: v.flip(1) for k, v in text_batch([0, 1]).items()}
    plain = step(model, left)
    for _ in range(2):
        with reuse.around(left) as inputs:
            same(step(model, inputs), plain, rtol=0, atol=0)
    assert "begins with padding" in reuse.why


def test_other_weights_below_the_line_are_a_miss():
    store, batch = Store(), text_batch()
    model = ready(llama(), "last-1")
    with Reuse(model, store).around(batch) as inputs:
        step(model, inputs)
    again = Reuse(model, store)
    with again.around(batch) as inputs:
        step(model, inputs)
    assert again.hits == 1
    with torch.no_grad():
        model.lm_head.weight.add_(1)  # above the line
    above = Reuse(model, store)
    with above.around(batch) as inputs:
        step(model, inputs)
    assert above.hits == 1
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[0, 0] += 1e-3
    below = Reuse(model, store)
    plain = step(model, batch)
    with below.around(batch) as inputs:
        same(step(model, inputs), plain, rtol=0, atol=0)
    assert (below.hits, below.misses) == (0, 1)


@pytest.mark.parametrize("change", ["bf16", "mode", "line", "attention"])
def test_what_a_key_holds(change):
    store, batch = Store(), text_batch()
    model = ready(llama(num_hidden_layers=3), "last-1")
    with Reuse(model, store).around(batch) as inputs:
        step(model, inputs)
    mode = ""
    if change == "bf16":
        model.to(torch.bfloat16)
    elif change == "mode":
        mode = "bf16"
    elif change == "line":
        ready(model, "last-2")
    else:
        model.set_attn_implementation("eager")
    reuse = Reuse(model, store, mode=mode)
    with reuse.around(batch) as inputs:
        step(model, inputs)
    assert (reuse.hits, reuse.misses) == (0, 1)


def test_bf16_states_stay_bf16():
    store, batch = Store(), text_batch()
    model = ready(llama().to(torch.bfloat16), "last-1")
    reuse = Reuse(model, store)
    plain = step(model, batch)
    for _ in range(2):
        with reuse.around(batch) as inputs:
            same(step(model, inputs), plain, rtol=0, atol=0)
    assert reuse.hits == 1
    assert {v.dtype for v in store._kept.values()} == {torch.bfloat16}


def test_dropout_below_the_line_is_refused():
    model = ready(llama(attention_dropout=0.1), "last-1")
    reuse = Reuse(model, Store())
    assert "attention_dropout is 0.1" in reuse.why
    model = gpt2()
    model.transformer.drop.p = 0.3
    assert "drops with probability 0.3" in Reuse(ready(model, "last-1"), Store()).why
    model = gpt2()
    model.transformer.h[1].resid_drop = torch.nn.Dropout(0.5)  # above it does no harm
    assert Reuse(ready(model, "last-1"), Store()).why is None


def test_trained_embeddings_leave_nothing_to_look_up():
    assert "embed_tokens" in Reuse(ready(llama(), "full"), Store()).why


def test_a_model_that_does_more_than_its_blocks_show_is_found_out(caplog):
    """Something between the blocks that looks at the tokens: passing the blocks over skips it."""
    model = ready(llama(num_hidden_layers=3), "last-1")
    first = model.model.layers[0]
    kept = {}
    first.register_forward_hook(lambda m, a, out: kept.update(x=out))
    top = model.model.norm
    top.register_forward_hook(lambda m, a, out: out + kept["x"])
    batch = text_batch()
    plain = step(model, batch)
    reuse = Reuse(model, Store())
    caplog.set_level("INFO")
    for _ in range(3):
        with reuse.around(batch) as inputs:
            same(step(model, inputs), plain, rtol=0, atol=0)
    assert "rounding explains" in reuse.why
    assert reuse.hits == 0
    assert "rounding explains" in caplog.text


def test_a_batch_with_unknown_features_is_computed():
    model = ready(llama(), "last-1")
    batch = text_batch()
    odd = batch | {"inputs_embeds_of_mine": torch.zeros(5)}
    reuse = Reuse(model, Store())
    with reuse.around(odd) as inputs:
        assert inputs.keys() == odd.keys()
    assert "inputs_embeds_of_mine" in reuse.why


@pytest.mark.parametrize("name", [*TEXT, *SEES])
def test_a_references_logits_are_its_own(name):
    if name in TEXT:
        model, batch = TEXT[name](), text_batch()
    else:
        make, batches = SEES[name]
        model, batch = make(), batches()
    model.train()
    moved = {n: p.detach() + 0.02 for n, p in model.named_parameters() if "o_proj" in n}
    moved |= {n: p.detach() * 1.1 for n, p in model.named_parameters() if "lm_head" in n}
    reference = Reference(moved)
    reuse = Reuse(model, Store(), positions=answer, references={"stage": reference})
    inputs = {k: v for k, v in batch.items() if k != "labels"}
    plain = reference.logits(model, inputs, answer(batch))
    seen = calls(model.get_input_embeddings())
    for _ in range(3):
        got = reuse.reference_logits("stage", inputs, batch, answer(batch))
        torch.testing.assert_close(got, plain, rtol=0, atol=1e-6)
        assert not got.requires_grad
    assert "stage" in reuse.recalled
    seen.clear()
    modules = calls(model.get_output_embeddings())
    reuse.reference_logits("stage", inputs, batch, answer(batch))
    assert len(modules) == 1
    assert len(seen) == 1


def test_a_changed_reference_is_a_miss():
    store, batch = Store(), text_batch()
    model = llama().train()
    inputs = {k: v for k, v in batch.items() if k != "labels"}
    for scale in (1.0, 1.5):
        weights = {"model.layers.1.mlp.up_proj.weight": torch.full((48, 32), 0.01 * scale)}
        reference = Reference(weights)
        reuse = Reuse(model, store, positions=answer, references={"base": reference})
        got = reuse.reference_logits("base", inputs, batch, answer(batch))
        torch.testing.assert_close(got, reference.logits(model, inputs, answer(batch)))


TRAINED = [
    (llama, ["last-1"]),
    (gemma2, ["last-1", "lwf:positions=all_text"]),
    (phi3, ["mlp", "lwf:teacher=base"]),
    (llama, ["lora:rank=2", "lwf"]),
]


@pytest.mark.parametrize(("make", "methods"), TRAINED)
def test_training_gives_the_same_weights(tmp_path, make, methods):
    ends = [
        values(train(make(), methods, tmp_path / cache, steps=12, cache=cache).model)
        for cache in ("off", "auto")
    ]
    for name in ends[0]:
        torch.testing.assert_close(ends[0][name], ends[1][name], rtol=0, atol=2e-5, msg=name)


def test_training_a_multimodal_model_gives_the_same_weights(tmp_path):
    batch = llava_batch()
    rows = [{k: v[i] for k, v in batch.items()} for i in (0, 1)]
    rows = [r | {"pixel_values": r["pixel_values"][None]} for r in rows]

    def gather(rows):
        text = collate([{k: v for k, v in r.items() if k != "pixel_values"} for r in rows])
        return text | {"pixel_values": torch.cat([r["pixel_values"] for r in rows])}

    from holdfast.config import Train
    from holdfast.engine.stage import train_stage
    from holdfast.methods import plan

    ends = {}
    for method in ("gate-up", "full-llm", "projector"):
        for cache in ("off", "auto"):
            model = llava()
            tower = model.model.vision_tower.modules()
            seen = calls(next(m for m in tower if isinstance(m, torch.nn.ModuleList))[0])
            train_stage(
                plan([method]), model, rows, gather,
                Train(learning_rate=1e-2, steps=6, batch_size=1, cache=cache),
                folder=tmp_path / method / cache, seed=0, base_weights={},
                advance=lambda a, b: None, note=lambda row: None,
            )  # fmt: skip
            ends[cache] = values(model)
            assert len(seen) <= (6 if cache == "off" else 3), "two groups and one comparison"
        for name in ends["off"]:
            torch.testing.assert_close(
                ends["off"][name], ends["auto"][name], rtol=0, atol=2e-5, msg=name
            )


def test_numbers_do_not_depend_on_what_the_cache_holds(tmp_path):
    """Cold, warm, and filled by another run on other batches: the same bits."""
    methods = ["last-1", "lwf"]
    cache = str(tmp_path / "cache")
    cold = values(train(llama(), methods, tmp_path / "a", steps=12, cache=cache).model)
    warm = values(train(llama(), methods, tmp_path / "b", steps=12, cache=cache).model)
    other = str(tmp_path / "other")
    train(llama(), methods, tmp_path / "c", steps=9, batch_size=4, cache=other, data=examples(20))
    mixed = values(train(llama(), methods, tmp_path / "d", steps=12, cache=other).model)
    for name in cold:
        assert torch.equal(cold[name], warm[name]), name
        assert torch.equal(cold[name], mixed[name]), name


def test_values_that_are_lost_in_between_are_made_again(tmp_path, monkeypatch):
    whole = values(train(llama(), "last-1", tmp_path / "a", steps=12).model)
    real = Store.get
    count = [0]

    def forgetful(self, key):
        count[0] += 1
        if count[0] % 5 == 0:
            self._kept.pop(key, None)
        return real(self, key)

    monkeypatch.setattr(Store, "get", forgetful)
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Store, "_read", lambda self, key: None)
    lost = values(train(llama(), "last-1", tmp_path / "b", steps=12).model)
    assert all(torch.equal(whole[n], lost[n]) for n in whole)


def test_one_epoch_keeps_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    train(llama(), "last-1", tmp_path / "a", steps=4)
    assert not (tmp_path / "cache").exists()
    train(llama(), "last-1", tmp_path / "b", steps=12)
    assert (tmp_path / "cache").exists()


def test_what_does_not_fit_is_computed(tmp_path, monkeypatch, caplog):
    from holdfast.cache import store as module

    caplog.set_level("INFO")
    monkeypatch.setattr(module, "MEMORY", 100)
    monkeypatch.setattr(Store.__init__, "__kwdefaults__", {"limit": 100, "memory": 100})
    cache = str(tmp_path / "small")
    train(llama(), "last-1", tmp_path / "a", steps=12, cache=cache, cache_gib=1e-6)
    assert "there is room for" in caplog.text
