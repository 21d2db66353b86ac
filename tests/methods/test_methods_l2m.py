"""L2M: equations, choices, counts, freezing; a toy of clustered tasks; a decision transformer."""

import pytest
import torch
from torch.nn import functional as F
from transformers import (
    DecisionTransformerConfig,
    DecisionTransformerModel,
    GPT2Config,
    GPT2LMHeadModel,
    ViTConfig,
    ViTForImageClassification,
)

from holdfast.anatomy import anatomy
from holdfast.errors import SelectorError, UsageError
from holdfast.methods import l2m, plan
from holdfast.pieces.bank import Banked, layers
from holdfast.pieces.modulation import KeepUnchosen
from holdfast.pieces.pool import KeyPool
from holdfast.pieces.structures import rebuild
from holdfast.testing import tiny_llama, tiny_llava

torch.set_num_threads(1)


def gpt2():
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=40, n_embd=16, n_layer=2, n_head=4, n_positions=32, bos_token_id=1,
        eos_token_id=2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    return GPT2LMHeadModel(config).eval()


def attached(model, **settings):
    torch.manual_seed(1)
    pool = l2m(**{"entries": 5, "rank": 2, **settings}).adapt
    return pool, pool.attach(model, anatomy(model))


def fill(model):
    torch.manual_seed(2)
    for _, layer in layers(model):
        for update in layer.updates:
            update.ups[0].data.normal_()


def test_a_layer_adds_the_update_that_its_row_chose():
    """Queries and values of a fused layer read its input, the MLP what it made itself."""
    pool, model = attached(gpt2())
    fill(model)
    block = model.transformer.h[0]
    fused, first = block.attn.c_attn, block.mlp.c_fc
    chosen = torch.tensor([3, 0])
    pool._pool.chosen = chosen
    x = torch.randn(2, 4, 16)
    want = fused.base_layer(x).clone()
    for update, rows in zip(fused.updates, (slice(0, 16), slice(32, 48)), strict=True):
        for b, e in enumerate(chosen.tolist()):
            more = 2.0 * x[b] @ update.downs[0][e].T @ update.ups[0][e].T
            want[b, :, rows] += more
    torch.testing.assert_close(fused(x), want)
    want = first.base_layer(x).clone()
    (update,) = first.updates
    for b, e in enumerate(chosen.tolist()):
        want[b] += 2.0 * want[b].clone() @ update.downs[0][e].T @ update.ups[0][e].T
    torch.testing.assert_close(first(x), want)
    assert not isinstance(block.mlp.c_proj, Banked)
    assert not isinstance(block.attn.c_proj, Banked)


def test_a_gated_mlp_is_modulated_before_its_nonlinearity():
    _, model = attached(tiny_llama().model)
    names = {path.rpartition(".")[2] for path, _ in layers(model)}
    assert names == {"q_proj", "v_proj", "gate_proj"}


def test_the_choice_is_the_nearest_key_and_only_training_counts():
    tiny = tiny_llama()
    pool, model = attached(tiny.model)
    logits = model(**tiny.batch).logits
    query = model.get_input_embeddings()(tiny.batch["input_ids"])[:, :6].mean(1)  # the prompt
    nearest = F.cosine_similarity(query[:, None], pool._pool.keys[None], dim=-1).argmax(1)
    assert pool._pool.chosen.tolist() == nearest.tolist()
    assert pool.state()["counts"].sum() == 0
    fill(model)
    assert not torch.equal(model(**tiny.batch).logits, logits)
    model.train()(**tiny.batch)
    counts = pool.state()["counts"]
    assert counts.tolist() == nearest.bincount(minlength=5).tolist()
    with torch.no_grad():
        model(**tiny.batch)  # a look at the step, and not the step
    assert torch.equal(pool.state()["counts"], counts)


def test_the_penalty_is_the_papers_and_is_left_off_in_evaluation():
    tiny = tiny_llama()
    pool, model = attached(tiny.model)
    counts = torch.tensor([6.0, 3.0, 1.0, 0.0, 0.0])
    pool = pool.recall({"counts": counts})
    model = pool.attach(model, anatomy(model))
    inverse = 1 / (counts.double() / 10 + 1e-6)
    torch.testing.assert_close(pool._pool.penalty.double(), inverse / inverse.sum())
    query = model.get_input_embeddings()(tiny.batch["input_ids"])[0, :6].mean(0)
    pool._pool.keys.data[0] = query.detach()  # an earlier stage's entry is nearest to a row
    model.eval()(**tiny.batch)
    assert pool._pool.chosen[0] == 0
    model.train()(**tiny.batch)
    assert set(pool._pool.chosen.tolist()) <= {3, 4}


