"""``holdfast order``: what is written, and that it goes on."""

import json

import pytest

from holdfast.cli import main
from holdfast.data import read
from holdfast.errors import UsageError
from holdfast.ordering import order


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pool")
    rows = [{"prompt": f"What is {i}?", "completion": f"{i * i}", "tag": i} for i in range(7)]
    (folder / "pool.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "good.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows[:2]))
    return folder


def written(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_are_written_as_they_stood_with_the_score_beside(pool, tmp_path):
    found = order(pool / "pool.jsonl", model="lab:lm", score="ppl", order="ascending",
                  out=tmp_path / "o.jsonl")  # fmt: skip
    rows = written(found.out)
    assert [r["ppl"] for r in rows] == sorted(found.scores)
    assert sorted(r.pop("tag") for r in rows) == list(range(7))
    assert set(rows[0]) == {"prompt", "completion", "ppl"}
    assert [r.answer() for r in read(found.out)] == [r["completion"] for r in rows]
    facts = json.loads(found.provenance.read_text())
    assert facts["records"] == facts["written"] == 7
    assert facts["scorer"] == "ppl"
    again = order(pool / "pool.jsonl", model="lab:lm", score="ppl", order="fold:2", select=0.5,
                  out=tmp_path / "o.jsonl", progress=NoModel())  # fmt: skip
    assert again.scores == found.scores
    low = sorted(range(7), key=lambda i: found.scores[i])[:3]
    assert again.order == [low[0], low[2], low[1]]


class NoModel:
    """Fails where a bar would begin: the second call computes nothing."""

    def say(self, text):
        assert "kept" in text

    def bar(self, label):
        raise AssertionError(label)


def test_the_command_writes_lqs(pool, tmp_path, capsys):
    code = main(
        ["order", str(pool / "pool.jsonl"), "--model", "lab:lm", "--target",
         str(pool / "good.jsonl"), "--score", "lqs:steps=2,interval=1,batch=2", "--scope",
         "language[-1].mlp.down", "--out", str(tmp_path / "o.jsonl"), "--json"]
    )  # fmt: skip
    printed = capsys.readouterr()
    assert code == 0, printed.err
    said = json.loads(printed.out)
    assert said["settings"]["steps"] == 2
    assert len(written(tmp_path / "o.jsonl")) == 7
    assert not list((tmp_path / "o.scores" / "work").glob("*.safetensors"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"score": "lqs"}, "--target"),
        ({"score": "pl"}, "did you mean 'ppl'"),
        ({"score": "ppl:steps=3"}, "setting of 'ppl'"),
        ({"score": "learnability:steps=x"}, "steps='x'"),
        ({"score": "ppl", "order": "folds"}, "did you mean 'fold'"),
        ({"score": "ppl", "select": 0.0}, "above 0"),
        ({"score": "ppl", "column": "tag"}, "--column"),
        ({"score": "ppl", "out": "o.csv"}, "JSON Lines"),
    ],
)
def test_what_cannot_be_is_said_before_a_model_loads(pool, tmp_path, wrong, message):
    wrong = {"out": tmp_path / "o.jsonl", **wrong}
    with pytest.raises(UsageError, match=message.replace("--", "")):
        order(pool / "pool.jsonl", model="no/such-model", **wrong)
    assert not list(tmp_path.glob("o.scores"))
