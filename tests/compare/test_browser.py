"""The page in a browser: on a desk, on a phone, on paper, and for screen readers."""

import os
import shutil
from collections.abc import Iterator

import pytest

from tests.compare.conftest import FinishedComparison

playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
axe_playwright = pytest.importorskip(
    "axe_playwright_python.sync_playwright", reason="pip install axe-playwright-python"
)
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM = next((path for name in _NAMES if (path := shutil.which(name))), None)
_MISSING = "no Chromium here: install it, e.g. `apt-get install chromium`"
# In CI a missing browser is an error, because nobody would see that pages are not checked.
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
def page(request, browser, comparison: FinishedComparison) -> Iterator:
    """The open page, with its messages and requests."""
    opened = browser.new_page(viewport=request.param)
    opened.messages, opened.requests = [], []
    opened.on("console", lambda message: opened.messages.append(message.text))
    opened.on("pageerror", lambda error: opened.messages.append(str(error)))
    opened.on("request", lambda sent: opened.requests.append(sent.url))
    opened.goto((comparison.out / "index.html").as_uri())
    yield opened
    opened.close()


def test_the_page_renders_without_network(page, comparison: FinishedComparison) -> None:
    assert page.messages == []
    assert page.requests == [(comparison.out / "index.html").as_uri()]
    assert page.get_by_role("heading", name="Recommendation").is_visible()
    assert page.locator(".headline").bounding_box()["y"] < page.viewport_size["height"]


def test_nothing_is_wider_than_the_page(page) -> None:
    widths = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert widths[0] <= widths[1]


def test_headers_of_three_models_are_wide_enough(page) -> None:
    table = page.get_by_role("region", name="At a glance")
    widths = table.locator("thead th, tbody th[scope=row]").evaluate_all(
        "all => all.map(cell => cell.offsetWidth / parseFloat(getComputedStyle(cell).fontSize))"
    )
    assert len(widths) > 4
    assert min(widths) >= 6


def test_the_page_is_accessible(page) -> None:
    violations = axe_playwright.Axe().run(page).response["violations"]
    assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in violations] == []


def test_the_page_can_be_printed(browser, comparison: FinishedComparison, tmp_path) -> None:
    opened = browser.new_page()
    opened.goto((comparison.out / "index.html").as_uri())
    assert opened.pdf(path=str(tmp_path / "page.pdf"), format="A4").startswith(b"%PDF")
    opened.emulate_media(media="print")
    opened.set_viewport_size({"width": 700, "height": 900})  # A4 between its margins
    widths = opened.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert widths[0] <= widths[1]
    opened.close()
