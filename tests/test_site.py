"""The documentation as a site: built without a warning, whole without a network."""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
import pytest_asyncio

from tests.batch.chromium import Page, chromium, find_chromium

pytest.importorskip("zensical", reason="the site is built where the extra docs is installed")

DOCS = Path(__file__).parents[1] / "docs"
LOADING = {"script", "link", "img", "iframe", "source", "video", "audio", "object", "embed"}


class Loads(HTMLParser):
    """What a page loads by itself, and what it would load from elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.own: list[str] = []
        self.foreign: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs if tag in LOADING else ():
            if name in ("src", "href", "data") and value:
                (self.foreign if re.match(r"(?:\w+:)?//", value) else self.own).append(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site strictly, from a copy of its sources, and return where it is."""
    docs = tmp_path_factory.mktemp("site") / "docs"
    shutil.copytree(DOCS, docs, ignore=shutil.ignore_patterns("build", ".cache"))
    command = [sys.executable, "-m", "zensical", "build", "--strict", "-f", "zensical.toml"]
    began = time.monotonic()
    built = subprocess.run(command, cwd=docs, capture_output=True, text=True)
    words = re.sub(r"\x1b\[[0-9;]*m", "", built.stdout + built.stderr)
    assert built.returncode == 0, words
    print(f"built in {time.monotonic() - began:.1f} s")
    told = [line for line in words.splitlines() if re.search("warning|griffe:", line.lower())]
    assert told == []
    return docs / "build"


def test_every_page_is_in_the_site(site: Path) -> None:
    """Each page of docs/ is built, and can be reached from the navigation."""
    pages = {
        path.relative_to(DOCS).with_suffix(".html")
        for path in DOCS.rglob("*.md")
        if "build" not in path.parts
    }
    start = (site / "index.html").read_text()

    assert {path.relative_to(site) for path in site.rglob("*.html")} - pages == {Path("404.html")}
    linked = {link.removeprefix("./") for link in re.findall(r'href="([^"#]+)"', start)}
    assert {str(page) for page in pages} <= linked


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    """No page and no style of the site loads a script, a style, a font or a picture from a host."""
    for page in site.rglob("*.html"):
        loads = Loads(page.read_text())
        assert loads.own
        assert loads.foreign == [], page
    styles = [style.read_text() for style in site.rglob("*.css")]
    assert styles
    assert [found for text in styles for found in re.findall(r"url\((?:\w+:)?//[^)]*", text)] == []


def test_links_lead_to_anchors(site: Path) -> None:
    """Each link within the site, those of the generated reference too, leads to a place in it."""
    pages = {page.resolve(): page.read_text() for page in site.rglob("*.html")}
    places = {page: set(re.findall(r'\bid="([^"]+)"', text)) for page, text in pages.items()}
    lost = []
    for page, text in pages.items():
        for link in re.findall(r'<a [^>]*href="([^"]+)"', text):
            path, _, anchor = link.partition("#")
            if page.name == "404.html" or re.match(r"\w+:|/", link):
                continue
            target = (page.parent / path).resolve() if path else page
            if not target.exists() or (anchor and anchor not in places.get(target, {anchor})):
                lost.append((page.name, link))
    assert lost == []


@pytest_asyncio.fixture
async def tab(tmp_path: Path) -> AsyncIterator[Page]:
    async with chromium(tmp_path) as page:
        yield page


@pytest.mark.skipif(find_chromium() is None, reason="no Chromium here: install chromium")
async def test_search_and_colours_work_from_disk(site: Path, tab: Page) -> None:
    """Opened from disk, on a phone's width in the dark, words are found and nothing is missed."""
    await tab.screen(390, 800, dark=True)
    await tab.call("Page.navigate", url=(site / "index.html").as_uri())
    await tab.until("document.readyState === 'complete'")
    await tab.until("document.body.dataset.mdColorScheme === 'slate'")
    assert await tab.run("document.documentElement.scrollWidth") <= 390

    await tab.run("document.querySelector('.md-search__button').click()")
    await tab.until("document.activeElement.shadowRoot.activeElement.tagName === 'INPUT'")
    await tab.call("Input.insertText", text="horizon")
    await tab.until("document.activeElement.shadowRoot.textContent.includes('Doubtful charges')")
    loaded = await tab.run("performance.getEntriesByType('resource').map(each => each.name)")
    assert all(name.startswith("file:") for name in loaded)
    assert tab.complaints == []
