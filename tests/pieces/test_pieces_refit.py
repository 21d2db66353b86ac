"""FPF: when phases come, what they read, what they move; the metric against its closed form."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM

from holdfast.anatomy import anatomy
from holdfast.carried import AGAIN, MEMORY, Ended
from holdfast.config import Train
from holdfast.engine import carrying
from holdfast.engine.stage import train_stage
from holdfast.errors import ConfigError, SelectorError, UsageError
from holdfast.methods import plan
from holdfast.pieces.refit import CONSTANT, OnlyInPhases, Phases
from holdfast.pieces.sensitivity import change, selector, sensitivity
from holdfast.plan import NEW

SHAPE = {
    "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0,
}  # fmt: skip


SETTINGS = Train(
    learning_rate=1e-2, epochs=1, batch_size=4, weight_decay=0.3, schedule=CONSTANT, warmup=0
)


def sources(feed, sizes, batch=4):
    count = feed.steps(sizes, batch, 1)
    feed = feed.fit(count, CONSTANT)
    return [[name for name, _ in feed(sizes, s, batch, 7)] for s in range(count)]


def test_k_phases_of_so_many_steps_lie_between_equal_pieces():
    feed = Phases(count=3, iterations=2, places=((1, 0), (1, 1), (2, 0)))
    steps = sources(feed, {NEW: 48, MEMORY: 3, AGAIN: 3})
    marks = "".join("p" if AGAIN in s else "." for s in steps)
    assert marks == "....pp" * 3  # 12 own steps, 6 evaluations on the memory: k * iterations
    assert {len(s) for s, m in zip(steps, marks, strict=True) if m == "p"} == {4}
    assert all(s == [NEW] * 4 for s, m in zip(steps, marks, strict=True) if m == ".")


def test_own_steps_are_those_of_plain_training():
    sizes = {NEW: 48, MEMORY: 9, AGAIN: 9}
    feed = Phases(count=3, iterations=2).fit(18, CONSTANT)
    mine = [d for s in range(18) for d in [feed(sizes, s, 4, 7)] if all(n == NEW for n, _ in d)]
    plain = Phases(count=0).fit(12, CONSTANT)
    assert mine == [plain(sizes, s, 4, 7) for s in range(12)]
    first = Phases(count=3, iterations=2)
    assert first.steps({NEW: 48}, 4, 1) == 12  # nothing is remembered yet: no phases
    assert feed(sizes, 5, 4, 7) == feed(sizes, 5, 4, 7)


def test_replay_in_own_steps_and_refusals():
    sizes = {NEW: 16, MEMORY: 9, AGAIN: 9}
    steps = sources(Phases(count=1, iterations=2, replay=1.0), sizes)
    assert [s.count(MEMORY) for s in steps] == [4, 4, 4, 4, 0, 0]
    with pytest.raises(ConfigError, match=r"set train\.schedule=constant"):
        Phases().fit(200, "cosine")
    with pytest.raises(ConfigError, match="leave none"):
        Phases(count=2, iterations=50).fit(100, CONSTANT)(sizes, 0, 4, 0)


def rows(n, seed):
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 32, (n, 6), generator=g)
    return [
        {"input_ids": i, "labels": i.clone(), "attention_mask": torch.ones_like(i)} for i in ids
    ]


def collate(batch):
    return {k: torch.stack([r[k] for r in batch]) for k in batch[0]}


def second_stage(methods, tmp_path, model, *, watch=None, noted=None):
    """Train two stages and return the model; ``watch`` sees the weights at every step of the
    second, and ``noted`` its losses."""
    from transformers import TrainerCallback

    class Look(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            watch.append({n: p.detach().clone() for n, p in model.named_parameters()})

    made, folder, stages = plan(methods), None, [rows(8, 0), rows(8, 1)]
    for stage, own in enumerate(stages, 1):
        now = carrying.recall(made, folder)
        trained = train_stage(
            now, model, own, collate,
            SETTINGS,
            folder=tmp_path / f"c{stage}", seed=stage, base_weights={},
            advance=lambda done, total: None,
            note=noted.append if noted is not None and stage == 2 else lambda row: None,
            sources=carrying.rehearsed(now, stages[: stage - 1]),
            watchers=[Look()] if watch is not None and stage == 2 else [],
        )  # fmt: skip
        model = trained.model.eval()
        ended = Ended(stage, 0, model, tuple(trained.changed), own, collate, stages[: stage - 1])
        carrying.keep(now, ended, folder := tmp_path / f"s{stage}")
    return model


def llama():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SHAPE)).eval()


def test_a_phase_moves_the_selected_parts_alone(tmp_path):
    seen = []
    second_stage(["full", "fpf:iterations=3"], tmp_path, llama(), watch=seen)
    assert len(seen) == 5  # two own steps, three of the phase
    for name in seen[0]:
        chosen = "norm" in name or "lm_head" in name
        assert not torch.equal(seen[0][name], seen[1][name]), name
        assert torch.equal(seen[1][name], seen[4][name]) != chosen, name


def test_a_phase_keeps_the_other_rows_of_a_fused_weight(tmp_path):
    torch.manual_seed(0)
    model = Phi3ForCausalLM(Phi3Config(**SHAPE)).eval()
    fused = "model.layers.0.self_attn.qkv_proj.weight"
    seen = []
    second_stage(["full", "fpf:iterations=2,select=language.attn.k"], tmp_path, model, watch=seen)
    still = (seen[1][fused] == seen[3][fused]).all(dim=1)
    assert still.tolist() == [True] * 16 + [False] * 8 + [True] * 8


def test_no_phases_is_plain_training(tmp_path):
    a = second_stage(["full", "k-fpf:k=0"], tmp_path / "a", llama())
    b = second_stage(["full"], tmp_path / "b", llama())
    for (name, x), (_, y) in zip(a.named_parameters(), b.named_parameters(), strict=True):
        assert torch.equal(x, y), name


def test_stored_logits_are_those_of_the_phases_own_draw():
    """k-FPF-KD: the draw that marks a phase is what the stored logits are compared on."""
    (term,) = plan("k-fpf:k=2,iterations=3,distill=0.1").learn
    assert (term.weight, term.source, term.distance) == (0.1, AGAIN, "squared")
    assert plan("k-fpf").learn == plan("fpf").learn == ()


def test_stored_logits_act_in_phases_alone(tmp_path):
    """k-FPF-KD through the engine: one own step and two of a phase, twice; in the first step of
    a phase the term is the distance to what the model said at the end of the first stage."""
    seen, plain, noted = [], [], []
    weight = "loss/stored-logits"
    second_stage(["full", "k-fpf:k=2,iterations=2"], tmp_path / "ce", llama(), watch=plain)
    kd = ["full", "k-fpf:k=2,iterations=2,distill=0.5"]
    second_stage(kd, tmp_path / "kd", llama(), watch=seen, noted=noted)
    assert [row.get(weight, 0.0) > 0 for row in noted] == [False, True, True] * 2
    apart = [
        max(float((a[n] - b[n]).abs().max()) for n in a) for a, b in zip(seen, plain, strict=True)
    ]
    assert apart[0] < 1e-5 < 1e-3 < min(apart[1:])

    held = load_file(tmp_path / "kd" / "s1" / "carried" / "phases.safetensors")
    feed = plan(kd).feed.recall(held).fit(6, CONSTANT)
    draws = feed({NEW: 8, MEMORY: 8, AGAIN: 8}, 1, 4, 2)
    old = [rows(8, 0)[feed.exemplars()[i][1]] for name, i in draws if name == AGAIN]
    assert old
    first = llama()
    train_stage(
        plan("full"), first, rows(8, 0), collate,
        SETTINGS,
        folder=tmp_path / "first", seed=1, base_weights={},
        advance=lambda done, total: None, note=lambda row: None,
    )  # fmt: skip
    now = llama()
    now.load_state_dict(seen[0], strict=False)
    ids = collate(old)["input_ids"]
    with torch.no_grad():
        said, then = (m.eval()(ids).logits[:, :-1] for m in (now, first))
    assert noted[1][weight] == pytest.approx(float((said - then).square().mean()), rel=1e-3)


def test_what_the_recipe_freezes_cannot_be_finetuned(tmp_path):
    with pytest.raises(UsageError, match="the plan trains none of it"):
        second_stage(["mlp", "fpf:iterations=1"], tmp_path, llama())
    with pytest.raises(SelectorError, match="no vision tower"):
        OnlyInPhases(select="vision").place(anatomy(llama()))


def weights(model):
    return {n: p.detach().clone() for n, p in model.named_parameters()}


def test_a_shift_by_c_counts_c_whatever_the_size():
    model = llama()
    found, before = anatomy(model), weights(model)
    after = {n: w - 0.25 for n, w in before.items()}
    for part in found.parts:
        assert change(before, after, [part]) == pytest.approx(0.25, rel=1e-5)
    torch.manual_seed(0)
    fused = anatomy(Phi3ForCausalLM(Phi3Config(**SHAPE)))
    q, k = (next(p for p in fused.parts if p.unit == f"attn.{u}") for u in "qk")
    start = {q.parameter: torch.zeros(32, 16)}
    moved = {q.parameter: torch.cat([torch.full((16, 16), 3.0), torch.ones(16, 16)])}
    assert (change(start, moved, [q]), change(start, moved, [k])) == (3.0, 1.0)


def test_modules_by_what_tasks_change_more_than_epochs_do():
    model = llama()
    found, w = anatomy(model), weights(model)

    def moved(by, heads):
        return {n: v + by + heads * ("lm_head" in n) for n, v in w.items()}

    tasks = [[moved(0.0, 0.0), moved(0.1, 0.0)], [moved(0.1, 2.0), moved(0.2, 2.0)]]
    ranked = sensitivity(found, tasks, by="unit")
    assert ranked[0].module == "language.head"
    assert ranked[0].between == pytest.approx(2.1, rel=1e-4)
    assert ranked[0].score == pytest.approx(21, rel=1e-3)
    assert ranked[1].score == pytest.approx(1, rel=1e-3)
    assert found.select(selector(ranked, 1)).parts == ranked[0].parts
    each = sensitivity(found, tasks)
    assert all(found.select(s.module).count >= sum(p.count for p in s.parts) for s in each)
    with pytest.raises(UsageError, match="two tasks"):
        sensitivity(found, tasks[:1])


def test_the_last_layer_changes_most_between_two_tasks():
    """Two tasks of other classes, one network, trained in turn: the metric's own claim."""
    g = torch.Generator().manual_seed(0)
    centres = torch.randn(4, 10, generator=g)
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)
    )
    optimizer, ends = torch.optim.SGD(net.parameters(), lr=0.1), []
    for classes in ((0, 1), (2, 3)):
        y = torch.tensor(classes).repeat(40)
        x = centres[y] + 0.3 * torch.randn(80, 10, generator=g)
        for _ in range(60):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()
        ends.append({n: p.detach().clone() for n, p in net.named_parameters()})
    moved = {n: float((ends[1][n] - ends[0][n]).abs().mean()) for n in ends[0]}
    assert moved["4.weight"] > 2 * max(moved["0.weight"], moved["2.weight"])
