"""SAPT: attention, blocks and reflection against loops by hand; stages, kills, what is kept."""

import json
import math

import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import default_collate
from transformers import GPT2Config, GPT2LMHeadModel

import holdfast
from holdfast.anatomy import anatomy
from holdfast.carried import Ended
from holdfast.errors import SelectorError
from holdfast.methods import sapt
from holdfast.models import load
from holdfast.models.saving import tensors_of
from holdfast.pieces.attending import Attending, attentions
from holdfast.pieces.bank import layers
from holdfast.pieces.structures import rebuild
from holdfast.testing import tiny_llama

torch.set_num_threads(1)
SMALL = {"rank": 2, "hidden": 6}


def gpt2():
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=50, n_embd=16, n_layer=2, n_head=4, n_positions=32, bos_token_id=1,
        eos_token_id=2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    return GPT2LMHeadModel(config).eval()


def staged(model, count, **settings):
    """A model with ``count`` blocks, all of which say something."""
    adapter = sapt(**{**SMALL, **settings}).adapt
    torch.manual_seed(1)
    for _ in range(count):
        model = adapter.attach(model, anatomy(model))
    for _, layer in layers(model):
        for update in layer.updates:
            for up in update.ups:
                up.data.normal_()
    return adapter, model


def attention_of(model):
    ((_, found),) = attentions(model)
    return found


@torch.no_grad()
def by_hand(found, embeddings):
    """The shares of one prompt, from its tokens' embeddings, number by number."""
    width = len(embeddings[0])
    e = [max(float(token[d]) for token in embeddings) for d in range(width)]
    down, up, norm = found.query[0].weight, found.query[1].weight, found.query[3]
    inside = [sum(float(w) * x for w, x in zip(row, e, strict=True)) for row in down]
    q = [sum(float(w) * x for w, x in zip(row, inside, strict=True)) for row in up]
    q = [x / (1 + math.exp(-x)) for x in q]
    mean = sum(q) / width
    spread = math.sqrt(sum((x - mean) ** 2 for x in q) / width + norm.eps)
    q = [
        (x - mean) / spread * float(g) + float(b)
        for x, g, b in zip(q, norm.weight, norm.bias, strict=True)
    ]
    scores = [
        sum(float(k) * x for k, x in zip(key, q, strict=True)) / math.sqrt(width)
        for key in found.keys
    ]
    most = max(scores)
    parts = [math.exp(s - most) for s in scores]
    return [p / sum(parts) for p in parts]


def padded(side):
    """Two prompts of 3 and 5 tokens, each with an answer of 2, in one batch."""
    g = torch.Generator().manual_seed(4)
    rows = [torch.randint(3, 50, (n + 2,), generator=g) for n in (3, 5)]
    ids, mask, labels = (torch.zeros(2, 7, dtype=torch.long) for _ in range(3))
    labels -= 100
    for b, row in enumerate(rows):
        at = slice(7 - len(row), 7) if side == "left" else slice(0, len(row))
        ids[b, at], mask[b, at] = row, 1
        end = at.stop
        labels[b, end - 2 : end] = row[-2:]
    return rows, {"input_ids": ids, "attention_mask": mask, "labels": labels}


@pytest.mark.parametrize("side", ["left", "right"])
def test_shares_are_the_papers_and_padding_has_no_part(side):
    _, model = staged(tiny_llama().model, 3)
    model.get_input_embeddings().weight.data.mul_(20)
    # padding that would be seen: it is larger than any other embedding
    model.get_input_embeddings().weight.data[0] = 100.0
    found = attention_of(model)
    found.query[3].weight.data.normal_()
    found.query[3].bias.data.normal_()
    rows, batch = padded(side)
    with torch.no_grad():
        model(**batch)
    for row, shares in zip(rows, found.chosen.tolist(), strict=True):
        want = by_hand(found, model.get_input_embeddings()(row[:-2]).tolist())
        assert shares == pytest.approx(want, abs=1e-5)


def test_one_block_has_all_of_the_attention_and_its_key_does_not_train():
    adapter, model = staged(tiny_llama().model, 1)
    free = [n for n, p in model.named_parameters() if p.requires_grad]
    assert all(".updates." in name for name in free)
    model(**tiny_llama().batch)
    assert attention_of(model).chosen.tolist() == [[1.0], [1.0]]
    model = adapter.attach(model, anatomy(model))
    free = {n for n, p in model.named_parameters() if p.requires_grad}
    assert "shared_attention.keys.1" in free
    assert "shared_attention.query.0.weight" in free
    assert "shared_attention.keys.0" not in free
    assert not any(n.endswith((".downs.0", ".ups.0")) for n in free)


