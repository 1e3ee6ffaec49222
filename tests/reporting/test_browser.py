"""The page in a real browser: it draws, answers, prints, and can be used by everyone, without a network."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright
from test_page import RUNS

from robustdeq.leaderboard import Entry
from robustdeq.reporting import save_leaderboard_page
from robustdeq.reporting.page import save_page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here; install one to test the page."),
    pytest.mark.xdist_group("browser"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "page.html"
    long = replace(RUNS[1], name="a-run-with-a-name-that-is-longer-than-any-telephone-is-wide-" * 2)
    save_page([RUNS[0], long, RUNS[2]], path)
    return path.as_uri()


@pytest.fixture(scope="module")
def page(browser: Browser, address: str) -> Iterator[Page]:
    """The page with a list of everything that went wrong and of every request; it stays open for the module."""
    page = browser.new_page(viewport={"width": 1000, "height": 800}, reduced_motion="reduce")
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "request", lambda request: None if request.url.startswith(("file:", "data:")) else wrong.append(request.url)
    )
    page.goto(address)
    yield page
    assert not wrong
    page.close()


@pytest.fixture(autouse=True)
def first_run(page: Page) -> None:
    page.set_viewport_size({"width": 1000, "height": 800})
    page.emulate_media(color_scheme="light")
    page.get_by_role("radio", name="strict").check()


def shown(page: Page) -> list[str]:
    return page.locator(".run").evaluate_all("all => all.filter(e => e.checkVisibility()).map(e => e.dataset.run)")


def undrawn(page: Page) -> int:
    """How many visible charts are not within their place, which is as wide as the text around it at most."""
    return page.locator(".chart").evaluate_all(
        """all => all.filter(e => e.checkVisibility()).filter(e => {
            const { width, height } = e.querySelector("svg").getBoundingClientRect();
            return Math.abs(width - e.clientWidth) > 1 || height < 100;
        }).length"""
    )


def settle(page: Page) -> None:
    """Wait until the page has answered a new size, which it does in the next frame."""
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def overflow(page: Page) -> int:
    return page.evaluate("document.documentElement.scrollWidth - innerWidth")


def violations(page: Page) -> list[str]:
    found = Axe().run(page).response["violations"]
    return [
        f"{rule['id']}: {node['html'][:120]}"
        for rule in found
        if rule["impact"] in ("serious", "critical")
        for node in rule["nodes"]
    ]


def test_every_chart_fills_its_place(page: Page) -> None:
    for name in ("strict", "a-run", "panels"):
        page.get_by_role("radio", name=name).check()
        assert undrawn(page) == 0
    assert page.locator(".chart svg").count() == page.locator(".chart").count() == 8


def test_letters_of_a_chart_stay_within_it(page: Page) -> None:
    for name in ("strict", "panels"):
        page.get_by_role("radio", name=name).check()
        beyond = page.locator(".chart svg").evaluate_all(
            """all => all.filter(e => e.checkVisibility()).flatMap(e => {
                const place = e.getBoundingClientRect();
                return [...e.querySelectorAll("text")].filter(text => {
                    const { left, right, top, bottom } = text.getBoundingClientRect();
                    return left < place.left - 1 || right > place.right + 1
                        || top < place.top - 1 || bottom > place.bottom + 1;
                }).map(text => text.textContent);
            })"""
        )
        assert beyond == []


def test_wide_table_says_that_it_goes_on_and_can_be_scrolled_by_keyboard(page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    settle(page)
    region = page.get_by_role("group", name="Defense × attack, table")
    hint = region.locator("xpath=preceding-sibling::p[1]")
    assert hint.is_visible() and "scroll it sideways" in hint.inner_text()
    region.focus()
    page.keyboard.press("End")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("e => e.scrollLeft > 0", arg=region.element_handle())
    name = region.locator("tbody th").first
    assert name.evaluate("e => e.getBoundingClientRect().left") >= 0
    page.set_viewport_size({"width": 1000, "height": 800})
    settle(page)
    assert not hint.is_visible()


def state(page: Page) -> str | None:
    return page.locator(".player .step:visible").first.get_attribute("data-state")


def test_solver_is_followed_state_by_state_by_keyboard(page: Page) -> None:
    button, slider = page.locator(".player button").first, page.locator(".player input").first
    assert state(page) == slider.get_attribute("aria-valuetext") == "final"
    slider.press("ArrowLeft")
    assert state(page) == slider.get_attribute("aria-valuetext") == "z₁"
    assert "70.0 %" in page.locator(".player .step:visible").first.inner_text()
    assert button.inner_text() == "Next state"  # nothing moves by itself where less motion is asked for
    button.press("Enter")
    assert state(page) == "final"


def test_solver_plays_by_itself_until_its_end_where_motion_is_welcome(page: Page) -> None:
    page.emulate_media(color_scheme="light", reduced_motion="no-preference")
    settle(page)
    button = page.locator(".player button").first
    assert button.inner_text() == "Play"
    button.press("Space")
    assert (state(page), button.inner_text()) == ("z₁", "Pause")
    page.wait_for_function("() => document.querySelector('.player button').textContent === 'Play'")
    assert state(page) == "final"
    button.press("Space")
    button.press("Space")
    assert (state(page), button.inner_text()) == ("z₁", "Play")
    page.locator(".player input").first.press("End")
    page.emulate_media(color_scheme="light", reduced_motion="reduce")


def test_run_is_chosen_by_mouse_keyboard_and_address(page: Page, address: str) -> None:
    assert shown(page) == ["strict"]
    page.get_by_text("panels", exact=True).first.click()
    assert shown(page) == ["panels"]
    assert page.url.endswith("#panels/")
    page.keyboard.press("ArrowDown")
    assert shown(page) == ["strict"]
    page.keyboard.press("ArrowUp")
    assert shown(page) == ["panels"]
    page.go_back()
    assert shown(page) == ["strict"]
    page.goto(f"{address}#strict/checks")
    assert page.locator("#strict\\/checks").evaluate("e => e.getBoundingClientRect().top") < 100


def test_everything_that_answers_is_reached_by_keyboard(page: Page, address: str) -> None:
    page.goto(address)
    reached = []
    for _ in range(4):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("(e => e.id || e.className || e.name || e.hash)(document.activeElement)"))
    assert reached == ["skip", "theme", "run", "#strict/attacks"]


def test_theme_follows_the_system_and_the_button(page: Page) -> None:
    def ink() -> str:
        return page.locator(".chart text").first.evaluate("e => getComputedStyle(e).fill")

    light = ink()
    page.emulate_media(color_scheme="dark")
    settle(page)
    assert ink() != light
    button = page.get_by_role("button", name="Dark")
    assert button.get_attribute("aria-pressed") == "true"
    button.press("Enter")
    assert button.get_attribute("aria-pressed") == "false"
    assert ink() == light
    page.evaluate("delete document.documentElement.dataset.theme")


@pytest.mark.parametrize(("scheme", "width"), [("light", 1000), ("dark", 1000), ("light", 360)])
def test_page_is_usable_by_everyone(page: Page, scheme: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    settle(page)
    assert undrawn(page) == 0
    page.locator("details").evaluate_all("all => all.forEach(e => e.open = true)")
    assert overflow(page) == 0
    assert violations(page) == []
    page.locator("details").evaluate_all("all => all.forEach(e => e.open = false)")


def test_no_run_is_wider_than_a_telephone(page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    page.locator("details").evaluate_all("all => all.forEach(e => e.open = true)")
    for name in ("strict", "a-run", "panels"):
        page.get_by_role("radio", name=name).check()
        assert overflow(page) == 0
    page.locator("details").evaluate_all("all => all.forEach(e => e.open = false)")


def test_print_shows_all_runs_within_the_page(page: Page, tmp_path: Path) -> None:
    page.emulate_media(media="print", color_scheme="dark")
    page.set_viewport_size({"width": 680, "height": 960})
    settle(page)
    assert len(shown(page)) == 3
    assert undrawn(page) == 0
    assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "light"
    assert not page.locator(".controls").first.is_visible()
    assert page.pdf(path=tmp_path / "page.pdf", format="A4").startswith(b"%PDF")
    page.emulate_media(media="screen", color_scheme="light")
    assert shown(page) == ["strict"]


def test_a_heading_sorts_its_table(browser: Browser, tmp_path: Path) -> None:
    entries = [an_entry(name, share) for name, share in (("b", 0.25), ("a", 1.0), ("c", 0.0))]
    save_leaderboard_page(entries, tmp_path / "page.html")
    page = browser.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    found = Axe().run(page)
    assert not found.response["violations"], found.generate_report()

    def names() -> list[str]:
        return page.locator("tbody th").all_inner_texts()

    assert names() == ["a", "b", "c"]
    for heading, falling in (("worst case", ["a", "b", "c"]), ("model", ["c", "b", "a"])):
        button = page.locator("thead button").filter(has_text=heading)
        button.click()
        assert names() == falling
        assert page.locator("thead th[aria-sort=descending]").inner_text().startswith(heading)
        button.press("Enter")
        assert names() == falling[::-1]
    page.close()


def an_entry(name: str, share: float) -> Entry:
    outcome = np.arange(20) < 20 * share
    return Entry(
        name=name,
        training="-",
        data="digits",
        eps=0.1,
        norm="L2",
        clean=np.ones(20, bool),
        ready_made=None,
        standing=outcome,
        certified=None,
        certificate="",
        reported=None,
        protocol="",
        parameters=3,
        evaluations=None,
        residual=None,
    )
