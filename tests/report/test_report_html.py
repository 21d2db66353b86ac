"""The page's markup: what is in it, what cannot be, and that it is the same twice."""

import base64
import hashlib
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_samples import HOSTILE, drift, make_comparison, make_run, picture, questions

from holdfast.changes.compare import keep
from holdfast.changes.kept import read_comparison
from holdfast.errors import RunError, UsageError
from holdfast.measures.interval import Estimate
from holdfast.report import plots, svg
from holdfast.report.blocks import Document, Facts, Heat, Prose, Section
from holdfast.report.compare_page import compare_document, write_compare_report
from holdfast.report.examples import MOST, SIDE, gallery
from holdfast.report.folders import report
from holdfast.report.html import render
from holdfast.report.run import summary_of, write_report
from holdfast.report.trained import tensors_table


class Reader(HTMLParser):
    """What a browser would see: elements in order, text by element, and faults of nesting."""

    VOID = frozenset(("meta", "link", "img", "input", "br"))

    def __init__(self, page):
        super().__init__()
        self.open, self.elements, self.words, self.faults = [], [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(tag)

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.words.append(data)

    def all(self, tag):
        return [a for t, a in self.elements if t == tag]

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(autouse=True)
def _no_waiting_for_disks(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    real, os.fsync = os.fsync, lambda handle: None
    folder = tmp_path_factory.mktemp("run") / "run"
    made = make_run(folder, ["count", "clock"], ["colour", "shape"], curve=True)
    drift(folder)
    write_report(made)
    os.fsync = real
    return made


def test_a_runs_page_says_everything(run):
    page = Reader((run.path / "report.html").read_text(encoding="utf-8"))
    assert not page.faults
    assert not page.open
    summary = summary_of(run)
    assert page.text.index("learned +") < page.text.index("Learned and lost")
    for k, task in ((2, "colour"), (0, "shape"), (1, "count")):
        assert f"{summary.matrix().score(k, task):.1f}" in page.text
    for words in ("min-ACC", "KL 0.25", "holdfast tune --config", "abababababab"):
        assert words in page.text
    headings = [t for t, _ in page.elements if re.fullmatch(r"h[1-6]", t)]
    assert headings.count("h1") == 1
    assert headings[0] == "h1"
    links = {a["href"] for a in page.all("a")}
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert {f"#{i}" for i in ids} >= links
    assert len(set(ids)) == len(ids)
    assert all(a.get("alt") for a in page.all("img"))
    drawings = [a for a in page.all("svg") if a.get("role") == "img"]
    assert len(page.all("desc")) == len(page.all("title")) - 1 == len(drawings)


def test_nothing_is_asked_from_outside(run):
    text = (run.path / "report.html").read_text(encoding="utf-8")
    page = Reader(text)
    addresses = [
        value
        for _, a in page.elements
        for key, value in a.items()
        if key in ("src", "href", "srcset", "action", "poster", "data", "xlink:href")
    ]
    assert all(value.startswith(("#", "data:")) for value in addresses), addresses
    assert "@import" not in text
    assert "url(" not in text
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv"))
    assert "default-src 'none'" in policy
    for tag in ("script", "style"):
        (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.S)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert not [a for _, a in page.elements if "style" in a or any(k.startswith("on") for k in a)]


def test_the_same_run_gives_the_same_bytes(run):
    first = (run.path / "report.html").read_bytes()
    write_report(run)
    assert (run.path / "report.html").read_bytes() == first
    assert len(first) < 3_000_000


def test_hostile_text_is_only_text():
    tasks = [h for h in HOSTILE if len(h) < 150]
    found = make_comparison(
        tasks, n=24, reply=lambda i: HOSTILE[i % len(HOSTILE)], base=HOSTILE[0], tuned=HOSTILE[1]
    )
    asked = {t: questions(t, 24, "\n".join(HOSTILE)) for t in tasks}
    text = render(compare_document(found, asked))
    text.encode("utf-8")
    page = Reader(text)
    assert not page.faults
    assert len(page.all("script")) == 1
    assert not [a for a in page.all("img") if not a["src"].startswith("data:image/")]
    assert not [a for _, a in page.elements if any(k.startswith("on") for k in a)]
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00-\x08\x0b-\x1f\x7f]", text)
    assert "<script>window.hacked=1</script>" in page.text
    assert "\\u202e" in page.text
    assert "\\ud800" in page.text
    assert "{{ 7 * 7 }}" in page.text


def test_a_megabyte_is_cut():
    found = make_comparison(["t"], n=6, reply=lambda i: "<b>" * 400_000)
    text = render(compare_document(found))
    assert len(text) < 200_000
    assert "(1,200,000 characters)" in text


def test_examples_are_chosen_in_turn_and_images_fit():
    found = make_comparison(["a", "b"], n=400)
    asked = {t: questions(t, 400) for t in ("a", "b")}
    shown = gallery(found.answers, asked)
    by_kind = {k: [e for e in shown.shown if e.became == k] for k in MOST}
    assert {k: len(v) for k, v in by_kind.items()} == {
        k: min(n, shown.counts.get(k, 0)) for k, n in MOST.items()
    }
    lost = [e.task for e in by_kind["lost"]]
    assert lost.count("a") == lost.count("b")
    assert all(e.question.startswith("Is it there?") for e in shown.shown)
    import io

    from PIL import Image

    data = base64.b64decode(shown.shown[0].images[0].partition(",")[2])
    with Image.open(io.BytesIO(data)) as copy:
        assert max(copy.size) == SIDE
    assert len(render(compare_document(found, asked))) < 3_000_000


def test_images_stop_where_the_page_is_full(monkeypatch):
    from holdfast.report import examples

    monkeypatch.setattr(examples, "BYTES", 1)
    album = examples._Album(left=1)
    assert album.copies([picture("red")]) == []


def test_one_task_without_anything_held_out(tmp_path):
    page, _, _ = write_report(make_run(tmp_path / "r", ["count"], [], n=6))
    text = Reader(page.read_text(encoding="utf-8")).text
    assert "nothing is known about forgetting" in text
    assert "nan" not in text.lower()


def test_several_runs_make_one_page(tmp_path):
    for k, name in enumerate(("a", "b")):
        make_run(tmp_path / name, ["count"], ["x", "y"], n=10, seed=k)
    page = report([tmp_path / "a", tmp_path / "b"], tmp_path / "both")
    text = Reader(page.read_text(encoding="utf-8")).text
    assert "gate-up (a)" in text
    assert "Every task in every run" in text
    assert {p.suffix for p in page.parent.iterdir()} >= {".html", ".md", ".json", ".svg", ".png"}
    with pytest.raises(UsageError, match="--out"):
        report([tmp_path / "a", tmp_path / "b"])


def test_a_kept_comparison_is_read_back(tmp_path):
    found = make_comparison(["a", "b c"], n=12)
    keep(found, tmp_path)
    again = read_comparison(tmp_path)
    assert again.to_json() == found.to_json()
    assert again.answers == found.answers
    assert render(compare_document(again)) == render(compare_document(found))
    page = write_compare_report(tmp_path, found)
    assert report([tmp_path]) == page
    for picture_file in ("changes.png", "changes.svg"):
        assert (tmp_path / picture_file).exists() == plots.available()
    assert (tmp_path / "report.md").read_text().startswith("# base and tuned")
    kept = json.loads((tmp_path / "compare.json").read_text())
    del kept["tasks"][0]["lost"]
    (tmp_path / "compare.json").write_text(json.dumps(kept))
    with pytest.raises(RunError, match="is damaged"):
        report([tmp_path])


def test_an_unfinished_run_is_named(tmp_path):
    run = make_run(tmp_path / "r", ["count"], [], n=3)
    (run.path / "finished.json").unlink()
    with pytest.raises(RunError, match="holdfast watch"):
        report([run.path])
    with pytest.raises(RunError, match=re.escape("no run.yaml")):
        report([Path(tmp_path / "none")])


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [([0, 1], 0, 1), ([-3.2, 8], -5, 10), ([5], 4, 6), ([], 0, 1), ([float("nan"), 2, 40], 0, 40)],
)
def test_an_axis_holds_its_values(values, low, high):
    found = svg.axis(values)
    assert (found.low, found.high) == (low, high)
    assert [found.at(found.low), found.at(found.high)] == [0, 100]


def test_shades():
    heat = Heat("t", "task", ["x"], [])
    found = [heat.shade(v) for v in (0, 9.9, 55, 100, float("nan"))]
    assert found == ["h0", "h0", "h5", "h9", "none"]
    change = Heat("t", "task", ["x"], [], -20, 20, diverging=True)
    assert [change.shade(v) for v in (-20, -1, 0, 12)] == ["l5", "none", "none", "g3"]


def test_tensors_are_grouped():
    grid = tensors_table((f"m.layers.{k}.mlp.up.weight", (4, 8)) for k in (0, 1, 2, 5))
    assert grid.rows == (("m.layers.*.mlp.up.weight", "0-2, 5", "4 x 8", "4", "128"),)


def test_numbers_have_a_minus_sign():
    page = Document(
        "t", "a", "v", sections=[Section("s", "S", [Prose("-3"), Facts([("x", "-3")])])]
    )
    assert "−3" not in render(page)
    assert svg.number(-0.04) == "0.0"
    assert svg.number(-2.25) == "−2.2"
    assert "aria-hidden" in svg.interval(Estimate(-1.0, -2.0, 0.0), svg.axis([-2, 1]), "lost")
