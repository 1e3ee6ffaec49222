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
    """How many visible charts hold no drawing of the width that they have."""
    return page.locator(".chart").evaluate_all(
        """all => all.filter(e => e.checkVisibility()).filter(e => {
            const drawn = e.querySelector(".main-svg");
            return !drawn || Math.abs(drawn.getBoundingClientRect().width - e.clientWidth) > 1;
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


def test_every_chart_is_drawn_as_wide_as_its_place(page: Page) -> None:
    for name in ("strict", "a-run", "panels"):
        page.get_by_role("radio", name=name).check()
        assert undrawn(page) == 0
    assert page.locator(".chart .main-svg").count() >= page.locator(".chart").count() == 17


def test_pointer_over_a_cell_shows_what_is_behind_it(page: Page) -> None:
    chart = page.locator(".chart").first
    chart.scroll_into_view_if_needed()
    box = chart.locator(".nsewdrag").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 6, box["y"] + box["height"] * 1.5 / 5)
    page.mouse.move(box["x"] + box["width"] / 6 + 2, box["y"] + box["height"] * 1.5 / 5)
    detail = chart.locator(".hovertext").text_content()
    for said in ("unrolled intermediates, final", "of 40 images", "95 % interval", "Phantom(", "the paper's"):
        assert said in (detail or "")


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
        return page.locator(".chart .xtick text").first.evaluate("e => e.style.fill")

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
    page.evaluate("""addEventListener("beforeprint", () => { window.printed = {
        runs: [...document.querySelectorAll(".run")].filter(e => e.checkVisibility()).length,
        charts: [...document.querySelectorAll(".chart .main-svg")].map(e => e.getBoundingClientRect().width),
        theme: getComputedStyle(document.documentElement).colorScheme,
    } })""")
    page.emulate_media(color_scheme="dark")
    assert page.pdf(path=tmp_path / "page.pdf", format="A4").startswith(b"%PDF")
    printed = page.evaluate("window.printed")
    assert printed["runs"] == 3
    assert printed["theme"] == "light"
    assert len(printed["charts"]) >= 15
    assert max(printed["charts"]) <= 680
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
