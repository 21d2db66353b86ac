"""The page in a real browser: content, filters, keyboard, no console errors, no requests."""

import shutil

import pytest
from report_samples import HOSTILE, make_comparison, questions

from holdfast.report.compare_page import write_compare_report
from holdfast.tasks.base import Task

WIDTHS = (390, 820, 1440)
PATIENCE = 180_000
"""Milliseconds: the machine may be busy."""


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as playwright:
        try:
            place = shutil.which("chromium") or shutil.which("google-chrome")
            found = playwright.chromium.launch(
                executable_path=place, args=["--no-sandbox"], timeout=PATIENCE
            )
        except api.Error as error:
            pytest.skip(f"no Chromium: {str(error).splitlines()[0]}")
        yield found
        found.close()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    tasks = ["colour", *(h for h in HOSTILE if len(h) < 150)]
    found = make_comparison(
        tasks, n=12, reply=lambda i: HOSTILE[i % len(HOSTILE)], base=HOSTILE[0], tuned=HOSTILE[1]
    )
    said = {"colour": "Is it there?"}
    asked = [
        Task(t, tuple(questions(t, 12, said.get(t, "\n".join(HOSTILE))).values())) for t in tasks
    ]
    return write_compare_report(folder, found, asked)


@pytest.fixture
def opened(browser, page_file):
    """A page, and what it asked for and complained of."""
    heard = []
    context = browser.new_context(viewport={"width": WIDTHS[0], "height": 800})
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.on("request", lambda r: heard.append(r.url) if not r.url.startswith("data:") else None)
    page.on("console", lambda m: heard.append(m.text))
    page.on("pageerror", lambda e: heard.append(str(e)))
    page.goto(page_file.as_uri())
    heard.remove(page_file.as_uri())
    yield page, heard
    context.close()


def test_nothing_is_asked_said_or_run(opened):
    page, heard = opened
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    page.wait_for_timeout(100)
    assert heard == []
    assert page.evaluate("window.hacked") is None
    assert page.locator("main script").count() == 0


def test_no_width_cuts_anything_off(opened):
    page, _ = opened
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_filters(opened):
    page, _ = opened
    shown = "article.example:not([hidden])"
    assert page.locator(shown).count() == 40
    page.get_by_role("button", name="Show more examples").click()
    assert page.locator(shown).count() > 40
    page.select_option("select[name=task]", label="colour")
    tasks = page.locator(shown).evaluate_all("all => all.map(e => e.dataset.task)")
    assert set(tasks) == {"0"}
    for name in ("gained", "kept", "missed"):
        box = page.locator(f"input[value={name}]")
        if box.count():
            box.uncheck()
    kinds = page.locator(shown).evaluate_all("all => all.map(e => e.dataset.became)")
    assert set(kinds) == {"lost"}
    assert page.locator("output").inner_text() == f"{len(kinds)} shown"
    page.fill("input[type=search]", "no such words")
    assert page.locator(shown).count() == 0
    assert page.locator(".empty").is_visible()
    page.fill("input[type=search]", "IS IT there")
    assert page.locator(shown).count() == len(kinds)


def test_by_keyboard(opened):
    page, _ = opened
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_a_command_is_copied(opened):
    page, _ = opened
    box = page.locator("[data-command]").last
    box.get_by_role("button").click()
    page.wait_for_function("document.querySelector('[role=status]:not(:empty)')")
    assert "cop" in box.locator("[role=status]").inner_text()


def luminance(colour):
    parts = [float(v) / 255 for v in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(browser, page_file, scheme):
    context = browser.new_context(color_scheme=scheme)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto(page_file.as_uri())
    found = page.evaluate(
        """() => [...document.querySelectorAll("h1,p,th,td,dt,dd,a,label,code,summary,button")]
        .filter(e => e.checkVisibility()).map(e => {
            const canvas = document.createElement("canvas").getContext("2d");
            const rgb = colour => { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
                return "rgb(" + canvas.getImageData(0, 0, 1, 1).data.slice(0, 3).join(",") + ")"; };
            let below = e;
            while (below && getComputedStyle(below).backgroundColor === "rgba(0, 0, 0, 0)")
                below = below.parentElement;
            return [rgb(getComputedStyle(e).color), rgb(getComputedStyle(below).backgroundColor)];
        })"""
    )
    context.close()
    assert len(found) > 50
    for ink, paper in {tuple(pair) for pair in found}:
        a, b = sorted((luminance(ink), luminance(paper)), reverse=True)
        assert (a + 0.05) / (b + 0.05) >= 4.5, (ink, paper)


def test_without_javascript_everything_is_there(browser, page_file):
    context = browser.new_context(java_script_enabled=False)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto(page_file.as_uri())
    assert page.locator("article.example").count() > 40
    assert page.locator("form.filters").is_hidden()
    context.close()
