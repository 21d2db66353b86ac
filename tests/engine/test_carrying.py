"""What pieces carry over stages: through the engine, over a kill, against loops by hand."""

import json

import pytest
import torch
from engine_tools import collate, examples, llama, values

import holdfast
from holdfast.carried import AGAIN, MEMORY, Ended
from holdfast.config import Train
from holdfast.engine import carrying
from holdfast.engine.preflight import preflight
from holdfast.engine.stage import train_stage
from holdfast.errors import ConfigError, PlanConflict, RunError
from holdfast.methods import plan
from holdfast.models.saving import tensors_of
from holdfast.plan import NEW, source_id

torch.set_num_threads(1)


def two_stages(methods, tmp_path, *, model=None, sizes=(12, 16), **settings):
    """Train two stages as a run does; returns the model and the second stage's plan."""
    made = plan(methods)
    model = model or llama()
    stages = [examples(n, seed=k) for k, n in enumerate(sizes)]
    folder = None
    for stage, rows in enumerate(stages, 1):
        now = carrying.recall(made, folder)
        trained = train_stage(
            now, model, rows, collate,
            Train(**{"learning_rate": 1e-3, "steps": 3, "batch_size": 4, **settings}),
            folder=tmp_path / f"checkpoints{stage}", seed=stage, base_weights={},
            advance=lambda done, total: None, note=lambda row: None,
            sources=carrying.rehearsed(now, stages[: stage - 1]),
        )  # fmt: skip
        model = trained.model.eval()
        ended = Ended(stage, 0, model, tuple(trained.changed), rows, collate, stages[: stage - 1])
        folder = tmp_path / f"stage{stage}"
        carrying.keep(now, ended, folder)
    return model, now


def equal(a, b, atol=0.0):
    for (name, x), (_, y) in zip(a.named_parameters(), b.named_parameters(), strict=True):
        torch.testing.assert_close(x, y, atol=atol, rtol=0, msg=name)


def differ(a, b):
    return any(not torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


PLAIN = {  # settings that turn a method off
    "der:alpha=0,beta=0": "mlp",
    "ewc:weight=0": "mlp",
    "mas:weight=0": "mlp",
    "l2-sp:weight=0": "mlp",
    "refresh:gamma=0,examples=2": "mlp",
    "refresh:form=code,delta=0,examples=2": "mlp",
}


def test_what_is_turned_off_is_plain_tuning_to_the_bit(tmp_path):
    plain, _ = two_stages("mlp", tmp_path / "plain")
    for k, method in enumerate(PLAIN):
        off, _ = two_stages(["mlp", method], tmp_path / str(k))
        equal(off, plain)
    on, _ = two_stages(["mlp", "der"], tmp_path / "on")
    assert differ(on, plain)


def test_refresh_plugs_into_der_and_is_der_without_a_step(tmp_path):
    dark, _ = two_stages(["mlp", "der"], tmp_path / "a")
    off, _ = two_stages(["mlp", "der", "refresh:gamma=0,examples=2"], tmp_path / "b")
    equal(off, dark)
    on, _ = two_stages(["mlp", "der", "refresh:gamma=1e-4,examples=2"], tmp_path / "c")
    assert differ(on, dark)


def looking(made, model, batches, tmp_path, sources=None):
    """A trainer under a plan, and a step that is about to be made of ``batches``."""
    from transformers import Trainer, TrainingArguments

    from holdfast.carried import Ahead
    from holdfast.engine import ahead, with_plan

    arguments = TrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, report_to="none", learning_rate=0.1
    )
    base = with_plan(Trainer, made)
    trainer = type("Fed", (base,), {"reads_feed": True, "gather_loss": True})(
        model=model, args=arguments
    )
    return trainer, Ahead(
        trainer.model, trainer.bound.parameters(), list(batches), 0.1,
        lambda passes: ahead.gradients(trainer, passes),
        lambda passes: ahead.losses(trainer, passes),
    )  # fmt: skip


def tagged(rows, source=NEW):
    batch = collate(rows)
    batch["source"] = torch.full((len(rows),), source_id(source))
    batch["example"] = torch.arange(len(rows))
    return batch


def token_mean(model, batches):
    """The mean cross-entropy over all answer tokens of some batches."""
    total, count = 0.0, 0
    for b in batches:
        logits = model(b["input_ids"], attention_mask=b["attention_mask"]).logits[:, :-1]
        labels = b["labels"][:, 1:]
        total = total + torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), reduction="sum", ignore_index=-100
        )
        count += int((labels != -100).sum())
    return total / count


