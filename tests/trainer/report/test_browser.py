"""The page as a person sees it, in Chromium: on a phone and a desktop, light and dark, by mouse, for axe."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.trainer import runs
from tests.trainer.report.conftest import Ranked

api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is missing")

PHONE, DESKTOP = 390, 1280
# What sticks out of the window, and is neither in a table that scrolls nor drawn.
CUT_OFF = """() => [...document.body.querySelectorAll("*")]
    .filter((e) => !e.closest(".scroll") && !e.closest("svg") && !e.closest(".hidden"))
    .filter((e) => e.getBoundingClientRect().right > innerWidth + 1 || e.scrollWidth > e.clientWidth + 1
        && getComputedStyle(e).overflowX !== "visible")
    .map((e) => e.outerHTML.slice(0, 100))"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, of the system or playwright's own."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = next(filter(None, map(shutil.which, names)), None)
    with api.sync_playwright() as playwright:
        if found is None and not Path(playwright.chromium.executable_path).exists():
            pytest.skip(
                "no Chromium on this machine: apt-get install chromium, or playwright install chromium"
            )
        # Without its sandbox, which root cannot have: what it opens is our own file.
        chromium = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@dataclass
class Opened:
    """A page that is open, what it has said on the console, and what it has asked for."""

    page: Any
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def view(browser: Any, page_file: Path) -> Iterator[Any]:
    """A function that opens the page of the runs."""
    contexts = []

    def show(width: int, scheme: str, *, policy: bool = True) -> Opened:
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=not policy
        )
        contexts.append(context)
        opened = Opened(context.new_page())
        opened.page.on("console", lambda message: opened.said.append(message.text))
        opened.page.on("pageerror", lambda error: opened.said.append(str(error)))
        opened.page.on("request", lambda request: opened.asked.append(request.url))
        opened.page.goto(page_file.as_uri())
        opened.page.locator(".chart .trace").last.wait_for()
        return opened

    yield show
    for context in contexts:
        context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_nothing_is_cut_off_or_asked_for(view: Any, page_file: Path, width: int, scheme: str) -> None:
    opened = view(width, scheme)
    assert opened.page.evaluate(CUT_OFF) == []
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    assert opened.said == []
    assert [url for url in opened.asked if not url.startswith("data:")] == [page_file.as_uri()]


@pytest.mark.parametrize(("width", "scheme"), [(PHONE, "dark"), (DESKTOP, "light")])
def test_axe_finds_nothing(view: Any, width: int, scheme: str) -> None:
    opened = view(width, scheme, policy=False)  # axe is a script that the page's own policy would not run
    found = axe.Axe().run(opened.page)
    assert found.violations_count == 0, found.generate_report()


def test_values_are_shown_on_hover(view: Any, ranked: list[Ranked]) -> None:
    page = view(DESKTOP, "light").page
    chart = page.locator("figure", has_text="Validation NDCG@10").locator(".chart")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    page.mouse.move(box["x"] + 0.9 * box["width"], box["y"] + 0.5 * box["height"])
    shown = chart.locator(".hoverlayer .legend")
    shown.wait_for()
    *_, last = [record for record in runs.records(ranked[0].path) if record.get("split") == "valid"]
    text = shown.text_content()
    assert f"step {last['step']}" in text and f"{last['ndcg@10']:.4f}" in text, text


def test_tables_are_sorted(view: Any) -> None:
    page = view(DESKTOP, "light").page
    table = page.locator("table", has_text="Metrics").first
    head = table.locator("thead th").first

    def values() -> list[float]:
        cells = table.locator("tbody td:nth-child(2)")
        return [float(text) for text in cells.evaluate_all("all => all.map((cell) => cell.dataset.order)")]

    before = values()
    head.locator("button").click()
    assert values() == sorted(before, reverse=True) and head.get_attribute("aria-sort") == "descending"
    head.locator("button").press("Enter")
    assert values() == sorted(before) and head.get_attribute("aria-sort") == "ascending"


def test_charts_follow_the_system_to_the_dark(view: Any) -> None:
    page = view(DESKTOP, "light").page
    title = page.locator(".chart .xtitle").first

    def colours() -> tuple[str, str]:
        return (
            title.evaluate("e => getComputedStyle(e).fill"),
            page.evaluate("getComputedStyle(document.body).color"),
        )

    light = colours()
    page.emulate_media(color_scheme="dark")
    page.wait_for_timeout(500)
    dark = colours()
    assert light[0] == light[1] != dark[1] == dark[0]
