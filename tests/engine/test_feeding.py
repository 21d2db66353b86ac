"""What a stage reads: whole epochs, any step after any kill, and no number that a cut changes."""

import random

import pytest
import torch
from engine_tools import collate, examples, llama, train, values
from test_stage import Killed
from torch.nn import functional as F
from transformers import TrainerCallback

from holdfast.config import Train
from holdfast.engine import stage as stage_module
from holdfast.engine.feeding import Collate, Passes, Sources, schedule
from holdfast.engine.stage import train_stage
from holdfast.errors import ConfigError
from holdfast.methods import plan
from holdfast.pieces.distill import CrossEntropy, Distill
from holdfast.pieces.feeds import Mixed, Shuffled, draws
from holdfast.plan import NEW, Plan, source_id

SETTINGS = {"learning_rate": 1e-2, "batch_size": 8}
PLAIN = Plan(name="mlp", train="language.mlp")
OPTIONS = [
    {},
    {"batch_by": "tokens"},
    {"bucket_steps": 4},
    {"batch_by": "tokens", "bucket_steps": 4},
]


def skewed(n=60, seed=0, most=60):
    """Lognormal lengths, each with its own number of supervised tokens."""
    rng, g = random.Random(seed), torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(n):
        length = min(most, 4 + int(rng.lognormvariate(2.5, 0.7)))
        ids = torch.randint(1, 64, (length,), generator=g)
        labels = ids.clone()
        labels[: rng.randint(1, length - 1)] = -100
        rows.append({"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)})
    return rows


def supervised(row):
    return int((row["labels"][1:] != -100).sum())


def planned(rows, *, seed=0, made=PLAIN, others=None, world=1, packed=False, device="cpu", **more):
    settings = Train(**{**SETTINGS, **more})
    return schedule(
        made, Sources(rows, others), settings, seed=seed, world=world, packed=packed, device=device
    )


@pytest.mark.parametrize("options", OPTIONS)
def test_epochs_are_permutations_but_for_the_cut_at_their_ends(options):
    """60 examples in steps of about 8: an epoch's end lies inside a step."""
    rows = skewed(60)
    order = [i for step in planned(rows, steps=24, **options).steps for _, i in step]
    seen = [order.count(i) for i in range(60)]
    assert max(seen) - min(seen) <= 1
    first = [i for step in planned(rows, steps=8, **options).steps for _, i in step][: 60 + 16]
    assert set(range(60)) - set(first) == set()


@pytest.mark.parametrize("options", OPTIONS)
def test_a_schedule_is_a_function_of_the_seed(options):
    rows = skewed()
    one, again = planned(rows, steps=10, **options), planned(rows, steps=10, **options)
    assert one.steps == again.steps
    assert [one[k] for k in range(len(one))] == [again[k] for k in reversed(range(len(one)))][::-1]
    assert one.steps != planned(rows, steps=10, seed=1, **options).steps


@pytest.mark.parametrize("options", OPTIONS[:2])
def test_a_longer_run_begins_like_a_shorter_one(options):
    rows = skewed()
    assert planned(rows, steps=20, **options).steps[:9] == planned(rows, steps=9, **options).steps


def test_the_plain_order_is_the_endless_run_of_epochs():
    rows = skewed(20)
    steps = planned(rows, seed=3, steps=6).steps
    assert [i for step in steps for _, i in step] == draws(20, 48, 3)
    assert draws(20, 5, 3, start=17) == draws(20, 48, 3)[17:22]


@pytest.mark.parametrize("options", [{}, {"bucket_steps": 4}])
def test_a_step_has_the_supervised_tokens_that_were_asked_for(options):
    rows = skewed(60)
    target = 8 * sum(map(supervised, rows)) / 60
    longest = max(map(supervised, rows))
    made = planned(rows, steps=30, batch_by="tokens", **options)
    counts = [sum(supervised(rows[i]) for _, i in step) for step in made.steps]
    window = 1 if not options else 2  # a window's own share is off by as much as its ends
    assert all(abs(c - target) <= window * longest for c in counts)
    assert len({len(step) for step in made.steps}) > 1
    assert abs(sum(counts) - 30 * target) <= longest


def test_buckets_over_steps_save_padding_and_leave_the_steps_sizes():
    rows = skewed(64)
    plain, sorted_ = planned(rows, epochs=1), planned(rows, epochs=1, bucket_steps=8)
    assert len(plain.steps) == len(sorted_.steps) == 8
    assert {len(s) for s in sorted_.steps} == {8}
    assert sorted_.tokens()[0] == plain.tokens()[0]
    assert sorted_.padding < 0.6 * plain.padding


def test_padding_is_what_the_batches_hold():
    rows = skewed(24)
    made = planned(rows, steps=3, micro_batch_size=2)
    read = Passes(made)
    batches = [Collate(collate)([read[k]]) for k in range(len(read))]
    real, total = made.tokens()
    assert real == sum(int(b["attention_mask"].sum()) for b in batches)
    assert total == sum(b["input_ids"].numel() for b in batches)
    assert made.padding == pytest.approx(1 - real / total)


def test_passes_are_cut_where_it_saves_and_the_device_stays_busy():
    long, even = skewed(64, most=60), examples(64)
    long = [{k: v.repeat(8) for k, v in row.items()} for row in long]
    assert planned(long, steps=4, batch_size=32).passes > 1
    assert planned(long, steps=4, batch_size=32, device="cuda").passes == 1
    assert planned(even, steps=4, batch_size=32).passes == 1  # too few tokens to cut
    same = [{k: v[:1].repeat(200) for k, v in row.items()} for row in even]
    assert planned(same, steps=4, batch_size=32).passes == 1  # nothing to save
    assert planned(long, steps=4, batch_size=32, micro_batch_size=4).passes == 8


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("packed", [False, True])
def test_devices_share_each_step(world, packed):
    rows = skewed(40)
    alone = planned(rows, steps=4, micro_batch_size=2)
    shared = planned(rows, steps=4, micro_batch_size=2, world=world, packed=packed)
    per_step = shared.passes * world
    for s, step in enumerate(alone.steps):
        parts = [shared[s * per_step + k] for k in range(per_step)]
        assert sorted(d for part in parts for d in part) == sorted(step)
        assert max(map(len, parts)) <= shared.largest <= 2
        assert all(parts)


def gradient(rows, folder, **settings):
    notes = []
    model = llama()
    train(model, settings.pop("methods", "mlp"), folder, data=rows, note=notes.append, **settings)
    return notes, values(model)


@pytest.mark.parametrize("methods", ["mlp", ["mlp", "lwf:positions=all_text"]])
def test_cuts_by_length_change_no_number(tmp_path, methods):
    rows = skewed(16)
    settings = {"steps": 3, "batch_size": 16, "methods": methods}
    whole, end = gradient(rows, tmp_path / "a", **settings)
    for micro in (1, 2, 4):
        cut, other = gradient(rows, tmp_path / f"{micro}", micro_batch_size=micro, **settings)
        assert cut[0]["loss"] == pytest.approx(whole[0]["loss"], abs=1e-5)
        assert cut[0]["grad_norm"] == pytest.approx(whole[0]["grad_norm"], rel=1e-4)
        for name in end:
            torch.testing.assert_close(other[name], end[name], rtol=0, atol=5e-5, msg=name)


def test_two_sources_in_stated_shares():
    own, general = skewed(12), skewed(5, seed=9)
    feed = Mixed({"general": 0.25})
    made = planned(own, made=Plan(name="x", train="all", feed=feed), others={"general": general},
                   epochs=2)  # fmt: skip
    assert len(made.steps) == 2 * 12 // 6
    for step in made.steps:
        assert [source for source, _ in step].count("general") == 2
    for name, n in (("general", 5), (NEW, 12)):
        order = [i for step in made.steps for source, i in step if source == name]
        for start in range(0, len(order) - n + 1, n):
            assert sorted(order[start : start + n]) == list(range(n))


def test_terms_read_their_own_source(tmp_path):
    """One step against the loss written down: CE on the new data + 0.3 CE on the general."""
    own, general = skewed(6), skewed(4, seed=5)
    terms = (
        CrossEntropy(source=NEW),
        CrossEntropy(name="general", source="general", weight=0.3),
    )
    object.__setattr__(terms[1], "fits", False)
    feed = Mixed({"general": 0.25})
    made = Plan(name="two", train="language", feed=feed, learn=terms)
    notes = []
    settings = Train(learning_rate=1e-3, steps=1, batch_size=8, warmup=0.0, micro_batch_size=2)
    train_stage(
        made, llama(), own, collate, settings, folder=tmp_path, seed=4, base_weights={},
        advance=lambda a, b: None, note=notes.append, sources={"general": general},
    )  # fmt: skip
    step = feed({NEW: 6, "general": 4}, 0, 8, 4)
    plain, total = llama(), 0.0
    for source, rows, weight in ((NEW, own, 1.0), ("general", general, 0.3)):
        batch = collate([rows[i] for name, i in step if name == source])
        logits = plain(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        total = total + weight * F.cross_entropy(
            logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=-100
        )
    assert notes[0]["loss"] == pytest.approx(total.item(), abs=1e-5)
    total.backward()
    wanted = sum(
        p.grad.pow(2).sum() for n, p in plain.named_parameters() if p.grad is not None
    ).sqrt()
    assert notes[0]["grad_norm"] == pytest.approx(wanted.item(), rel=1e-4)


def test_batches_say_where_their_rows_are_from():
    own, general = skewed(6), skewed(3, seed=1)
    made = planned(own, made=Plan(name="x", train="all", feed=Mixed({"general": 0.5})),
                   others={"general": general}, steps=2, micro_batch_size=4)  # fmt: skip
    read = Passes(made)
    for k in range(len(read)):
        batch = Collate(collate)([read[k]])
        for row, (source, index) in enumerate(made[k]):
            assert batch["source"][row] == source_id(source)
            assert batch["example"][row] == index
            length = int(batch["attention_mask"][row].sum())
            data = {NEW: own, "general": general}[source]
            assert torch.equal(batch["input_ids"][row, :length], data[index]["input_ids"])
    wanted = Distill(source="general").positions(batch)
    assert wanted[batch["source"] == 0].sum() == 0
    assert wanted[batch["source"] != 0].sum() > 0


@pytest.mark.parametrize(
    ("made", "others", "settings", "message"),
    [
        (PLAIN, {"general": skewed(3)}, {}, "has the source 'general', and 'mlp' does not read"),
        (Plan(name="x", train="all", feed=Mixed({"old": 0.1})), {}, {}, "reads the source 'old'"),
        (Plan(name="x", train="all", feed=Mixed({"old": 0.1})), {"old": []}, {}, "no examples of"),
        (Plan(name="x", train="all", feed=Mixed({"old": 1.0})), {"old": skewed(3)}, {}, "none for"),
        (Plan(name="x", train="all", feed=Shuffled()), {}, {"bucket_steps": 2}, "bucket_steps=2"),
        (Plan(name="x", train="all", feed=Shuffled()), {}, {"batch_by": "tokens"}, "batch_by=tok"),
        (PLAIN, {}, {"batch_size": 2, "world": 4}, "2 examples cannot be shared by 4 devices"),
    ],
)
def test_what_does_not_go_together_is_refused(made, others, settings, message):
    with pytest.raises(ConfigError, match=message):
        planned(skewed(8), made=made, others=others, **settings)


@pytest.mark.parametrize(
    "case",
    [
        {"micro_batch_size": 2},
        {"batch_by": "tokens", "bucket_steps": 3},
        {"feed": Mixed({"general": 0.25})},
    ],
)
def test_killed_and_resumed_reads_the_same(tmp_path, case, monkeypatch):
    case = dict(case)
    feed = case.pop("feed", None)
    sources = {"general": skewed(5, seed=2)} if feed else None
    made = plan(["mlp"]) if feed is None else Plan(name="fed", train="language.mlp", feed=feed)

    def go(folder):
        notes = []
        model = llama()
        train_stage(
            made, model, skewed(20), collate,
            Train(**SETTINGS, steps=8, save_every=3, **case), folder=folder, seed=1,
            base_weights={}, advance=lambda a, b: None, note=notes.append, sources=sources,
        )  # fmt: skip
        return values(model)

    class Kill(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 5:
                raise Killed

    whole = go(tmp_path / "whole")
    real = stage_module.Watch
    monkeypatch.setattr(
        stage_module,
        "Watch",
        lambda *a: type("W", (real, Kill), {"on_step_end": Kill.on_step_end})(*a),
    )
    with pytest.raises(Killed):
        go(tmp_path / "cut")
    monkeypatch.setattr(stage_module, "Watch", real)
    again = go(tmp_path / "cut")
    assert all(torch.equal(whole[n], again[n]) for n in whole)


def test_a_users_own_trainer_cannot_be_fed(tmp_path):
    from transformers import Trainer, TrainingArguments

    from holdfast import with_plan
    from holdfast.errors import UsageError

    made = Plan(name="fed", train="language.mlp", feed=Mixed({"general": 0.5}))
    with pytest.raises(UsageError, match=r"'fed' sets which examples are read.*holdfast tune"):
        with_plan(Trainer, made)(
            model=llama(), args=TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
        )