def test_refresh_by_its_formula_step_by_step(tmp_path):
    """theta + gamma g / (damping + F), twice; the loss goes up; the noise has its variance."""
    model, batches = llama(), [tagged(examples(3)), tagged(examples(5, seed=4))]
    made = plan(["gate-up", "refresh:gamma=0.5,repeats=2,noise=false,damping=2"])
    fisher = {
        n: torch.rand(p.shape, generator=torch.Generator().manual_seed(1))
        for n, p in model.named_parameters()
        if "gate_proj" in n
    }
    (piece,) = (u.recall(fisher) for u in made.update)
    trainer, step = looking(made, model, batches, tmp_path)
    hand = llama()
    before = token_mean(hand, batches)
    for _ in range(2):
        named = {n: p for n, p in hand.named_parameters() if n in trainer.bound.trainable}
        found = torch.autograd.grad(token_mean(hand, batches), list(named.values()))
        with torch.no_grad():
            for (name, p), g in zip(named.items(), found, strict=True):
                p += 0.5 * g / (2 + fisher.get(name, torch.zeros_like(p)))
    piece.look_ahead(step)
    equal(model, hand, atol=2e-6)
    assert token_mean(model, batches) > before
    noisy = plan("refresh:gamma=1e-2,damping=3").update[0]
    where = torch.zeros(20000)
    moved = noisy._paper("unknown", where, torch.zeros(20000))
    assert moved.std().item() == pytest.approx((2 * 1e-2 / 3) ** 0.5, rel=0.03)


def test_the_step_after_a_refresh_descends_the_penalised_loss():
    """On a quadratic, g(theta + gamma F^-1 g) is the gradient of L + gamma/2 g^T F^-1 g."""
    g = torch.Generator().manual_seed(0)
    half = torch.randn(4, 4, generator=g, dtype=torch.float64)
    h, f = half @ half.T, torch.rand(4, generator=g, dtype=torch.float64)
    theta = torch.randn(4, generator=g, dtype=torch.float64, requires_grad=True)
    piece = plan("refresh:gamma=0.1,noise=false,damping=0.5").update[0].recall({"w": f})
    slope = (h @ theta).detach()
    moved = theta.detach() + piece._paper("w", theta.detach(), slope)
    penalised = theta @ h @ theta / 2 + 0.05 * ((h @ theta).square() / (0.5 + f)).sum()
    torch.testing.assert_close(h @ moved, torch.autograd.grad(penalised, theta)[0])


def test_mir_replays_what_the_step_would_harm(tmp_path):
    """Against one virtual step by hand; what is left out of the step has no part in it."""
    model = llama()
    new, old = tagged(examples(4)), tagged(examples(9, seed=5), MEMORY)
    made = plan(["gate-up", "mir:candidates=9,share=0.5"])
    trainer, step = looking(made, model, [new, old], tmp_path)
    start = values(model)
    hand = llama()
    named = {n: p for n, p in hand.named_parameters() if n in trainer.bound.trainable}
    found = torch.autograd.grad(token_mean(hand, [new]), list(named.values()))

    def each():
        return torch.stack([token_mean(hand, [collate([r])]) for r in examples(9, seed=5)]).detach()

    before = each()
    with torch.no_grad():
        for p, g in zip(named.values(), found, strict=True):
            p -= 0.1 * g
    rises = each() - before
    got = made.feed.rises(step)[1]
    torch.testing.assert_close(got, rises, atol=2e-6, rtol=1e-3)
    made.feed.look_ahead(step)
    assert all(torch.equal(p, start[n]) for n, p in model.named_parameters())
    assert set(step.batches[1]["example"].tolist()) == set(rises.topk(2).indices.tolist())
    assert len(step.batches[0]["input_ids"]) == 4
    still = plan(["gate-up", "mir:candidates=9,rate=1e-30"])
    assert not torch.cat(still.feed.rises(step)).any()


def test_mir_replays_a_class_that_conflicts_more_than_its_share(tmp_path):
    """Four of twelve remembered examples have the prompts of the new ones, and other answers."""
    new = examples(4)
    old = [{k: v.clone() for k, v in row.items()} for row in new] + examples(8, seed=5)
    for row in old[:4]:
        answered = row["labels"] != -100
        row["labels"][answered] = (row["labels"][answered] + 30) % 62 + 1
    model = llama().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(40):  # it knows what it remembers
        optimizer.zero_grad()
        token_mean(model, [tagged(old)]).backward()
        optimizer.step()
    made = plan(["gate-up", "mir:candidates=12,share=1.0"])
    _, step = looking(made, model.eval(), [tagged(new), tagged(old, MEMORY)], tmp_path)
    made.feed.look_ahead(step)
    chosen = step.batches[1]["example"].tolist()
    assert len(chosen) == 4
    assert sum(i < 4 for i in chosen) >= 3  # by chance 1.3 of them


