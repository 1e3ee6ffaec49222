"""The documentation in a real browser: everybody can use it, nothing asks the network, and a phone shows all of it."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any, Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).parents[1]
HOME = "http://127.0.0.1"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CUT = """() => [document.documentElement, ...document.querySelectorAll("pre > code, .katex-display")]
    .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.textContent.trim().slice(0, 60))"""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here; install one to test the site."),
    pytest.mark.xdist_group("site"),
]


class Silent(SimpleHTTPRequestHandler):
    """A server of files that logs nothing."""

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"})
    return folder


@pytest.fixture(scope="module")
def addresses(site: Path) -> Iterator[list[str]]:
    """The pages, served from here; of many that are made alike, in one folder, the first three."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found = (file.parent.relative_to(site) for file in site.rglob("index.html"))
        places = sorted(found, key=lambda place: (place.parts[:-1], place))
        folders = groupby(places, lambda place: place.parts[:-1] or place)
        chosen = chain.from_iterable(islice(alike, 3) for _, alike in folders)
        yield [f"{HOME}:{server.server_port}/{place.as_posix()}/" for place in chosen]
        server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def opened(browser: Browser, address: str, width: int, scheme: Literal["light", "dark"]) -> tuple[Page, list[str]]:
    """The page, and what it asked of other machines or reported as an error."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "request", lambda asked: None if asked.url.startswith((HOME, "data:", "blob:")) else wrong.append(asked.url)
    )
    page.goto(address)
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return page, wrong


def violations(page: Page, options: dict[str, Any]) -> list[str]:
    found = Axe().run(page, options={"resultTypes": ["violations"], **options}).response["violations"]
    return [
        f"{rule['id']}: {node['html'][:120]}"
        for rule in found
        if rule["impact"] in ("serious", "critical")
        for node in rule["nodes"]
    ]


def test_everybody_can_read_every_page_without_a_network(addresses: list[str], browser: Browser) -> None:
    assert len(addresses) > 25
    for address in addresses:
        page, wrong = opened(browser, address, 1280, "light")
        assert violations(page, {}) == wrong == [], address
        page.close()


def test_a_phone_in_the_dark_shows_all_of_every_page(addresses: list[str], browser: Browser) -> None:
    for address in addresses:
        page, _ = opened(browser, address, 390, "dark")
        assert violations(page, {"runOnly": ["color-contrast", "scrollable-region-focusable"]}) == [], address
        assert page.evaluate(CUT) == [], address
        page.close()
