"""The pages about misroutes in a real browser, over a simulated year: what axe-core finds, 360 pixels, the keyboard, the dark, paper.

Where there is no Chromium these tests are skipped, and say so; Debian has it as the package `chromium`.
"""

import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from service import database
from service.app import create_app
from service.demo.service import fill
from service.settings import Settings
from tests.serving import listening

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
TICKETS, SEED = 400, 7
PHONE = {"width": 360, "height": 740}

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def address(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service with a year of simulated tickets."""
    url = f"sqlite:///{tmp_path_factory.mktemp('browser')}/pointsman.db"
    engine = database.connect(url)
    fill(engine, TICKETS, SEED, datetime.now(UTC).date() + timedelta(days=1))
    engine.dispose()
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("POINTSMAN_")]:
            patch.delenv(name)
        settings = Settings(model=models, database_url=url, keep_text_days=400)
    with listening(create_app(settings)) as port:
        yield f"http://localhost:{port}"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # As root, as in a container, Chromium starts without its sandbox only; the pages are our own.
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


def quarter() -> str:
    tomorrow = datetime.now(UTC).date() + timedelta(days=1)
    return f"from={tomorrow - timedelta(days=91)}&to={tomorrow}"


@pytest.fixture(scope="module")
def paths(browser: Browser, address: str) -> list[str]:
    """The report of the last quarter, a list, and the story of a ticket that went astray."""
    page = browser.new_page()
    page.goto(f"{address}/app/misroutes/tickets?{quarter()}&misrouted=department")
    story = page.locator(".ticket h2 a").first.get_attribute("href")
    page.close()
    assert story
    return [f"/app/misroutes?{quarter()}", f"/app/misroutes/tickets?{quarter()}&misrouted=department&order=random&limit=10", story]


def open_all(page: Page) -> None:
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")


def test_axe_finds_nothing(browser: Browser, address: str, paths: list[str]) -> None:
    # axe-core is a script, which the pages' policy would not let in.
    with browser.new_context(bypass_csp=True) as context:
        page = context.new_page()
        for path in paths:
            page.goto(address + path)
            open_all(page)
            found = Axe().run(page, options={"resultTypes": ["violations"]})
            assert found.violations_count == 0, f"{path}\n{found.generate_report()}"
            assert len(found.response["passes"]) > 20
            page.emulate_media(color_scheme="dark")  # where only the colours are others
            dark = Axe().run(page, options={"runOnly": ["color-contrast"], "resultTypes": ["violations"]})
            assert dark.violations_count == 0, f"{path}, dark\n{dark.generate_report()}"
            assert len(dark.response["passes"]) == 1
            page.emulate_media(color_scheme="light")


def test_nothing_is_loaded_from_elsewhere_and_the_policy_is_kept(browser: Browser, address: str, paths: list[str]) -> None:
    asked: list[str] = []
    said: list[str] = []
    with browser.new_context() as context:
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        for path in paths:
            page.goto(address + path)
        assert page.locator("h1").is_visible()
    assert {urlsplit(url).netloc for url in asked} == {urlsplit(address).netloc}
    assert {urlsplit(url).path for url in asked} == {*(urlsplit(path).path for path in paths), "/static/style.css", "/static/icon.svg"}
    assert said == []


def test_at_360_pixels_tables_scroll_and_the_page_does_not(browser: Browser, address: str, paths: list[str]) -> None:
    with browser.new_context(viewport=PHONE) as context:  # type: ignore[arg-type]
        page = context.new_page()
        wide = 0
        for path in paths:
            page.goto(address + path)
            open_all(page)
            assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"], path
            wide += page.evaluate("[...document.querySelectorAll('.scroll')].filter(box => box.scrollWidth > box.clientWidth).length")
            small = "[...document.querySelectorAll('nav a, button, summary')].filter(one => one.checkVisibility() && one.getBoundingClientRect().height < 20)"
            assert page.evaluate(f"{small}.map(one => one.textContent)") == [], path
        assert wide > 5  # there was something to scroll


def test_the_keyboard_reaches_the_filters_and_the_matrix(browser: Browser, address: str, paths: list[str]) -> None:
    page = browser.new_page()
    page.goto(address + paths[0])
    focused = page.locator(":focus")
    page.keyboard.press("Tab")
    assert focused.inner_text() == "Skip to content"
    assert focused.bounding_box()["x"] >= 0  # type: ignore[index]
    tab_until(page, "summary")
    page.keyboard.press("Enter")
    tab_until(page, "#from")
    tab_until(page, "#filter-language")
    page.keyboard.press("f")  # fr
    tab_until(page, "form button")
    page.keyboard.press("Enter")
    page.wait_for_url("**language=fr**")
    assert page.locator("#filter-language").input_value() == "fr"
    tab_until(page, ".matrix td a")
    outline = focused.evaluate("one => getComputedStyle(one).outlineStyle + ' ' + getComputedStyle(one).outlineWidth")
    assert outline == "solid 3px"
    expected = focused.inner_text()
    page.keyboard.press("Enter")
    page.wait_for_url("**/tickets?**")
    assert page.locator("h1").inner_text().startswith(f"{expected} ticket")
    page.close()


def tab_until(page: Page, selector: str, most: int = 120) -> None:
    for _ in range(most):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"{most} times Tab and not at {selector}")


def test_on_paper_are_the_figures_and_nothing_to_press(browser: Browser, address: str, paths: list[str]) -> None:
    with browser.new_context(color_scheme="dark", viewport={"width": 760, "height": 1000}) as context:
        page = context.new_page()
        page.emulate_media(media="print", color_scheme="dark")
        for path in paths:
            page.goto(address + path)
            for pressed in ("nav", "form", "button", ".skip"):
                assert page.locator(f"{pressed}:visible").count() == 0, (path, pressed)
            assert page.evaluate("document.documentElement.scrollWidth") <= 760, path
            ink = page.evaluate("getComputedStyle(document.querySelector('h1')).color")
            assert ink == "rgb(29, 36, 38)"  # dark, whatever the screen shows
        page.goto(address + paths[0])
        assert page.locator(".tile:visible").count() == 8
        assert page.locator(".matrix:visible").count() == 1