def test_a_reply_does_not_change_the_choice():
    """Generation with a cache gives what whole passes give where the prompt alone decides."""
    model = gpt2()
    pool, model = attached(model)
    fill(model)
    ids = torch.tensor([[0, 0, 5, 6, 7], [8, 9, 10, 11, 12]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    made = model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=6, do_sample=False, pad_token_id=0
    )
    chosen = pool._pool.chosen.clone()
    whole = torch.cat([mask, torch.ones(2, 6, dtype=torch.long)], 1)
    labels = made.masked_fill(torch.arange(11) < 5, -100)
    places = (whole.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        logits = model(
            input_ids=made, attention_mask=whole, labels=labels, position_ids=places
        ).logits
    assert pool._pool.chosen.tolist() == chosen.tolist()
    reply = made[:, 5:]
    stop = (reply == 2).cumsum(1) > 0
    assert ((logits[:, 4:-1].argmax(-1) == reply) | stop).all()


def test_entries_that_were_not_chosen_do_not_move():
    """Momentum and decay would move them: with gradients alone masked this fails."""
    keys = torch.nn.Parameter(torch.randn(4, 3))
    optimizer, keep = torch.optim.AdamW([keys], lr=0.1, weight_decay=0.5), KeepUnchosen()
    for chosen in (0, 1):
        before = keys.detach().clone()
        optimizer.zero_grad()
        keys[chosen].sum().backward()
        keep.before_step({"keys": keys})
        optimizer.step()
        keep.after_step({"keys": keys})
        moved = (keys != before).any(1)
        assert moved.tolist() == [e == chosen for e in range(4)]


TASKS = 2


def clusters(task, n=16):
    """Prompts of one task, mostly of words of its own, and its one answer."""
    g = torch.Generator().manual_seed(task)
    shared = torch.randint(3, 9, (n, 1), generator=g)
    own = torch.randint(10 + 10 * task, 13 + 10 * task, (n, 4), generator=g)
    return _rows(torch.cat([shared, own, torch.full((n, 1), 40 + task)], 1))


def alike(task, n=16):
    """Tasks with nearly the same words, so that one key is nearest to all of their prompts."""
    ids = clusters(0, n)["input_ids"]
    ids[:, 4], ids[:, 5] = 20 + task, 40 + task
    return _rows(ids)


def _rows(ids):
    return {"input_ids": ids, "labels": ids.masked_fill(torch.arange(6) < 5, -100)}


def loss_of(model, batch):
    logits = model(**batch).logits[:, -2]
    return F.cross_entropy(logits, batch["labels"][:, -1])


def taught(model, pool, batch, steps=30):
    """A stage: the pool's own loop, as the engine makes it."""
    model = pool.attach(model, anatomy(model)).train()
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    optimizer, keep = torch.optim.AdamW(parameters.values(), lr=5e-2), KeepUnchosen()
    for _ in range(steps):
        optimizer.zero_grad()
        (loss_of(model, batch) - 0.5 * pool.cosines().mean()).backward()
        keep.before_step(parameters)
        optimizer.step()
        keep.after_step(parameters)
    return pool.detach(model, None).eval()


def sequence(data, **settings):
    torch.manual_seed(3)
    model = tiny_llama().model
    model.lm_head.weight.data.mul_(40)  # frozen, and as first drawn it could not say much
    backbone = {n: p.detach().clone() for n, p in model.named_parameters()}
    pool, before, chosen = l2m(entries=6, rank=4, **settings).adapt, [], []
    for task in range(TASKS):
        model = taught(model, pool, data(task))
        with torch.no_grad():
            before.append(float(loss_of(model, data(task))))
        pool = pool.recall(pool.state())
    for name, value in backbone.items():
        path, _, leaf = name.rpartition(".")
        layer = model.get_submodule(path)
        assert torch.equal(getattr(getattr(layer, "base_layer", layer), leaf), value), name
    with torch.no_grad():
        after = []
        for task in range(TASKS):
            after.append(float(loss_of(model, data(task))))
            (found,) = (m for m in model.modules() if isinstance(m, KeyPool))
            chosen.append(set(found.chosen.tolist()))
    return before, after, chosen


def test_tasks_find_their_own_entries_and_forget_nothing():
    before, after, chosen = sequence(clusters)
    assert max(before) < 0.7
    assert not chosen[0] & chosen[1]
    assert after[0] == pytest.approx(before[0], abs=1e-6)


def test_without_the_penalty_entries_are_shared_and_forget():
    before, after, _ = sequence(alike, penalty=False)
    assert after[0] > before[0] + 1
    _, then, chosen = sequence(alike)
    assert then[0] < after[0]
    assert len(chosen[0] | chosen[1]) > 1


def test_a_decision_transformer_reads_states():
    torch.manual_seed(0)
    model = decision_transformer()
    pool, model = attached(model)
    batch = trajectories(0, 4)
    model(**batch)
    mean = model.embed_ln(
        model.embed_state(batch["states"]) + model.embed_timestep(batch["timesteps"])
    ).mean(1)
    mean = mean + model.encoder.wpe.weight[0]
    nearest = F.cosine_similarity(mean[:, None], pool._pool.keys[None], dim=-1).argmax(1)
    assert pool._pool.chosen.tolist() == nearest.tolist()


def test_a_vision_transformer_reads_patches():
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        image_size=8, patch_size=4, num_labels=3,
    )  # fmt: skip
    model = ViTForImageClassification(config).eval()
    pixels = torch.randn(3, 3, 8, 8)
    logits = model(pixel_values=pixels).logits
    pool, model = attached(model, scope="vision")
    assert torch.equal(model(pixel_values=pixels).logits, logits)
    query = model.vit.embeddings(pixels).mean(1)
    nearest = F.cosine_similarity(query[:, None], pool._pool.keys[None], dim=-1).argmax(1)
    assert pool._pool.chosen.tolist() == nearest.tolist()
    fill(model)
    assert not torch.equal(model(pixel_values=pixels).logits, logits)


def test_a_saved_model_is_built_again():
    tiny = tiny_llama()
    pool, model = attached(tiny.model)
    fill(model)
    other = rebuild(tiny_llama().model, pool.structure(), anatomy(tiny_llama().model))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval()(**tiny.batch).logits, model(**tiny.batch).logits)