@pytest.mark.parametrize("make", [lambda: tiny_llama().model, gpt2], ids=["llama", "gpt2"])
def test_a_layer_adds_every_block_by_its_share(make):
    """Queries and values, fused or not; keys of attention and the MLP are left alone."""
    _, model = staged(make(), 3)
    found = attention_of(model)
    found.chosen = torch.tensor([[0.2, 0.5, 0.3], [0.0, 0.1, 0.9]])
    names = {path.rpartition(".")[2] for path, _ in layers(model)}
    assert names in ({"q_proj", "v_proj"}, {"c_attn"})
    _, layer = next(iter(layers(model)))
    x = torch.randn(2, 4, 16)
    want = layer.base_layer(x).clone()
    places = [slice(0, 16), slice(32, 48)] if names == {"c_attn"} else [slice(None)]
    for update, place in zip(layer.updates, places, strict=True):
        for b in range(2):
            for i in range(3):
                block = x[b] @ update.downs[i][0].T @ update.ups[i][0].T
                want[b, :, place] += found.chosen[b, i] * (32 / 2) * block
    torch.testing.assert_close(layer(x), want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("through", [False, True])
def test_gradients_stop_at_earlier_blocks_as_in_the_code(through):
    _, model = staged(tiny_llama().model, 3, through=through)
    found = attention_of(model)
    shares = torch.tensor([[0.2, 0.5, 0.3]], requires_grad=True)
    found.chosen = shares
    _, layer = next(iter(layers(model)))
    x = torch.randn(1, 4, 16, requires_grad=True)
    g = torch.randn(1, 4, layer.base_layer.out_features)
    got = torch.autograd.grad((layer(x) * g).sum(), [x, shares])
    (update,) = layer.updates
    blocks = [16 * x @ d[0].T @ u[0].T for d, u in zip(update.downs, update.ups, strict=True)]
    reach = blocks if through else [blocks[0].detach(), blocks[1].detach(), blocks[2]]
    total = layer.base_layer(x) + sum(shares[0, i] * b for i, b in enumerate(reach))
    want = torch.autograd.grad((total * g).sum(), [x, shares])
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_reflection_is_a_loop_over_stages_and_prompts():
    adapter, model = staged(tiny_llama().model, 3)
    found = attention_of(model)
    prompts = {1: torch.randn(4, 16), 2: torch.randn(3, 16)}
    shares = {1: [1.0], 2: [0.7, 0.3]}
    adapter.known = {f"prompts.{t}": prompts[t] for t in prompts}
    adapter.known |= {f"shares.{t}": torch.tensor(shares[t]) for t in shares}
    free = {n: p for n, p in model.named_parameters() if p.requires_grad}
    got = adapter(free, {})
    want = 0.0
    for t, wanted in shares.items():
        for x in prompts[t].tolist():
            a = by_hand(found, [x])
            want += sum(w * math.log(w / a[i]) for i, w in enumerate(wanted)) / len(prompts[t])
    assert got.item() == pytest.approx(want, abs=1e-5)
    got.backward()
    moved = {n for n, p in free.items() if p.grad is not None and p.grad.any()}
    assert moved == {n for n in free if n.startswith("shared_attention.")}


def test_what_is_kept_of_a_stage_is_what_its_prompts_attend_with():
    adapter, model = staged(tiny_llama().model, 2)
    rows, batch = padded("right")
    examples = [
        {"input_ids": row, "attention_mask": torch.ones_like(row),
         "labels": torch.cat([torch.full((len(row) - 2,), -100), row[-2:]])}
        for row in rows
    ]  # fmt: skip

    def collate(some):
        return {
            k: torch.nn.utils.rnn.pad_sequence([r[k] for r in some], True, -100 * (k == "labels"))
            for k in some[0]
        }

    adapter.known = {"prompts.1": torch.ones(1, 16), "shares.1": torch.ones(1)}
    kept = adapter.keep(Ended(2, 0, model, (), examples, collate, [[]]))
    embed = model.get_input_embeddings()
    pooled = torch.stack([embed(row[:-2]).amax(0) for row in rows])
    torch.testing.assert_close(kept["prompts.2"], pooled)
    model(**batch)
    torch.testing.assert_close(kept["shares.2"], attention_of(model).chosen.mean(0))
    assert torch.equal(kept["prompts.1"], torch.ones(1, 16))
    again = adapter.recall(kept)
    again.attach(model, anatomy(model))
    assert len(attention_of(model).keys) == 3
    assert float(again({"x": torch.zeros(1)}, {})) > 0, "the new key takes some of the attention"


def task(number, n=16):
    """Prompts of words of the task's own (0: one in eight is another), and its one answer."""
    g = torch.Generator().manual_seed(number)
    own = torch.randint(3 + 10 * number, 11 + 10 * number, (n, 5), generator=g)
    ids = torch.cat([own, torch.full((n, 1), 40 + number)], 1)
    return {"input_ids": ids, "labels": ids.masked_fill(torch.arange(6) < 5, -100)}


def rows_of(batch):
    return [{k: v[i] for k, v in batch.items()} for i in range(len(batch["input_ids"]))]


def learned(weight, steps=50):
    """Two tasks one after the other: the losses after each, and the first's share of its block."""
    torch.manual_seed(0)
    model, losses = tiny_llama().model, []
    model.lm_head.weight.data.mul_(40)
    model.get_input_embeddings().weight.data.mul_(20)
    adapter = sapt(**SMALL, weight=weight).adapt
    for number in (0, 1):
        model = adapter.attach(model, anatomy(model)).train()
        free = {n: p for n, p in model.named_parameters() if p.requires_grad}
        optimizer = torch.optim.Adam(free.values(), lr=3e-2)
        for _ in range(steps):
            optimizer.zero_grad()
            (model(**task(number)).loss + weight * adapter(free, {})).backward()
            optimizer.step()
        model = adapter.detach(model, None).eval()
        with torch.no_grad():
            losses.append([float(model(**task(t)).loss) for t in range(number + 1)])
        earlier = [[]] * number
        ended = Ended(number + 1, 0, model, (), rows_of(task(number)), default_collate, earlier)
        adapter = adapter.recall(adapter.keep(ended))
    model(**task(0))
    return losses, float(attention_of(model).chosen[:, 0].detach().mean())


def test_reflection_keeps_the_first_tasks_prompts_with_its_block():
    held, share = learned(1.0)
    free, drifted = learned(0.0)
    assert held[0][0] < 0.5
    assert held[1][1] < 0.5
    assert share > 0.6
    assert drifted < 0.3
    assert held[1][0] < free[1][0] / 4


@pytest.fixture
def files(tmp_path):
    for k, name in enumerate(("first", "second", "third")):
        rows = [{"question": f"{name} {i}?", "answer": f"word {i % (3 + k)}"} for i in range(12)]
        text = "".join(json.dumps(r) + "\n" for r in rows)
        (tmp_path / f"{name}.jsonl").write_text(text)
    return tmp_path


def run(files, out):
    data = [str(files / f"{name}.jsonl") for name in ("first", "second", "third")]
    return holdfast.tune(
        "lab:lm", data, ["sapt:rank=2,hidden=8,examples=5"], out=str(files / out), steps=2,
        batch_size=4, learning_rate=1e-2, save_every=1, evaluate={"limit": 2},
    )  # fmt: skip


def test_three_stages_a_kill_within_one_and_the_model_read_back(files, monkeypatch):
    from holdfast.engine.stage import StageTrainer

    whole = run(files, "whole")
    again, _ = load(str(whole.path))
    assert len(attention_of(again).keys) == 3
    kept = {p.stem for p in (whole.path / "stages" / "02" / "carried").iterdir()}
    assert kept == {"sapt"}
    own, steps = StageTrainer.training_step, []

    def dies(self, *args, **kwargs):
        steps.append(1)
        if len(steps) == 6:  # the last step of the last stage
            raise KeyboardInterrupt
        return own(self, *args, **kwargs)

    monkeypatch.setattr(StageTrainer, "training_step", dies)
    with pytest.raises(KeyboardInterrupt):
        run(files, "cut")
    cut = run(files, "cut")
    assert len(steps) == 7, "one step was made again"
    a, b = tensors_of(whole.model), tensors_of(cut.model)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[n], b[n]) for n in a)
    last = dict(again.named_parameters())
    assert all(torch.equal(v, last[n]) for n, v in a.items())
    middle, _ = load(str(whole.path / "stages" / "02"))
    earlier = dict(middle.named_parameters())
    assert len(attention_of(middle).keys) == 2
    still = [n for n in earlier if ".updates." in n or ".keys." in n]
    assert all(torch.equal(earlier[n], last[n]) for n in still), "earlier blocks and keys stay"


