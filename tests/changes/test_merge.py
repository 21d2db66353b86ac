"""Merging finished models: written shard by shard, compared with merging in memory."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import holdfast
from holdfast.changes.merge import merge
from holdfast.cli import main
from holdfast.errors import ConfigError, ModelError, UnknownName, UsageError
from holdfast.pieces.merging import TaskVectors

sys.path.insert(0, str(Path(__file__).parent.parent / "repair"))
from repair_world import make_model, make_tokenizer, save

torch.set_num_threads(1)


def _weights(model):
    return {n: p.detach().clone() for n, p in model.named_parameters()}


def _world(folder, count=3, **kinds):
    """A base and models that each changed the MLPs of one block and all of them the head."""
    base = make_model(**kinds)
    names = [save(base, folder / "base")]
    for i in range(count):
        model = make_model(**kinds)
        torch.manual_seed(i)
        with torch.no_grad():
            for name, p in model.named_parameters():
                if f"layers.{i}.mlp" in name or "lm_head" in name:
                    p += 0.1 * torch.randn_like(p)
        names.append(save(model, folder / f"m{i}"))
    return [str(n) for n in names]


def _in_memory(how, base, models):
    """Over the weights that some model changed, which are all that trimming counts."""
    values = [_weights(holdfast.load(m)[0]) for m in (base, *models)]
    names = [n for n in values[0] if any(not torch.equal(v[n], values[0][n]) for v in values[1:])]

    def read(name):
        return values[0][name], [v[name] for v in values[1:]]

    how = how.survey(names, read)
    return values[0] | {n: how(n, *read(n)) for n in names}


HOWS = {
    "ties:density=0.3,scale=0.8": TaskVectors(density=0.3, scale=0.8, elect=True),
    "task-arithmetic:scale=0.4": TaskVectors(scale=0.4),
    "dare-ties:drop=0.5,seed=4": TaskVectors(drop=0.5, seed=4, elect=True),
}


@pytest.mark.parametrize("text", HOWS)
def test_what_is_streamed_is_what_merging_in_memory_gives(tmp_path, text):
    base, *models = _world(tmp_path)
    merge(base, models, tmp_path / "delta", how=text)
    merge(base, models, tmp_path / "full", how=text, full=True)
    wanted = _in_memory(HOWS[text], base, models)
    for place in ("delta", "full"):
        found = _weights(holdfast.load(tmp_path / place)[0])
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[n], wanted[n]) for n in wanted)


def test_a_soup_of_one_model_twice_tied_weights_and_a_delta(tmp_path):
    base, one, two, _ = _world(tmp_path, tied=True)
    merge(base, [one], tmp_path / "one")
    wanted, found = (_weights(holdfast.load(p)[0]) for p in (one, tmp_path / "one"))
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[n], wanted[n]) for n in wanted)
    merge(base, [str(tmp_path / "one"), two], tmp_path / "both", how="soup", weights=[0.25, 0.75])
    found, other = (_weights(holdfast.load(p)[0]) for p in (tmp_path / "both", two))
    for n in wanted:
        torch.testing.assert_close(found[n], 0.25 * wanted[n] + 0.75 * other[n])


def test_half_precision_is_merged_in_float32(tmp_path):
    base, *models = _world(tmp_path, dtype=torch.bfloat16)
    merge(base, models, tmp_path / "out", full=True)
    values = [_weights(holdfast.load(m)[0]) for m in models]
    found = _weights(holdfast.load(tmp_path / "out")[0])
    for name in found:
        exact = sum(v[name].float() for v in values) / 3
        torch.testing.assert_close(found[name], exact.bfloat16().float(), atol=0, rtol=2**-7)


def test_models_of_another_kind_are_refused_before_weights_are_read(tmp_path, monkeypatch):
    base, one, *_ = _world(tmp_path, 1)
    model = make_model()
    wider = model.config.to_dict() | {"vocab_size": 60}
    sized = LlamaForCausalLM(LlamaConfig(**wider))
    other = make_tokenizer()
    vocabulary = json.loads(other.backend_tokenizer.to_str())
    words = vocabulary["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    save(sized, tmp_path / "sized")
    save(model, tmp_path / "words")
    (tmp_path / "words" / "tokenizer.json").write_text(json.dumps(vocabulary))
    save(make_model(tied=True), tmp_path / "tied")
    save(make_model(), tmp_path / "kind")
    config = json.loads((tmp_path / "kind" / "config.json").read_text())
    config |= {"model_type": "mistral", "architectures": ["MistralForCausalLM"]}
    (tmp_path / "kind" / "config.json").write_text(json.dumps(config))

    def never(*args, **kwargs):
        raise AssertionError("weights were read")

    monkeypatch.setattr("holdfast.changes.merge.many.open_ends", never)
    for name, said in {
        "sized": r"shape \[41, 48\] in the base .* and \[60, 48\]|shape",
        "words": "different vocabularies: '[ab]' is token",
        "tied": r"no weight 'lm_head\.weight'",
        "kind": "'mistral' model and the base .* a 'llama' one",
    }.items():
        with pytest.raises(ModelError, match=said):
            merge(base, [one, str(tmp_path / name)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_lacks_a_tensor(tmp_path):
    from safetensors.torch import load_file, save_file

    base, one, *_ = _world(tmp_path, 1)
    file = Path(one) / "model.safetensors"
    held = load_file(file)
    del held["model.layers.1.mlp.up_proj.weight"]
    save_file(held, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.up_proj"):
        merge(base, [one], tmp_path / "out")


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"how": "tise"}, UnknownName, "ties"),
        ({"how": "ties:density=2"}, ConfigError, "less than or equal to 1"),
        ({"how": "ties:dense=1"}, UnknownName, "density"),
        ({"weights": [0.5, 0.6]}, UsageError, "sum to 1.1"),
        ({"how": "ties", "weights": [1.0]}, UsageError, "1 weights were given for 2"),
        ({"how": "slerp", "weights": [0.5, 0.5]}, UsageError, "t is its setting"),
        ({"how": "greedy-soup"}, UsageError, "--tasks"),
        ({"how": "soup", "tasks": ["x"]}, UsageError, "leave out --tasks"),
        ({"how": "lm-cocktail"}, UsageError, "--data"),
    ],
)
def test_what_cannot_be_is_said_before_a_model_is_looked_for(tmp_path, settings, error, said):
    with pytest.raises(error, match=said):
        merge("nowhere", ["a", "b"], tmp_path / "out", **settings)


def test_the_command(tmp_path, capsys):
    base, one, two, three = _world(tmp_path)
    out = tmp_path / "out"
    arguments = ["merge", base, one, two, "--how", "slerp:t=0", "-o", str(out), "--json"]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["changed"] == 7
    found, wanted = (_weights(holdfast.load(p)[0]) for p in (out, one))
    assert all(torch.equal(found[n], wanted[n]) for n in found)
    assert main(arguments) == 0  # the same again, over itself
    assert main(["merge", base, one, two, three, "--how", "slerp", "-o", str(out)]) == 2
    assert "two models" in capsys.readouterr().err
    assert main(["merge", base, one, "-o", one]) == 2
    assert "holds other things" in capsys.readouterr().err


def _write(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def test_lm_cocktail_and_greedy_soup_prefer_who_knows(tmp_path):
    from repair_world import KNOWN

    base, *_ = _world(tmp_path, 0)
    broken = make_model()
    with torch.no_grad():
        broken.lm_head.weight.mul_(-3)
    spoiled = str(save(broken, tmp_path / "broken"))
    sure = make_model()
    with torch.no_grad():
        sure.lm_head.weight.mul_(2)
    better = str(save(sure, tmp_path / "sure"))
    rows = [{"question": q, "answer": a} for q, a in KNOWN.items()]
    data = _write(tmp_path / "known.jsonl", rows)
    found = merge(
        base, [spoiled, better], tmp_path / "mix", how="lm-cocktail:temperature=0.5", data=[data]
    )
    losses = torch.tensor([found.asked[n] for n in (base, spoiled, better)])
    shares = torch.softmax(-losses / 0.5, 0)
    assert torch.tensor([found.weights[n] for n in (base, spoiled, better)]).tolist() == (
        pytest.approx(shares.tolist(), abs=1e-5)
    )
    assert losses[2] < losses[0] < losses[1]
    chosen = merge(base, [spoiled, better], tmp_path / "greedy", how="greedy-soup", tasks=[data])
    assert chosen.weights == {spoiled: 0.0, better: 1.0}
    assert chosen.asked[better] > chosen.asked[spoiled]


@pytest.mark.parametrize("size", [1, 2])
def test_the_loss_of_lm_cocktail_is_that_of_transformers(tmp_path, size):
    """Of examples padded together, as the authors' code asks with batches of 2."""
    from repair_world import KNOWN

    from holdfast.data import Encoder, collate, read

    base, one, *_ = _world(tmp_path, 1)
    rows = [{"question": q, "answer": a} for q, a in list(KNOWN.items())[:5]]
    rows[0]["answer"] += " and more"
    data = _write(tmp_path / "known.jsonl", rows)
    how = f"lm-cocktail:batch={size}"
    found = merge(base, [one], tmp_path / "mix", how=how, data=[data]).asked[one]
    model, tokenizer = holdfast.load(one)
    encoder = Encoder(tokenizer)
    items = [encoder(record) for record in read(data)]
    told = []
    with torch.no_grad():
        for i in range(0, len(items), size):
            batch = collate(items[i : i + size], pad_id=encoder.pad_id)
            told.append(float(model(**batch).loss))
    assert found == pytest.approx(sum(told) / len(told), rel=1e-5)


def test_a_soup_that_scores_the_same_is_left_as_it_was_in_the_authors_code(monkeypatch):
    from holdfast.changes.merge import chosen
    from holdfast.changes.merge.hows import Greedy
    from holdfast.progress import Progress

    asked = {"a": 0.5, "b": 0.7, "c": 0.6}
    soups = {(1, 2): 0.7, (0, 1, 2): 0.6, (0, 1): 0.8}
    made = []

    def score(name, tasks, limit):
        return [SimpleNamespace(score=asked.get(name) or soups[made[-1]])]

    def keep(soup, facts):
        made.append(tuple(i for i, share in enumerate(soup.weights) if share))

    monkeypatch.setattr(chosen, "evaluate_model", score)
    monkeypatch.setattr(chosen, "write", lambda *args: None)
    for compat, told in ((False, (0, 0.5, 0.5)), (True, (0.5, 0.5, 0))):
        how, many = Greedy(code_compat=compat), SimpleNamespace(made=keep)
        soup, _ = chosen.greedy(many, "abc", ["t"], how, limit=None, progress=Progress())
        assert soup.weights == told
