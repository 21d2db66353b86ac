"""Tasks by name, and evaluate from a file to scored answers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from task_models import asking, image

from holdfast.data import say
from holdfast.data.records import Record
from holdfast.errors import DataError, UnknownName, UsageError
from holdfast.progress import Progress
from holdfast.tasks import Example, Task, evaluate, generate, load_task, task_from_records

Rows = list[dict[str, Any]]
Write = Callable[[Rows], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def rows_to_file(rows: Rows) -> str:
        path = tmp_path / "birds.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return rows_to_file


def test_a_users_file_is_a_task(write: Write) -> None:
    rows: Rows = [
        {"messages": [say_row("user", "how many"), say_row("assistant", "7")], "cluster": "a"},
        {"question": "and now", "answers": ["2", "two"], "id": "second"},
    ]
    path = write([{"question": "how many", "answer": "7", "cluster": "a"}, rows[1]])
    (task,) = load_task(f"{path}:scorer=integer,max_new_tokens=5")
    assert (task.name, task.ask, task.scorer) == ("birds", "generate", "integer")
    assert task.max_new_tokens == 5
    assert [e.id for e in task.examples] == ["birds.jsonl:1", "second"]
    assert [e.references for e in task.examples] == [("7",), ("2", "two")]
    assert [e.cluster for e in task.examples] == ["a", ""]
    assert task.examples[0].prompt.messages[-1].role == "user"
    path = write(rows[:1])
    (task,) = load_task(path)
    assert task.examples[0].references == ("7",)
    assert task.scorer == "exact"


def say_row(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def test_choices_make_a_likelihood_task(write: Write) -> None:
    path = write(
        [{"prompt": "2+2=", "completion": "4", "choices": ["5", "4"]}] * 1
        + [{"prompt": "1+2=", "completion": "3", "choices": ["3", "4"], "references": ["3", "III"]}]
    )
    (task,) = load_task(path)
    assert task.ask == "choices"
    assert task.examples[0].choices == ("5", "4")
    (task,) = load_task(f"{path}:ask=generate")
    assert task.ask == "generate"
    (task,) = load_task(f"{path}:length_normalised=true,name=sums", limit=1)
    assert (task.name, task.length_normalised, len(task.examples)) == ("sums", True, 1)


def test_rows_that_name_their_scorer_become_tasks_of_their_own(write: Write) -> None:
    path = write(
        [
            {"question": "is it", "answer": "yes", "scorer": "yes_no"},
            {"question": "how many", "answer": "7", "scorer": "integer"},
            {"question": "was it", "answer": "no", "scorer": "yes_no"},
        ]
    )
    tasks = load_task(path)
    assert [(t.name, t.scorer, len(t.examples)) for t in tasks] == [
        ("birds[yes_no]", "yes_no", 2),
        ("birds[integer]", "integer", 1),
    ]
    (task,) = load_task(f"{path}:scorer=exact")
    assert len(task.examples) == 3


def test_ten_references_keep_their_number_with_the_answer_in_front(write: Write) -> None:
    answers = ["cat"] * 4 + ["dog"] * 6
    path = write([{"question": "what", "answer": "dog", "answers": answers}])
    (task,) = load_task(f"{path}:scorer=vqa")
    assert task.examples[0].references[0] == "dog"
    assert sorted(task.examples[0].references) == sorted(answers)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (
            [{"question": "a", "answer": "1", "id": "x"}, {"question": "b", "answer": "2"}] * 2,
            "",
            "line 3: the id 'x' is that of line 1 too",
        ),
        ([{"question": "a", "answer": "blue"}], ":scorer=integer", "line 1: .*cannot read.*blue"),
        (
            [{"question": "a", "answer": "c", "choices": ["a", "b"]}],
            "",
            "line 1: the answer 'c' is not among the choices",
        ),
        (
            [{"question": "a", "answer": "b", "choices": ["b", "b"]}],
            "",
            "line 1: choices are .*two or more different",
        ),
        ([{"question": "a", "answer": "b", "choices": []}], "", "line 1: choices is "),
        ([{"text": "once upon a time"}], "", "line 1: it is plain text and asks nothing"),
        (
            [{"messages": [{"role": "user", "content": "well?"}]}],
            "",
            "line 1: there is no answer",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_line(
    write: Write, rows: Rows, options: str, message: str
) -> None:
    path = write(rows)
    with pytest.raises(DataError, match=message) as caught:
        load_task(path + options)
    assert path in str(caught.value)
    assert caught.value.problems


def test_all_problems_are_reported_the_first_ten_shown(write: Write) -> None:
    path = write([{"question": "a", "answer": "blue"}] * 30)
    with pytest.raises(DataError, match="30 problems") as caught:
        load_task(f"{path}:scorer=integer")
    assert len(caught.value.problems) == 30
    assert str(caught.value).count("cannot read") == 10


def test_unknown_names_get_the_nearest(write: Write) -> None:
    path = write([{"question": "a", "answer": "1"}])
    with pytest.raises(UnknownName, match="no scorer 'intger'; did you mean 'integer'"):
        load_task(f"{path}:scorer=intger")
    with pytest.raises(UnknownName, match="no task option 'scorr'; did you mean 'scorer'"):
        load_task(f"{path}:scorr=integer")
    with pytest.raises(UnknownName, match="did you mean 'lab:count'"):
        load_task("lab:coumt")
    with pytest.raises(UnknownName, match="no task 'sepcies'"):
        load_task("sepcies")
    with pytest.raises(DataError, match="no data file"):
        load_task("nowhere/birds.jsonl")
    with pytest.raises(UsageError, match="max_new_tokens='many' is not a whole number"):
        load_task(f"{path}:max_new_tokens=many")
    with pytest.raises(UsageError, match="ask='choose'; there is: generate, choices"):
        load_task(f"{path}:ask=choose")
    with pytest.raises(UsageError, match="limit=0"):
        load_task(path, limit=0)


def test_a_file_whose_name_looks_like_options_is_still_a_file(tmp_path: Path) -> None:
    path = tmp_path / "run:seed=1.jsonl"
    path.write_text('{"question": "a", "answer": "1"}\n')
    (task,) = load_task(path)
    assert len(task.examples) == 1


def test_records_in_memory_are_a_task() -> None:
    records = [
        Record((say("user", "how many"), say("assistant", "7")), id=f"r{i}") for i in range(3)
    ]
    task = task_from_records("held back", records, scorer="integer")
    assert [e.id for e in task.examples] == ["r0", "r1", "r2"]
    long = Record((say("user", "tell"), say("assistant", "x" * 90)), id="long")
    assert task_from_records("t", [*records, long]).max_new_tokens == 91
    with pytest.raises(DataError, match="no records"):
        task_from_records("t", [])
    same = image((1, 2, 3))
    pictures = [
        Record((say("user", None, "what"), say("assistant", "a")), (picture,), id=str(i))
        for i, picture in enumerate((same, image((9, 9, 9)), same))
    ]
    first, second, third = (e.cluster for e in task_from_records("t", pictures).examples)
    assert first == third != second


def test_the_labs_names() -> None:
    (task,) = load_task("lab:count", limit=3, seed=1)
    assert len(task.examples) == 3
    assert load_task("lab:count", limit=3, seed=1)[0].examples == task.examples
    with pytest.raises(UsageError, match="depends on the model"):
        load_task("lab:held-out")
    tasks = load_task("lab:held-out", model="lab:vlm", limit=1)
    assert len(tasks) >= 8
    assert all(t.name.startswith("lab:") for t in tasks)


def test_evaluate_keeps_every_answer_in_order(llama: Any, tokenizer: Any) -> None:
    texts = ["what is this", "no", "the colour of this bird is red " * 3, "A B", "yes"]
    prompts = [asking(t, str(i)) for i, t in enumerate(texts)]
    replies = generate(llama, tokenizer, prompts, max_new_tokens=6)
    pairs = zip(prompts, replies, strict=True)
    spoken = [Example(p.id, p, (r or "x",)) for p, r in pairs]
    wrong = [Example(e.id, e.prompt, ("7",)) for e in spoken]
    chosen = [Example(e.id, e.prompt, ("red",), ("red", "blue bird", "no"), "c") for e in spoken]
    seen: list[str] = []
    results = evaluate(
        llama,
        tokenizer,
        [
            Task("said", spoken, scorer="exact", max_new_tokens=6),
            Task("numbers", wrong, scorer="integer", max_new_tokens=6),
            Task("chosen", chosen, ask="choices"),
        ],
        batch_size=2,
        on_result=lambda result: seen.append(result.task),
    )
    assert seen == ["said", "numbers", "chosen"]
    for result in results:
        assert [a.id for a in result.answers] == ["0", "1", "2", "3", "4"]
    assert [a.reply for a in results[0].answers] == replies
    assert results[0].score == 100
    unread = [a for a in results[1].answers if a.parsed is None]
    assert results[1].unparsed == 100 * len(unread) / 5
    assert all(a.score == 0 for a in unread)
    for answer in results[2].answers:
        best = max(range(3), key=lambda i: answer.logprobs[i])
        assert answer.reply == ("red", "blue bird", "no")[best]
        assert answer.score == (answer.reply == "red")
        assert answer.cluster == "c"


def test_length_normalisation_divides_by_bytes(llama: Any, tokenizer: Any) -> None:
    choices = ("x", " the colour of this bird is é")
    example = Example("0", asking("what"), ("x",), choices)
    (plain,) = evaluate(llama, tokenizer, [Task("t", [example], ask="choices")])
    (normal,) = evaluate(
        llama, tokenizer, [Task("t", [example], ask="choices", length_normalised=True)]
    )
    values = plain.answers[0].logprobs
    assert normal.answers[0].logprobs == values
    shares = [v / len(c.encode()) for v, c in zip(values, choices, strict=True)]
    assert plain.answers[0].reply == choices[values.index(max(values))]
    assert normal.answers[0].reply == choices[shares.index(max(shares))]
    assert plain.answers[0].reply != normal.answers[0].reply


def test_a_limit_takes_the_first(llama: Any, tokenizer: Any) -> None:
    examples = [Example(str(i), asking("what"), ("7",)) for i in range(4)]
    (result,) = evaluate(llama, tokenizer, [Task("t", examples, max_new_tokens=2)], limit=2)
    assert [a.id for a in result.answers] == ["0", "1"]


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([], "it has no example"),
        ([Example("x", asking("a"), ("1",))] * 2, "x: the id is there twice"),
        ([Example("x", asking("a"), ())], "x: there is no reference answer"),
        ([Example("x", asking("a"), ("blue",))], "x: the scorer 'integer' cannot read"),
    ],
)
def test_tasks_that_cannot_be_asked_are_refused_before_any_is(
    llama: Any, tokenizer: Any, examples: list[Example], message: str
) -> None:
    fine = Task("fine", [Example("0", asking("a"), ("1",))], scorer="integer")
    bars: list[str] = []

    class Watch(Progress):
        def bar(self, label: str) -> Any:
            bars.append(label)
            return super().bar(label)

    with pytest.raises(DataError, match=message):
        evaluate(
            llama,
            tokenizer,
            [fine, Task("bad", examples, scorer="integer")],
            progress=Watch(),
        )
    assert bars == []


def test_names_and_scorers_are_there_without_torch() -> None:
    code = (
        "import sys, holdfast.tasks as t; t.SCORERS['letter']; "
        "from holdfast.tasks import load_task, Task; "
        "print([m for m in ('torch', 'transformers', 'lm_eval') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
