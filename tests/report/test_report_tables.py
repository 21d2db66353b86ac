"""Tables, verdicts and the escaping of names."""

import math

import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from holdfast.measures.interval import Estimate
from holdfast.measures.pareto import Matched
from holdfast.report import tables
from holdfast.report.rows import RecipeRow, labels
from holdfast.report.text import markdown, paragraph
from holdfast.text import safe_text

NAN = math.nan
HOSTILE = [
    "<script>alert(1)</script>",
    "a|b|c",
    "![x](http://evil.example/p.png)",
    "[click](javascript:alert(1))",
    "<http://evil.example>",
    "**bold** _it_ ~~gone~~ `code`",
    "two\nlines\r\n# heading",
    "\x1b[31mred\x1b[0m",
    "back\\slash & ampersand",
    "gate\u202epu",
]


LEARNED, LOST = Estimate(52, 49.1, 54.7, 90), Estimate(-3.1, -5.2, -1.0, 300)


def row(learned=LEARNED, forgetting=LOST, **more):
    return RecipeRow("gate-up", learned, forgetting, **more)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            row(),
            "gate-up learned +52.0 points [49.1, 54.7] and lost 3.1 points [1.0, 5.2] of what the "
            "model could do before.",
        ),
        (
            row(forgetting=Estimate(0.6, 0.1, 1.2, 9)),
            "gate-up learned +52.0 points [49.1, 54.7] and gained 0.6 points [0.1, 1.2] on what "
            "the model could do before.",
        ),
        (
            row(forgetting=Estimate(-0.4, -1.3, 0.5, 9)),
            "gate-up learned +52.0 points [49.1, 54.7] and lost 0.4 points [-0.5, 1.3] of what "
            "the model could do before, which these examples cannot tell from nothing.",
        ),
        (
            row(Estimate(1.0, -2, 3, 9), Estimate(NAN)),
            "gate-up learned +1.0 points [-2.0, 3.0], which these examples cannot tell from "
            "nothing, and what the model could do before was not measured.",
        ),
        (
            row(Estimate(NAN), Estimate(-100.0, n=1)),
            "gate-up was not measured on what it was taught and lost 100.0 points (n=1) of what "
            "the model could do before.",
        ),
    ],
)
def test_the_verdict_is_a_sentence(given, expected):
    assert tables.verdict(given) == expected


def test_the_comparison_shows_losses_as_positive_and_gaps_as_dashes():
    grid = tables.comparison([row(trained=1234567, share=52.13, seconds=200.4), row()])
    assert grid.rows[0] == (
        "gate-up",
        "+52.0 [49.1, 54.7]",
        "3.1 [1.0, 5.2]",
        "1,234,567",
        "52.1%",
        "3 min 20 s",
    )
    assert grid.rows[1][3:] == ("-", "-", "-")


def test_recipes_that_occur_twice_are_told_apart_by_learning_rate():
    assert labels([row(lr=1e-3), row(lr=3e-4)]) == ["gate-up @ 0.001", "gate-up @ 0.0003"]
    assert labels([row(lr=1e-3)]) == ["gate-up"]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(NAN, "-"), (4.23, "4.2 s"), (59.7, "1 min 0 s"), (3599.6, "1 h 0 min"), (7500, "2 h 5 min")],
)
def test_durations(seconds, expected):
    assert tables.duration(seconds) == expected


def test_matched_learning_has_a_column_per_level_and_no_extrapolation():
    rows = [
        Matched("full", 20.0, Estimate(-9, -10, -8, 3)),
        Matched("full", 10.0, Estimate(-4, -5, -3, 3)),
        Matched("gate-up", 10.0, Estimate(-1, -2, 0, 3)),
        Matched("gate-up", 20.0, Estimate(NAN)),
    ]
    grid = tables.matched(rows)
    assert grid.header == ("recipe", "at +10.0", "at +20.0")
    assert grid.rows[0] == ("full", "4.0 [3.0, 5.0]", "9.0 [8.0, 10.0]")
    assert grid.rows[1] == ("gate-up", "1.0 [0.0, 2.0]", "-")


def rendered(text):
    """What a reader of Markdown sees, and the tags that were made."""
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    kinds, shown = set(), []
    for token in parser.parse(text):
        kinds.add(token.type)
        for child in token.children or []:
            kinds.add(child.type)
            shown.append(child.content)
    return "".join(shown), kinds


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_shown_and_does_nothing(name):
    shown, kinds = rendered(paragraph(name))
    assert shown == safe_text(name)
    assert kinds <= {"paragraph_open", "inline", "paragraph_close", "text", "text_special"}
    grid = tables.Grid("t", ("recipe", "x"), ((name, "1"),))
    shown, kinds = rendered(grid.markdown())
    assert shown == f"recipex{safe_text(name)}1"
    assert not kinds & {"html_inline", "html_block", "image", "link_open", "code_inline"}


@pytest.mark.parametrize(
    "note", ["- a", "+ a", "1. a", "2) a", "---", "===", "    code", "> q", "# h"]
)
def test_a_note_is_one_paragraph_whatever_it_begins_with(note):
    shown, kinds = rendered("before\n\n" + paragraph(note))
    assert shown == "before" + note.strip()
    assert kinds <= {"paragraph_open", "inline", "paragraph_close", "text", "text_special"}


def test_addresses_are_not_made_into_links():
    assert "://" not in markdown("https://evil.example")
    assert "@" not in markdown("a@evil.example")


def test_the_terminal_gets_no_control_characters_and_no_markup():
    grid = tables.Grid("[red]t", ("[bold]a", "b"), (("\x1b[31mred\u202e [link=x]y[/link]", "1"),))
    console = Console(width=100, record=True, force_terminal=False)
    with console.capture() as capture:
        console.print(grid.rich())
    text = capture.get()
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert r"\x1b[31mred\u202e [link=x]y[/link]" in text
    assert "[red]t" in text
