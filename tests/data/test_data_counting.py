"""The dry run's counts, and what it refuses."""

from __future__ import annotations

import subprocess
import sys

import pytest
from data_tokenizers import CHATML, chatml

from holdfast.data import Encoder, Record, read, say, survey
from holdfast.data.counting import EncodedSet
from holdfast.errors import DataError, UsageError


@pytest.fixture
def encoder():
    tokenizer = chatml()
    tokenizer.chat_template = CHATML
    return Encoder(tokenizer)


def pair(answer: str, name: str) -> Record:
    return Record((say("user", "How many?"), say("assistant", answer)), id=name)


def test_counts_are_sums_over_records(encoder):
    records = [pair(a, a) for a in ("14", "blue or green", "no")]
    seen = []
    found = survey(records, encoder, progress=lambda done, total: seen.append((done, total)))
    singles = [encoder(r) for r in records]
    counts = [int((e["labels"] != -100).sum()) for e in singles]
    assert found.records == 3
    assert found.supervised == sum(counts)
    assert (found.supervised_min, found.supervised_max) == (min(counts), max(counts))
    assert found.supervised_mean == pytest.approx(sum(counts) / 3)
    assert found.tokens == sum(len(e["input_ids"]) for e in singles)
    assert found.longest == max(len(e["input_ids"]) for e in singles)
    assert (found.images, found.image_tokens, found.truncated) == (0, 0, 0)
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert any(f"{found.supervised:,} supervised tokens" in line for line in found.lines())
    for kept, single in zip(found.encoded, singles, strict=True):
        assert kept["labels"].tolist() == single["labels"].tolist()


def test_truncated_records_are_counted(encoder):
    records = [pair("no", "a"), pair("blue or green " * 9, "b")]
    short = Encoder(encoder.processor, max_length=40)
    assert survey(records, short).truncated == 1


def test_records_without_supervised_tokens_are_refused_by_name(encoder):
    unanswered = Record((say("user", "Why?"),), id="quiet\x1b")
    with pytest.raises(DataError) as error:
        survey([pair("a", "a"), unanswered, *[unanswered] * 12], encoder)
    text = str(error.value)
    assert "13 records that cannot be used" in text
    assert "no assistant turn" in text
    assert r"quiet\x1b" in text
    assert text.count("quiet") == 10
    assert len(error.value.problems) == 13
    with pytest.raises(UsageError, match="no records"):
        survey([], encoder)


def test_encodings_are_kept_within_bounds(encoder):
    calls = []

    class Counting(Encoder):
        def encode(self, record):
            calls.append(record.id)
            return super().encode(record)

    counting = Counting(encoder.processor)
    records = [pair("a", "0"), pair("b", "1")]
    size = sum(t.numel() * t.element_size() for t in encoder(records[0]).values())
    kept = EncodedSet(records, counting, memory=size)
    for _ in range(2):
        list(kept)
    assert calls == ["0", "1", "1"]
    assert len(kept[:2]) == 2
    assert kept[-1]["input_ids"].tolist() == encoder(records[1])["input_ids"].tolist()
    with pytest.raises(IndexError):
        kept[2]


def test_reading_to_training_examples(encoder, tmp_path):
    (tmp_path / "d.jsonl").write_text('{"prompt": "Why?", "completion": "No."}\n')
    data = read(tmp_path / "d.jsonl")
    assert survey(data, encoder).records == 1
    with pytest.raises(DataError, match=r"d\.jsonl"):
        survey(data, Encoder(encoder.processor, max_length=4))


def test_data_imports_neither_torch_nor_transformers():
    code = (
        "import sys, holdfast.data as d; d.read([{'text': 'a'}]);"
        "print({'torch', 'transformers', 'datasets', 'pyarrow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