def test_dark_replay_is_a_loop_by_hand(tmp_path):
    """Stored logits, and each term's mean over its own positions of the step."""
    _, now = two_stages(["mlp", "der"], tmp_path, steps=1)
    rows = examples(12, seed=0)
    piece = next(t for t in now.learn if t.name == "stored-logits")
    assert len(piece.held["places"]) == 12
    first = llama()
    made = plan("mlp")
    train_stage(
        made, first, rows, collate, Train(learning_rate=1e-3, steps=1, batch_size=4),
        folder=tmp_path / "again", seed=1, base_weights={}, advance=lambda d, t: None,
        note=lambda row: None,
    )  # fmt: skip
    for k, row in enumerate(rows):
        wanted = row["labels"][1:] != -100
        logits = first.eval()(row["input_ids"][None]).logits[0, :-1][wanted]
        part = piece.held["logits"][piece.held["starts"][k] : piece.held["starts"][k + 1]]
        torch.testing.assert_close(part, logits.detach(), atol=1e-5, rtol=0)
    # the second stage's loss at its first step, of a model that is where the first stage ended
    batches = [
        tagged(examples(4, seed=1)), tagged(rows[2:5], MEMORY), tagged(rows[6:8], AGAIN)
    ]  # fmt: skip
    batches[1]["example"] += 2
    trainer, step = looking(now, llama(3), batches, tmp_path / "step")
    got = step.gradients(batches)
    hand = llama(3)
    named = {n: p for n, p in hand.named_parameters() if n in trainer.bound.trainable}
    dark, count = 0.0, 0
    for k in (2, 3, 4):
        wanted = rows[k]["labels"][1:] != -100
        logits = hand(rows[k]["input_ids"][None]).logits[0, :-1][wanted]
        part = piece.held["logits"][piece.held["starts"][k] : piece.held["starts"][k + 1]]
        dark, count = dark + (logits - part).square().mean(-1).sum(), count + len(logits)
    loss = token_mean(hand, batches[:1]) + 0.1 * dark / count + 0.5 * token_mean(hand, batches[2:])
    for (name, g), own in zip(
        got.items(), torch.autograd.grad(loss, list(named.values())), strict=True
    ):
        torch.testing.assert_close(g, own, atol=1e-6, rtol=1e-4, msg=name)


def test_a_file_that_is_gone_is_named(tmp_path):
    made = plan(["mlp", "ewc:examples=2"])
    with pytest.raises(RunError, match=r"ewc\.safetensors is missing or damaged.*done\.json"):
        carrying.recall(made, tmp_path)
    assert carrying.recall(made, None).learn[0].importances == {}


def test_two_pieces_of_one_name_are_refused():
    with pytest.raises(PlanConflict, match="2 pieces called 'refresh'"):
        carrying.remembering(plan("refresh") | plan("refresh"))
    with pytest.raises(PlanConflict, match=r"'ewc'.*'lora' freezes them"):
        plan(["ewc", "lora"])


@pytest.fixture
def files(tmp_path):
    for name in ("first", "second"):
        rows = [{"question": f"{name} {i}?", "answer": f"word {i % 5}"} for i in range(16)]
        text = "".join(json.dumps(r) + "\n" for r in rows)
        (tmp_path / f"{name}.jsonl").write_text(text)
    return tmp_path


METHODS = ["last-1", "der:capacity=6,top=4", "ewc:examples=3", "refresh:examples=3"]


def settings(files, out):
    return {
        "model": "lab:lm",
        "data": [str(files / "first.jsonl"), str(files / "second.jsonl")],
        "methods": METHODS,
        "out": str(files / out),
        "train": {"steps": 2, "batch_size": 4, "learning_rate": 1e-3},
        "evaluate": {"limit": 2},
    }


def run(config):
    return holdfast.tune(
        config["model"], config["data"], config["methods"], out=config["out"],
        evaluate=config["evaluate"], **config["train"],
    )  # fmt: skip


def test_a_run_that_was_killed_goes_on_with_the_same_numbers(files, monkeypatch):
    from holdfast.engine import tune as module

    whole = run(settings(files, "whole"))
    names = {p.stem for p in (whole.path / "stages" / "01" / "carried").iterdir()}
    assert names == {"rehearse", "stored-logits", "ewc", "refresh"}
    real = module.train_stage
    calls = []

    def killed(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(module, "train_stage", killed)
    with pytest.raises(KeyboardInterrupt):
        run(settings(files, "cut"))
    cut = run(settings(files, "cut"))
    assert len(calls) == 3
    a, b = tensors_of(whole.model), tensors_of(cut.model)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[n], b[n]) for n in a)


def test_preflight_counts_the_memory(files):
    from holdfast.config import resolve

    checked = preflight(resolve(settings(files, "dry")))
    drawn = [s for step in checked.schedules[1].steps for s, _ in step]
    assert drawn.count(MEMORY) == drawn.count(AGAIN) == 2 * 4
    assert MEMORY not in [s for step in checked.schedules[0].steps for s, _ in step]
    told = settings(files, "dry2")
    told["data"] = [{"data": told["data"][0], "sources": {"memory": told["data"][1]}}]
    with pytest.raises(ConfigError, match="gives the source 'memory'"):
        preflight(resolve(told))