def test_a_structure_is_built_again():
    adapter, model = staged(tiny_llama().model, 2)
    other = tiny_llama().model
    other = rebuild(other, json.loads(json.dumps(adapter.structure())), anatomy(other))
    assert not any(p.requires_grad for p in other.parameters())
    other.load_state_dict(model.state_dict())
    batch = tiny_llama().batch
    assert torch.equal(other(**batch).logits, model(**batch).logits)


def test_a_scope_without_projections_is_refused():
    with pytest.raises(SelectorError, match="no projection"):
        staged(tiny_llama().model, 1, scope="language.norm")


def test_bfloat16_and_checkpointed_activations():
    """The attention stays float32, and its gradient is that without checkpoints."""
    grads = []
    for twice in (False, True):
        _, model = staged(tiny_llama().model, 2)
        model.train()
        if twice:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model(**tiny_llama().batch).loss.backward()
        grads.append(attention_of(model).keys[1].grad)
    assert grads[0].any()
    torch.testing.assert_close(grads[0], grads[1])
    _, model = staged(tiny_llama().model.to(torch.bfloat16), 2)
    found = attention_of(model)
    assert isinstance(found, Attending)
    logits = model(**tiny_llama().batch).logits
    assert found.chosen.dtype == torch.float32
    assert logits.dtype == torch.bfloat16
    assert F.softmax(logits.float(), -1).isfinite().all()