def test_refusals():
    with pytest.raises(SelectorError, match="one of them"):
        attached(tiny_llava().model, scope="language + vision")
    with pytest.raises(SelectorError, match="no queries"):
        attached(tiny_llama().model, scope="language.norm")
    from holdfast.config import Train
    from holdfast.engine.packing import rows_apart

    with pytest.raises(UsageError, match="each row"):
        rows_apart(plan(["l2m"]), Train(learning_rate=1e-3, packing="on"))
    assert not rows_apart(plan(["l2m"]), Train(learning_rate=1e-3))
    assert rows_apart(plan(["lora"]), Train(learning_rate=1e-3, packing="on"))


# A point on a line that has to reach 0; what a push does differs from robot to robot


ROBOTS = ((1.0, (6.0, 0.0)), (-1.0, (0.0, 6.0)))
"""What a push of 1 does, and what the robot's state looks like beside its place."""
STEPS = 5


def decision_transformer():
    config = DecisionTransformerConfig(
        state_dim=3, act_dim=1, hidden_size=16, n_layer=2, n_head=2, max_ep_len=STEPS + 1,
        n_positions=64, vocab_size=1, bos_token_id=0, eos_token_id=0, resid_pdrop=0.0,
        embd_pdrop=0.0, attn_pdrop=0.0, initializer_range=0.3,  # it is frozen, and has to say much
    )  # fmt: skip
    return DecisionTransformerModel(config).eval()


def step(robot, place, push):
    return place + 0.6 * ROBOTS[robot][0] * push.clamp(-1, 1)


def seen(robot, place):
    return torch.cat([place, torch.tensor(ROBOTS[robot][1]).expand(len(place), 2)], 1)


def trajectories(robot, n, policy=None):
    """What an expert, or ``policy``, does from n places."""
    g = torch.Generator().manual_seed(robot)
    place = torch.rand(n, 1, generator=g) * 4 - 2
    states, actions = [], []
    for t in range(STEPS):
        states.append(seen(robot, place))
        actions.append(torch.zeros(n, 1))
        batch = batched(states, actions)
        push = (-place * ROBOTS[robot][0]).clamp(-1, 1) if policy is None else policy(batch)
        actions[t] = push
        place = step(robot, place, push)
    return {**batched(states, actions), "place": place} if policy else batched(states, actions)


def batched(states, actions):
    s, a = torch.stack(states, 1), torch.stack(actions, 1)
    n, t = s.shape[:2]
    return {
        "states": s, "actions": a, "rewards": torch.zeros(n, t, 1),
        "returns_to_go": torch.zeros(n, t, 1), "timesteps": torch.arange(t).expand(n, t),
        "attention_mask": torch.ones(n, t),
    }  # fmt: skip


@torch.no_grad()
def arrived(model, robot):
    """Share of episodes that end near 0."""
    made = trajectories(robot, 32, lambda batch: model(**batch).action_preds[:, -1])
    return float((made["place"].abs() < 0.3).float().mean())


def practised(model, robot, pool=None, steps=60):
    free = {n: p for n, p in model.named_parameters() if p.requires_grad}
    optimizer, keep = torch.optim.AdamW(free.values(), lr=1e-2), KeepUnchosen()
    batch = trajectories(robot, 48)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.mse_loss(model(**batch).action_preds, batch["actions"])
        (loss if pool is None else loss - 0.5 * pool.cosines().mean()).backward()
        if pool is not None:
            keep.before_step(free)
        optimizer.step()
        keep.after_step(free)


def test_robots_are_learned_one_after_the_other():
    """A frozen decision transformer: the first robot's skill is there after the second's."""
    torch.manual_seed(0)
    model, pool = decision_transformer(), l2m(entries=3, rank=4).adapt
    for robot in (0, 1):
        model = pool.attach(model, anatomy(model)).train()
        practised(model, robot, pool)
        model = pool.detach(model, None).eval()
        if robot == 0:
            learned = arrived(model, 0)
        pool = pool.recall(pool.state())
    assert learned > 0.8
    assert arrived(model, 1) > 0.8
    assert arrived(model, 0) == learned
    torch.manual_seed(0)
    model = decision_transformer().train()
    for robot in (0, 1):
        practised(model, robot)
    assert arrived(model.eval(), 0) < learned - 0.3
