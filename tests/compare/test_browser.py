"""The page as people see it: in a browser, on a desk, on a phone, on paper, and read aloud."""

import json
import os
import shutil
from collections.abc import Iterator

import pytest

from tests.compare.conftest import Place

playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
axe_playwright = pytest.importorskip(
    "axe_playwright_python.sync_playwright", reason="pip install axe-playwright-python"
)
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM = next((path for name in _NAMES if (path := shutil.which(name))), None)
_MISSING = "no Chromium here: install it, e.g. `apt-get install chromium`"
# Where pages are checked for everybody, nobody would see that they are not.
pytestmark = pytest.mark.skipif(
    CHROMIUM is None and os.environ.get("CI") != "true", reason=_MISSING
)
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PHONE = {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def browser() -> Iterator:
    assert CHROMIUM is not None, _MISSING
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture(params=[{"width": 1100, "height": 900}, PHONE], ids=["desk", "phone"])
def page(request, browser, place: Place) -> Iterator:
    """The open page, with what it complained of and what it asked for."""
    opened = browser.new_page(viewport=request.param)
    opened.complaints, opened.asked = [], []
    opened.on("console", lambda message: opened.complaints.append(message.text))
    opened.on("pageerror", lambda error: opened.complaints.append(str(error)))
    opened.on("request", lambda sent: opened.asked.append(sent.url))
    opened.goto((place.out / "index.html").as_uri())
    yield opened
    opened.close()


def test_it_renders_and_asks_for_nothing(page, place: Place) -> None:
    assert page.complaints == []
    assert page.asked == [(place.out / "index.html").as_uri()]
    assert page.get_by_role("heading", name="Recommendation").is_visible()
    assert page.locator(".headline").bounding_box()["y"] < page.viewport_size["height"]


def test_nothing_runs_out_of_the_page(page) -> None:
    widths = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert widths[0] <= widths[1]


def test_heads_of_three_models_are_wide_enough_to_be_read(page) -> None:
    table = page.get_by_role("region", name="At a glance")
    widths = table.locator("thead th, tbody th[scope=row]").evaluate_all(
        "all => all.map(one => one.offsetWidth / parseFloat(getComputedStyle(one).fontSize))"
    )
    assert len(widths) > 4
    assert min(widths) >= 6


def test_it_is_accessible(page) -> None:
    found = axe_playwright.Axe().run(page).response["violations"]
    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []


def test_its_numbers_are_those_of_the_record(page, place: Place) -> None:
    shown = page.eval_on_selector_all(
        "data", "all => all.map(one => ({value: one.value, text: one.textContent, ...one.dataset}))"
    )
    record = {
        (line.get("model", ""), line["quantity"], line.get("bin", "")): line for line in place.lines
    }
    assert len(shown) > 100
    for one in shown:
        line = record[one.get("model", ""), one["quantity"], one.get("bin", "")]
        number = line[one["end"]]
        assert json.loads(one["value"]) == number
        assert _is_written(one["text"], number)


def _is_written(text: str, number: float) -> bool:
    """Whether a text says a number, to the digits that it has."""
    bare = text.replace(",", "").replace("−", "-").replace("$", "").replace("+", "")
    for unit, factor in ((" MB", 1e6), (" bytes", 1.0), (" M", 1e6), (" %", 0.01), ("", 1.0)):
        if bare.endswith(unit):
            digits = bare.removesuffix(unit)
            last = factor * 10.0 ** -len(digits.partition(".")[2])
            return abs(float(digits) * factor - number) <= 0.5001 * last
    return False


def test_it_can_be_printed(browser, place: Place, tmp_path) -> None:
    opened = browser.new_page()
    opened.goto((place.out / "index.html").as_uri())
    assert opened.pdf(path=str(tmp_path / "page.pdf"), format="A4").startswith(b"%PDF")
    opened.emulate_media(media="print")
    opened.set_viewport_size({"width": 700, "height": 900})  # A4 between its margins
    widths = opened.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert widths[0] <= widths[1]
    opened.close()
