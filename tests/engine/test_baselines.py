"""Baselines through the engine: gradients that are projected, paths, token weights, slots."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from engine_tools import collate, examples, llama, phi3, values
from scipy.optimize import minimize
from test_carrying import equal, looking, tagged, token_mean, two_stages

from holdfast.carried import MEMORY
from holdfast.config import Train
from holdfast.engine import ahead, carrying
from holdfast.engine.preflight import preflight
from holdfast.engine.stage import train_stage
from holdfast.methods import plan
from holdfast.plan import NEW, Plan, source_id

torch.set_num_threads(1)


def flat(gradients):
    return torch.cat([g.flatten() for g in gradients]).double()


def by_hand(model, names, batches):
    weights = [p for n, p in model.named_parameters() if n in names]
    return flat(torch.autograd.grad(token_mean(model, batches), weights))


def mixed():
    """Two passes with new examples and remembered ones of the stages 1, 1, 2, 2."""
    new, old = tagged(examples(6)), tagged(examples(4, seed=5), MEMORY)
    rows = examples(6)[:3] + examples(4, seed=5)[:3]
    first = collate(rows)
    first["source"] = torch.tensor([0] * 3 + [source_id(MEMORY)] * 3)
    first["example"] = torch.tensor([0, 1, 2, 0, 1, 2])
    second = collate(examples(6)[3:] + examples(4, seed=5)[3:])
    second["source"] = torch.tensor([0] * 3 + [source_id(MEMORY)])
    second["example"] = torch.tensor([3, 4, 5, 3])
    return [first, second], new, old


@pytest.mark.parametrize("method", ["gem:margin=0", "a-gem"])
def test_a_step_is_projected_as_by_hand(method, tmp_path):
    made = plan(["gate-up", method])
    (piece,) = made.update
    piece = piece.recall({"stages": torch.tensor([1, 1, 2, 2])})
    batches, new, _ = mixed()
    trainer, step = looking(made, llama(), batches, tmp_path)
    names = set(trainer.bound.trainable)
    piece.look_ahead(step)
    assert [len(b["input_ids"]) for b in step.batches] == [3, 3]
    assert all((b["source"] == source_id(NEW)).all() for b in step.batches)
    old = examples(4, seed=5)
    groups = [old[:2], old[2:]] if method != "a-gem" else [old]
    memory = torch.stack([by_hand(llama(), names, [collate(g)]) for g in groups])
    got = torch.stack([flat(r.values()) for r in piece._references])
    torch.testing.assert_close(got, memory, atol=1e-6, rtol=1e-4)
    # a step against all that is remembered, so that every constraint is broken
    weights = trainer.bound.parameters()
    own = by_hand(llama(), names, [new]) - 2 * memory.sum(0)
    start = 0
    for p in weights.values():
        p.grad = own[start : start + p.numel()].view(p.shape).float()
        start += p.numel()
    piece.before_step(weights)
    projected = flat([p.grad for p in weights.values()])
    gram, dots = (memory @ memory.T).numpy(), (memory @ own).numpy()
    v = minimize(
        lambda v: v @ gram @ v / 2 + dots @ v, np.zeros(len(gram)), jac=lambda v: gram @ v + dots,
        bounds=[(0, None)] * len(gram), method="L-BFGS-B", options={"ftol": 1e-16, "gtol": 1e-12},
    ).x  # fmt: skip
    expected = own + torch.from_numpy(v) @ memory
    torch.testing.assert_close(projected, expected, atol=1e-5, rtol=1e-3)
    assert (memory @ projected > -1e-5).all()


def test_rows_that_are_held_still_have_no_part_in_a_constraint(tmp_path):
    """Phi-3 keeps q, k and v in one weight, of which 'vo' trains the rows of v."""
    made = plan(["vo", "a-gem"])
    batches = [tagged(examples(4)), tagged(examples(4, seed=5), MEMORY)]
    trainer, step = looking(made, phi3(), batches, tmp_path)
    step.clear = lambda found: ahead.clear(trainer, found)
    made.update[0].look_ahead(step)
    (reference,) = made.update[0]._references
    weights = trainer.bound.parameters()
    for name, p in weights.items():
        p.grad = -reference[name].clone() + 1e-3
    for update in trainer.bound.updates:
        update.before_step(weights)
    masks = trainer.bound.updates[0].masks
    assert masks
    for name, mask in masks.items():
        still = ~mask.expand_as(weights[name])
        assert not reference[name][still].any()
        assert not weights[name].grad[still].any()
        assert reference[name].any()
    product = sum(float((p.grad * reference[n]).sum()) for n, p in weights.items())
    assert abs(product) < 1e-6
    assert not ahead.gradients(trainer, batches)[name][still].any()


def test_the_first_stage_of_gem_is_plain_and_the_second_is_not(tmp_path):
    plain, _ = two_stages("mlp", tmp_path / "plain")
    first, _ = two_stages("mlp", tmp_path / "p1", sizes=(12,))
    constrained, _ = two_stages(["mlp", "gem"], tmp_path / "c1", sizes=(12,))
    equal(constrained, first)
    both, now = two_stages(["mlp", "gem"], tmp_path / "c2")
    assert now.update[0].stages == (1,) * 12
    assert any(
        not torch.equal(x, y) for x, y in zip(both.parameters(), plain.parameters(), strict=True)
    )


class Path:
    """An update that writes down gradients and weights."""

    name = "path"

    def __init__(self):
        self.gradients, self.weights = [], []

    def before_step(self, parameters):
        self.gradients.append({n: p.grad.clone() for n, p in parameters.items()})
        self.weights.append({n: p.detach().clone() for n, p in parameters.items()})

    def after_step(self, parameters):
        self.last = {n: p.detach().clone() for n, p in parameters.items()}


def test_si_reads_what_the_optimizer_did(tmp_path):
    """Through a real run with AdamW, decay and clipping; the first stage is plain to the bit."""
    path = Path()
    made = plan(["mlp", "si:damping=0.01"]) | Plan(name="path", update=(path,))
    now = carrying.recall(made, None)
    assert now.learn[0] is now.update[0]
    model = llama()
    settings = Train(learning_rate=1e-2, steps=4, batch_size=4, weight_decay=0.1)

    def train(given, model, folder):
        return train_stage(
            given, model, examples(12), collate, settings, folder=tmp_path / folder, seed=1,
            base_weights={}, advance=lambda done, total: None, note=lambda row: None,
        )  # fmt: skip

    train(now, model, "a")
    plain = llama()
    train(plan("mlp"), plain, "b")
    equal(model, plain)
    moves = list(pairwise([*path.weights, path.last]))
    for name in path.last:
        omega = -sum(
            g[name] * (after[name] - before[name])
            for g, (before, after) in zip(path.gradients, moves, strict=True)
        )
        torch.testing.assert_close(now.update[0].path[name], omega, atol=1e-6, rtol=1e-4)
        moved = path.last[name] - path.weights[0][name]
        torch.testing.assert_close(now.update[0].moved[name], moved, atol=1e-6, rtol=1e-4)


def test_si_holds_the_second_stage(tmp_path):
    plain, _ = two_stages("mlp", tmp_path / "plain")
    held, now = two_stages(["mlp", "si:weight=1e5"], tmp_path / "held")
    assert now.learn[0].importances.keys() == {n for n in values(held) if ".mlp." in n}
    first, _ = two_stages("mlp", tmp_path / "first", sizes=(12,))

    def far(model):
        return sum(
            (p - q).square().sum()
            for p, q in zip(model.parameters(), first.parameters(), strict=True)
        )

    assert far(held) < 0.9 * far(plain)


@pytest.mark.parametrize("method", ["eaft:top=5", "talr", "talr:temperature=2"])
def test_weighted_tokens_do_not_depend_on_how_a_step_is_cut(method, tmp_path):
    rows = examples(6)
    found = []
    for cut in ([rows], [rows[:2], rows[2:]]):
        made = plan(["gate-up", method])
        trainer, step = looking(made, llama(), [tagged(part) for part in cut], tmp_path)
        term = made.learn[0]
        if hasattr(term, "look_ahead"):
            term.look_ahead(step)
        found.append(flat(step.gradients(step.batches).values()))
    torch.testing.assert_close(found[0], found[1], atol=1e-7, rtol=1e-4)
    model = llama()
    batch = tagged(rows)
    logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    targets = batch["labels"][:, 1:]
    p = logits.softmax(-1).gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    read = targets != -100
    if method.startswith("eaft"):
        top = logits.topk(5).values.softmax(-1)
        factor = -(top * top.log()).sum(-1) / np.log(5)
    else:
        means = torch.stack([-p[k][read[k]].log().mean() for k in range(6)])
        tau = 2.0 if "=" in method else means.median()
        factor = p.pow(1 / tau).clamp(min=0.01)
    loss = (factor.detach() * -p.log())[read].mean()
    names = set(trainer.bound.trainable)
    weights = [q for n, q in model.named_parameters() if n in names]
    own = flat(torch.autograd.grad(loss, weights))
    torch.testing.assert_close(found[0], own, atol=1e-7, rtol=1e-3)


def test_slots_are_ranked_and_the_rest_does_not_move(tmp_path):
    made = plan("sparse-memory:share=0.25,active=6,count=2")
    (piece,) = made.update
    new = tagged(examples(4))
    batches = [new, tagged(examples(3, seed=9), "general")]
    trainer, step = looking(made, llama(), batches, tmp_path)
    piece.look_ahead(step)
    assert step.batches[0]["labels"].ne(-100).any()
    assert not step.batches[1]["labels"].ne(-100).any()
    hand = llama()
    optimizer = torch.optim.AdamW(trainer.bound.parameters().values(), lr=0.1, weight_decay=0.1)
    before = values(trainer.model)
    for layer in range(2):
        name = f"model.layers.{layer}.mlp.down_proj.weight"
        counts = [slots_used(hand, layer, b, 6) for b in batches]
        idf = torch.where(counts[1] > 0, torch.tensor(0.0), torch.log(torch.tensor(2.0)))
        score = counts[0] / counts[0].sum() * idf
        moving = piece._moving[name]
        assert moving.sum() == 12
        left = score[~moving & (counts[0] > 0)]
        assert score[moving].min() >= left.max() - 1e-7
        assert not (moving & (counts[0] == 0)).any()
    for _ in range(2):  # momentum and decay of a second step, in which nothing is moved twice
        optimizer.zero_grad()
        token_mean(trainer.model, [new]).backward()
        mask = dict(piece._moving)
        piece.before_step(trainer.bound.parameters())
        optimizer.step()
        piece.after_step(trainer.bound.parameters())
        for name, p in trainer.model.named_parameters():
            still = ~mask[name] if name in mask else slice(None)
            assert torch.equal(p[:, still], before[name][:, still]) if name in mask else True
        assert any((p != before[n]).any() for n, p in trainer.bound.parameters().items())
        piece._moving = {n: m & (torch.arange(len(m)) % 2 == 0) for n, m in mask.items()}
        before = values(trainer.model)


def slots_used(model, layer, batch, active):
    """By hand: how many tokens have each hidden unit among their largest."""
    seen = []
    hook = model.model.layers[layer].mlp.down_proj.register_forward_pre_hook(
        lambda _, x: seen.append(x[0])
    )
    with torch.no_grad():
        model(batch["input_ids"], attention_mask=batch["attention_mask"])
    hook.remove()
    counts = torch.zeros(seen[0].shape[-1])
    for row, mask in zip(seen[0], batch["attention_mask"], strict=True):
        for token in row[mask.bool()]:
            counts[token.abs().argsort(descending=True)[:active]] += 1
    return counts


def test_preflight_counts_what_is_rehearsed(tmp_path):
    import json

    from test_carrying import settings as configured

    from holdfast.config import resolve

    for name in ("first", "second"):
        rows = [{"question": f"{name} {i}?", "answer": f"word {i % 5}"} for i in range(16)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    for method, each in (("gem:each=3", 3), ("power-law:share=0.5", None)):
        told = configured(tmp_path, "dry") | {"methods": ["last-1", method]}
        checked = preflight(resolve(told))
        drawn = [s for step in checked.schedules[1].steps for s, _ in step]
        assert drawn.count(MEMORY) == 2 * each if each else drawn.count(MEMORY) > 0
