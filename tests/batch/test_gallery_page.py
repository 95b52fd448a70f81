"""The gallery in a real Chromium, opened from disk as a reader opens it."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from PIL import Image

from imagen_async.batch.gallery import views, write_gallery, write_page
from imagen_async.batch.gallery.live import LiveGallery
from imagen_async.batch.run import Run, RunOptions
from imagen_async.emulator import Emulator
from tests.batch.chromium import chromium, find_chromium
from tests.batch.runs import b64, core_on
from tests.batch.test_gallery import fill, row

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.batch.chromium import Page

pytestmark = [
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium here: install chromium"),
    pytest.mark.asyncio(loop_scope="module"),
]

SIZES = {"1:1": (64, 64), "16:9": (88, 48), "9:16": (48, 88)}
TILES = "document.querySelectorAll('#grid > li').length"
COUNT = "document.querySelector('#count').textContent"
STATE = "document.querySelector('#live-state').textContent"
FOCUSED = "document.activeElement.ariaLabel"
HOSTILE = (
    "<script>window.hacked = 1</script>",
    "</script><img src=x onerror='window.hacked = 1'>",
    "--></script><!--<script>",
    '" onload="window.hacked = 1" x="',
    "' autofocus onfocus=window.hacked=1 '",
    "javascript:window.hacked=1",
    "\u202egnp.\u2066evil\u200b\u2028\u2029\0\ud800",
    "${window.hacked = 1} {{script}} `",
    "__proto__",
)


UNSEEN = {ord(sign): f"\\u{ord(sign):04x}" for sign in "\u202e\u2066\u200b\u2028\u2029\0\ud800"}
"""How the page shows what would otherwise act unseen."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tab(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Page]:
    """One Chromium for all tests."""
    async with chromium(tmp_path_factory.mktemp("profile")) as page:
        await page.screen(1280, 800)
        yield page


@pytest.fixture(scope="module")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a batch of twelve real pictures, two failures and one unknown."""
    folder = tmp_path_factory.mktemp("batches") / "shots"
    done = []
    for number in range(12):
        ratio = list(SIZES)[number % 3]
        width, height = SIZES[ratio]
        name = f"images/0{number % 3}/shot {number}.png"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (width, height), (20 * number, 90, 160)).save(folder / name)
        prompt = "A Crème brûlée at night" if number == 5 else f"A lighthouse, view {number}"
        shape = {"aspect_ratio": ratio, "width": width, "height": height}
        done.append(row(number, file_name=name, prompt=prompt, **shape))
    reset = {
        "type": "OutcomeUnknownError",
        "message": "The connection was reset.",
        "charge": "maybe",
    }
    policy = {
        "type": "RejectedError",
        "message": "Against the policy.",
        "status": 400,
        "charge": "no",
    }
    fill(
        folder,
        done,
        failed=[
            {"id": f"no-{n}", "prompt": "A rally", "aspect_ratio": "1:1", "error": policy}
            for n in (1, 2)
        ],
        unknown=[{"id": "who", "prompt": "A boat", "aspect_ratio": "1:1", "error": reset}],
    )
    return write_gallery(folder)


@pytest.fixture(scope="module")
def axe() -> str | None:
    """The script that finds what keeps readers out, if it is here."""
    found = importlib.util.find_spec("axe_core_python")
    if found is None or found.origin is None:
        return None
    return Path(found.origin).with_name("axe.min.js").read_text("utf-8")


async def barriers(tab: Page, axe: str) -> list[str]:
    """Return what axe finds wrong with what the tab shows."""
    # Through the debugger, which the page's policy does not bind.
    return await tab.run(
        f"{axe}; axe.run(document).then(({{ violations }}) => violations.flatMap("
        "({ id, nodes }) => nodes.map(({ target }) => `${id}: ${target}`)))"
    )


async def open_all(tab: Page, index: Path) -> None:
    """Open the batch of fifteen and wait for the pages of all three statuses."""
    await tab.open(index)
    await tab.until(f"{TILES} === 15")


async def leave(tab: Page) -> None:
    """Leave the lightbox; the focus is back on a tile a moment after it closed."""
    await tab.press("Escape")
    await tab.until("document.activeElement.closest('#grid')")


async def to_search(tab: Page) -> None:
    """Go to the search from anywhere on the page."""
    await tab.press("/", "/")
    await tab.until("document.activeElement.id === 'search'")


async def search(tab: Page, words: str) -> None:
    """Type into the search as a reader does."""
    await to_search(tab)
    await tab.run("document.querySelector('#search').select()")
    await tab.call("Input.insertText", text=words)


async def test_opens_whole(tab: Page, shots: Path) -> None:
    """The page opens from disk without a complaint, each tile in its picture's own ratio."""
    await open_all(tab, shots)
    await tab.until("document.querySelectorAll('.loaded').length === 12")
    bent = await tab.run(
        "[...document.querySelectorAll('.done img')].filter((image) => Math.abs("
        "image.naturalWidth / image.naturalHeight - image.clientWidth / image.clientHeight) > 0.02"
        ").length"
    )
    assert bent == 0
    summary = await tab.run("document.querySelector('#summary').textContent")
    assert summary == "12 pictures · 2 failed · 1 unknown"
    assert tab.complaints == []


async def test_problems_show_reason_and_charge(tab: Page, shots: Path) -> None:
    """A failed and an unknown item are cards with their reasons, and say what was charged."""
    await open_all(tab, shots)
    failed = await tab.run("document.querySelector('#grid .failed').innerText")
    unknown = await tab.run("document.querySelector('#grid .unknown').innerText")
    assert all(
        text in failed for text in ("Failed", "not charged", "A rally", "Against the policy.")
    )
    assert all(
        text in unknown for text in ("Unknown", "maybe charged", "The connection was reset.")
    )


async def test_search(tab: Page, shots: Path) -> None:
    """Words are sought in prompts and ids, whatever their case and accents; none found is said."""
    await open_all(tab, shots)
    await search(tab, "creme BRULEE")
    assert await tab.until(f"{COUNT} === '1 of 15' && {TILES}") == 1
    await search(tab, "row-11")
    await tab.until("document.querySelector('#grid button').ariaLabel.includes('view 11')")
    assert await tab.run(COUNT) == "1 of 15"
    await search(tab, "zebra")
    await tab.until(f"{COUNT} === '0 of 15' && !document.querySelector('#empty').hidden")
    assert (
        await tab.run("document.querySelector('#empty-text').textContent") == "No picture matches."
    )
    await tab.click("#clear")
    assert await tab.until(f"{COUNT} === '' && {TILES}") == 15
    assert tab.complaints == []


async def test_filters(tab: Page, shots: Path) -> None:
    """Status and ratio narrow each other, and each filter says how many it would show."""
    chips = (
        "[...document.querySelectorAll('#statuses button, #ratios button')]"
        ".map((chip) => chip.textContent)"
    )
    await open_all(tab, shots)
    assert await tab.run(chips) == ["Done12", "Unknown1", "Failed2", "1:17", "16:94", "9:164"]
    await tab.click("#statuses button:nth-child(3)")
    assert await tab.until(f"{COUNT} === '2 of 15' && {TILES}") == 2
    assert await tab.run(chips) == ["Done12", "Unknown1", "Failed2", "1:12", "16:90", "9:160"]
    await tab.click("#statuses button:nth-child(1)")
    await tab.click("#ratios button:nth-child(2)")
    assert await tab.until(f"{COUNT} === '4 of 15' && {TILES}") == 4
    assert await tab.run("document.activeElement.ariaPressed") == "true"


async def test_nobody_is_kept_out(tab: Page, shots: Path, axe: str | None) -> None:
    """The grid, the enlarged picture, and reasons in dark colours have no barrier."""
    if axe is None:
        pytest.skip("no axe-core-python here: install the test extra")
    await open_all(tab, shots)
    assert await barriers(tab, axe) == []
    await tab.click("#grid button")
    await tab.until("document.querySelector('#lightbox').open")
    assert await barriers(tab, axe) == []
    await leave(tab)
    await tab.screen(1280, 800, dark=True)
    await tab.click("#statuses button:nth-child(3)")
    await tab.until("!document.querySelector('#reasons').hidden")
    assert await barriers(tab, axe) == []
    await tab.screen(1280, 800)


async def test_orders(tab: Page, shots: Path) -> None:
    """The newest first turns the batch's order about; problems, without a time, come last."""
    await open_all(tab, shots)
    await tab.run(
        "document.querySelector('#order').value = 'newest';"
        "document.querySelector('#order').dispatchEvent(new Event('change'))"
    )
    first = "document.querySelector('#grid li:first-child button').ariaLabel"
    assert (await tab.until(f"{first}.includes('view 11') && {first}")).endswith("48 \u00d7 88")


async def test_lightbox_by_mouse(tab: Page, shots: Path) -> None:
    """A click enlarges a picture with all that is known of it; Escape gives the focus back."""
    await open_all(tab, shots)
    await tab.click("#grid li:nth-child(2) button")
    await tab.until("document.querySelector('#lightbox').open")
    facts = await tab.run("document.querySelector('#lightbox aside').innerText")
    for text in (
        "2 of 15",
        "view 1",
        "row-1",
        "imagen4",
        "88 \u00d7 48",
        "1.0 kB",
        "req_1",
        "2026",
    ):
        assert text in facts
    await tab.until("document.querySelector('#picture').naturalWidth === 88")
    assert await tab.run("document.activeElement.id") == "close"
    await leave(tab)
    await tab.until(f"{FOCUSED}.includes('view 1,')")
    assert tab.complaints == []


async def test_lightbox_by_keyboard(tab: Page, shots: Path) -> None:
    """Arrows move among tiles, Enter enlarges, arrows turn the pictures, to a problem's reason."""
    await open_all(tab, shots)
    await tab.run("document.querySelector('#grid button').focus()")
    await tab.press("ArrowRight")
    assert "view 1," in await tab.run(FOCUSED)
    await tab.press("ArrowDown")
    await tab.press("ArrowLeft")
    await tab.run("document.querySelector('#grid li:nth-child(12) button').focus()")
    await tab.press("Enter")
    await tab.until("document.querySelector('#lightbox').open")
    await tab.press("ArrowRight")
    stage = await tab.run("document.querySelector('.stage').innerText")
    assert stage.split("\n")[0] == "Unknown"
    assert "The connection was reset." in stage
    await leave(tab)
    # The browser tells the page of its going back in a task of its own.
    for text in ("Unknown", "maybe charged", "A boat"):
        await tab.until(f"document.activeElement.innerText.includes({text!r})")


@pytest.mark.parametrize("clipboard", ["present", "missing"])
async def test_copies_the_prompt(tab: Page, shots: Path, clipboard: str) -> None:
    """The button copies the prompt and says so, with the clipboard's interface or without."""
    await open_all(tab, shots)
    if clipboard == "missing":
        await tab.run("void Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    number = 3 if clipboard == "missing" else 2
    await tab.click(f"#grid li:nth-child({number}) button")
    await tab.click("#copy")
    await tab.until("document.querySelector('#copy').textContent === 'Copied'")
    assert await tab.run("document.activeElement.id") == "copy"
    await leave(tab)
    await to_search(tab)
    await tab.call("Input.dispatchKeyEvent", type="keyDown", key="v", commands=["paste"])
    pasted = await tab.until("document.querySelector('#search').value")
    assert pasted == f"A lighthouse, view {number - 1}"


async def test_hostile_rows_run_nothing(tab: Page, tmp_path: Path) -> None:
    """Markup and code in any field is shown as the text it is."""
    hostile = [
        row(n, prompt=text, id=text, model=text, request_id=text) for n, text in enumerate(HOSTILE)
    ]
    # A user's columns as well, by name and by value; the last one names the prototype.
    for text, each in zip(HOSTILE, hostile, strict=True):
        each |= {text: text, "note": text}
    hostile.append(row(98, file_name="javascript:window.hacked=1"))
    hostile.append(row(99, file_name='../"><script>window.hacked=1</script>'))
    error = dict.fromkeys(("type", "message", "code", "charge"), HOSTILE[1])
    problem = {"prompt": HOSTILE[0], "aspect_ratio": "constructor", "error": error}
    folder = fill(tmp_path / "<b onclick=x>", hostile, failed=[problem, {}], unknown=[problem])
    (folder / "report.json").write_text(json.dumps({"stopped_by": HOSTILE[1]}))
    await tab.open(write_gallery(folder))
    assert HOSTILE[1] in await tab.run("document.querySelector('#summary').textContent")
    for number in range(len(HOSTILE)):
        await tab.click(f"#grid li:nth-child({number + 1}) button")
        shown = await tab.run("document.querySelector('#prompt').textContent")
        assert shown == HOSTILE[number].translate(UNSEEN)
        facts = await tab.run("facts.textContent")
        assert facts.count(HOSTILE[number].translate(UNSEEN)) >= 3
        await leave(tab)
    await tab.run("scrollTo(0, 1e6)")
    await tab.until("document.querySelector('#grid .failed')")
    await tab.click("#grid .failed button")
    assert HOSTILE[1] in await tab.run("document.querySelector('.stage').innerText")
    assert await tab.run("window.hacked") is None
    assert await tab.run("document.querySelectorAll('main script, main b[onclick]').length") == 0
    missing = "Failed to load resource: net::ERR_FILE_NOT_FOUND"
    assert [text for text in tab.complaints if text != missing] == []


async def test_the_policy_stops_injected_code(tab: Page, shots: Path) -> None:
    """Were markup ever to get in, it could run nothing and load nothing from elsewhere."""
    (shots.parent / "evil.js").write_text("window.hacked = 1")
    (shots.parent / "evil.html").write_text(
        shots.read_text("utf-8").replace(
            "<main>",
            "<main><script>window.hacked = 1</script><script src=evil.js></script>"
            '<img src="missing.png" onerror="window.hacked = 1">'
            '<img src="http://127.0.0.1:9/x.png"><iframe src="evil.js"></iframe>',
        ),
        "utf-8",
    )
    await open_all(tab, shots.parent / "evil.html")
    assert await tab.run("window.hacked") is None
    refused = [text for text in tab.complaints if "Content Security Policy" in text]
    assert len(refused) == 5
    with pytest.raises(AssertionError, match="TrustedHTML"):
        await tab.run("document.body.innerHTML = '<b>'")


async def test_ten_thousand_rows(tab: Page, tmp_path: Path) -> None:
    """A large batch keeps few tiles, wherever the reader is; all its rows come and are sought."""
    folder = fill(tmp_path / "many", (row(n) for n in range(10_000)))
    await tab.open(write_gallery(folder))
    nodes = "document.querySelectorAll('*').length"
    assert 0 < await tab.run(TILES) < 150
    await search(tab, "9999")
    assert await tab.until(f"{COUNT} === '1 of 10,000' && {TILES}") == 1
    await search(tab, "shot")
    await tab.until(f"{COUNT} === '10,000 of 10,000'")
    await tab.run("scrollTo(0, document.querySelector('#grid').clientHeight)")
    await tab.until(
        "[...document.querySelectorAll('#grid button')].at(-1).ariaLabel.includes('9999')"
    )
    assert await tab.run(TILES) < 150
    await tab.screen(3840, 2160)
    await tab.run("size.value = 110, size.oninput()")
    await tab.until(f"{TILES} > 200")
    assert await tab.run(nodes) <= 3000
    await tab.run("localStorage.clear()")
    await tab.screen(1280, 800)


async def test_the_place_is_kept(tab: Page, tmp_path: Path) -> None:
    """Deep in a batch, leaving the lightbox or another window width leaves the tile in sight."""
    in_sight = (
        "(() => { const box = document.activeElement.getBoundingClientRect();"
        "return document.activeElement.ariaLabel.startsWith('shot 313,') && box.bottom > 0"
        " && box.top < innerHeight; })()"
    )
    folder = fill(tmp_path / "many", (row(n) for n in range(500)))
    await tab.open(write_gallery(folder))
    await tab.run("scrollTo(0, document.querySelector('#grid').clientHeight * 0.62)")
    tile = "document.querySelector('[aria-label^=\"shot 312,\"]')"
    await tab.until(tile)
    await tab.run(f"{tile}.click()")
    await tab.press("ArrowRight")
    await leave(tab)
    await tab.until(in_sight)
    for width in (700, 1280):
        height = await tab.run("document.querySelector('#grid').clientHeight")
        await tab.screen(width, 800)
        await tab.until(f"document.querySelector('#grid').clientHeight !== {height}")
        assert await tab.run(in_sight)


async def test_light_and_dark(tab: Page, shots: Path) -> None:
    """The reader's preference sets the colours, the button turns them, and the choice is kept."""
    paper = "getComputedStyle(document.body).backgroundColor"
    await open_all(tab, shots)
    light = await tab.run(paper)
    await tab.screen(1280, 800, dark=True)
    await open_all(tab, shots)
    dark = await tab.run(paper)
    assert dark != light
    await tab.click("#theme")
    assert await tab.run(paper) == light
    await open_all(tab, shots)
    assert await tab.run(paper) == light
    await tab.run("localStorage.clear()")
    await tab.screen(1280, 800)


async def test_a_phone_shows_it_whole(tab: Page, shots: Path) -> None:
    """On a narrow window nothing is cut off at the side, in the grid and in the lightbox."""
    await tab.screen(360, 740)
    await tab.open(shots)
    assert await tab.run("document.documentElement.scrollWidth") <= 360
    await tab.click("#grid li button")
    await tab.until("document.querySelector('#lightbox').open")
    assert await tab.run("document.querySelector('#lightbox').scrollWidth") <= 360
    await tab.screen(1280, 800)


async def test_missing_files_are_said(tab: Page, tmp_path: Path) -> None:
    """A picture that is gone says so on its tile, a page of rows that is gone above the grid."""
    folder = fill(tmp_path / "shots", [row(n) for n in range(1001)])
    index = write_gallery(folder)
    next(folder.glob("gallery/*/page-0002.js")).unlink()
    await tab.open(index)
    await tab.until("document.querySelectorAll('.lost').length")
    note = await tab.until("!document.querySelector('#note').hidden && note.textContent")
    assert note.startswith("1 data file of this gallery cannot be read.")


async def test_a_drawing_is_named_and_not_loaded(tab: Page, tmp_path: Path) -> None:
    """An SVG is neither a picture nor a link of the page, on its tile and when that is opened."""
    drawing = {"file_name": "images/ab/a.svg", "media_type": "image/svg+xml"}
    folder = fill(tmp_path / "shots", [row(0, **drawing)])
    (folder / "images/ab").mkdir(parents=True)
    (folder / "images/ab/a.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    await tab.open(write_gallery(folder))
    await tab.until("document.querySelectorAll('.lost').length")
    note = "getComputedStyle(document.querySelector('.lost button'), '::before').content"
    assert await tab.run(note) == '"Not shown: image/svg+xml"'
    await tab.click("#grid li button")
    await tab.until("document.querySelector('#lightbox').open")
    text: Any = await tab.run("document.querySelector('#trouble').innerText")
    assert text.split() == ["Not", "shown:", "image/svg+xml", "images/ab/a.svg"]
    assert await tab.run("document.querySelectorAll('[src*=svg], [href*=svg]').length") == 0


async def test_an_empty_batch_says_so(tab: Page, tmp_path: Path) -> None:
    """A batch that settled nothing shows words instead of an empty window."""
    await tab.open(write_gallery(fill(tmp_path / "shots")))
    text: Any = await tab.run("document.querySelector('#empty').innerText")
    assert text.strip() == "Nothing is here yet: the batch has settled no item."
    assert json.dumps(tab.complaints) == "[]"


async def test_captions(tab: Page, shots: Path) -> None:
    """Each picture shows its prompt at rest, within its tile however narrow, until told not to."""
    spilled = (
        "[...document.querySelectorAll('#grid .done')].filter((tile) => { const [outer, inner] = "
        "[tile, tile.querySelector('.caption')].map((one) => one.getBoundingClientRect());"
        "return inner.right > outer.right + 1 || inner.bottom > outer.bottom + 1 ||"
        "inner.height < 30 || inner.height > 46 ||"  # two lines, and none of a third
        "getComputedStyle(tile.querySelector('.caption')).overflow !== 'hidden'; }).length"
    )
    opaque = "getComputedStyle(document.querySelector('.caption')).opacity"
    await tab.screen(360, 740)
    await tab.open(shots)
    await tab.run("size.value = 110, size.oninput()")
    assert await tab.until(f"{opaque} === '1'")
    assert await tab.run(spilled) == 0
    await tab.run("captions.click()")
    assert await tab.run(opaque) == "0"
    await tab.open(shots)
    assert await tab.run("captions.ariaPressed") == "false"
    await tab.press("t", "t")
    assert await tab.run(opaque) == "1"
    await tab.run("localStorage.clear()")
    await tab.screen(1280, 800)


async def test_the_address_keeps_the_choice(tab: Page, shots: Path) -> None:
    """Words, filters, order and the open picture survive a reload, and Back closes the picture."""
    state = (
        "[location.hash, ...['#prompt', '#position'].map("
        "(name) => document.querySelector(name).textContent)]"
    )
    await open_all(tab, shots)
    await search(tab, "view & 1")
    await tab.run("document.querySelector('#statuses button').click()")
    await tab.run("order.value = 'newest', order.onchange({ target: order })")
    await tab.until(f"{TILES} === 0")
    await search(tab, "lighthouse row-1")
    await tab.until(f"{TILES} === 3")
    await tab.click("#grid li:nth-child(2) button")
    before = await tab.run(state)
    assert before[1:] == ["A lighthouse, view 10", "2 of 3"]
    await tab.open(shots, before[0])
    await tab.until("lightbox.open")
    assert await tab.run(state) == before
    assert await tab.run("[search.value, order.value]") == ["lighthouse row-1", "newest"]
    await tab.press("ArrowRight")
    assert await tab.run("document.querySelector('#prompt').textContent") == "A lighthouse, view 1"
    await leave(tab)
    assert await tab.run("location.hash") == "#q=lighthouse+row-1&status=done&order=newest"
    await tab.click("#grid li button")
    await tab.run("history.back()")
    await tab.until("!lightbox.open")
    assert await tab.run("location.hash") == "#q=lighthouse+row-1&status=done&order=newest"


async def test_an_address_from_elsewhere(tab: Page, shots: Path) -> None:
    """An address that names what is not here opens the grid, and runs nothing."""
    await tab.open(shots, "#open=javascript:alert(1)&order=constructor&in.x=1&status=__proto__&q=%")
    await tab.until("!document.querySelector('#empty').hidden")
    assert await tab.run("lightbox.open") is False
    await tab.click("#clear")
    assert await tab.until(f"{TILES} === 15")
    assert tab.complaints == []


async def test_keys_are_listed(tab: Page, shots: Path) -> None:
    """A question mark lists the keys, on the grid and over an enlarged picture."""
    await open_all(tab, shots)
    await tab.press("?", "?")
    assert "Side by side" not in await tab.until("keys.open && keys.innerText")
    await tab.press("?", "?")
    await tab.until("!keys.open")
    await tab.click("#grid li button")
    await tab.press("?", "?")
    await tab.until("keys.open")
    await tab.press("Escape")
    assert await tab.run("[keys.open, lightbox.open]") == [False, True]


@pytest.mark.parametrize("storage", ["kept", "denied"])
async def test_stars(tab: Page, shots: Path, tmp_path: Path, storage: str) -> None:
    """Stars are set by a key, kept if the browser keeps anything, and saved as lists."""
    denied = "Object.defineProperty(window, 'localStorage', { get() { throw new Error('no'); } })"
    if storage == "denied":
        await tab.call("Page.addScriptToEvaluateOnNewDocument", source=denied)
    await tab.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    await open_all(tab, shots)
    await tab.run("document.querySelector('#grid li:nth-child(2) button').focus()")
    await tab.press("s", "s")
    await tab.click("#grid li:nth-child(3) button")
    await tab.press("s", "s")
    assert await tab.run("star.ariaPressed") == "true"
    await leave(tab)
    if storage == "kept":
        await open_all(tab, shots)
    assert await tab.run("document.querySelectorAll('#grid .starred').length") == 2
    await tab.press("f", "f")
    await tab.until(f"{TILES} === 2")
    assert await tab.run("lasting.hidden") is (storage == "kept")
    await tab.run("document.querySelector('#export-list').click()")
    await tab.run("document.querySelector('#export-rows').click()")
    async with asyncio.timeout(10):
        while sorted(path.name for path in tmp_path.iterdir()) != ["starred.jsonl", "starred.txt"]:
            await asyncio.sleep(0.02)
    names = ["images/01/shot 1.png", "images/02/shot 2.png"]
    assert (tmp_path / "starred.txt").read_text().splitlines() == names
    rows = [json.loads(line) for line in (tmp_path / "starred.jsonl").read_text().splitlines()]
    assert [each["file_name"] for each in rows] == names
    assert rows[0].keys() <= row(1).keys() | {"status"}
    await tab.run("document.querySelector('#export-clear').click()")
    assert await tab.until(f"{TILES} === 15")
    assert tab.complaints == []


async def test_one_prompt_side_by_side(tab: Page, tmp_path: Path) -> None:
    """The pictures of one prompt are found together, and a press enlarges one of them."""
    same = [row(n, prompt="two foxes" if n % 2 else f"alone {n}") for n in range(8)]
    await tab.open(write_gallery(fill(tmp_path / "shots", same)))
    await tab.click("#grid li:nth-child(1) button")
    assert await tab.run("family.hidden") is True
    await tab.press("ArrowRight")
    assert await tab.run("document.querySelectorAll('#strip button').length") == 4
    await tab.press("b", "b")
    assert await tab.run("document.querySelectorAll('#beside button').length") == 4
    assert await tab.run("document.querySelector('#full').hidden") is True
    await tab.click("#beside button:nth-child(4)")
    assert await tab.run("[beside.hidden, position.textContent]") == [True, "8 of 8"]


async def test_reasons_and_their_commands(tab: Page, tmp_path: Path) -> None:
    """Failures are grouped by reason, each with a command that finds its rows in the list."""
    policy = {"type": "RejectedError", "message": "No.", "status": 400, "charge": "no"}
    wrong = {**policy, "code": "it's", "message": "\u202eNo."}
    busy = {**policy, "type": "UnavailableError", "status": 503, "code": "busy\x1b[2J"}
    kinds = [{**policy, "code": "content_policy"}] * 3 + [{**policy, "code": None}] * 2
    failed = [
        {"id": f"no-{n}", "prompt": '"code": "content_policy"', "error": error}
        for n, error in enumerate([*kinds, wrong, busy])
    ]
    folder = fill(tmp_path / "shots", failed=failed)
    await tab.open(write_gallery(folder), "#status=failed")
    lines = "[...document.querySelectorAll('#reason-list > li')]"
    assert await tab.until(f"{lines}.length") == 4
    commands = await tab.run(f"{lines}.map((line) => line.querySelector('code')?.textContent)")
    assert commands[2:] == [None, None]  # no command is made of a quote or an escape
    for command, ids in zip(commands, (["no-0", "no-1", "no-2"], ["no-3", "no-4"]), strict=False):
        find, _, again = command.partition(" && ")
        assert again == "imagen-async batch retry.jsonl --out shots --retry-failed"
        subprocess.run(["sh", "-c", find], cwd=tmp_path, check=True)
        found = (tmp_path / "retry.jsonl").read_text().splitlines()
        assert [json.loads(line)["id"] for line in found] == ids
    await tab.run(f"{lines}[1].querySelector('button').click()")
    await tab.until(f"{TILES} === 2 && {COUNT} === '2 of 7'")
    await tab.run(f"{lines}[1].querySelector('.plain').click()")
    await tab.until(f"{lines}[1].querySelector('.plain').textContent === 'Copied'")


async def test_a_killed_run_is_said(tab: Page, tmp_path: Path) -> None:
    """What a run that was killed left in doubt is said above the pictures, and shown."""
    doubts = views.Doubts(rows=({"id": "a", "prompt": "a boat", "error": {"charge": "maybe"}},) * 2)
    folder = fill(tmp_path / "shots", [row(1)])
    about = views.about(folder, doubts)
    write_page(folder, views.cards(folder, doubts), about)
    await tab.open(folder / "index.html")
    notice = await tab.until("!document.querySelector('#notice').hidden && notice.textContent")
    assert notice.startswith("The run was killed while 2 requests were under way and may have been")
    assert await tab.run("document.querySelectorAll('#grid .unknown').length") == 2


async def test_the_users_columns(tab: Page, tmp_path: Path) -> None:
    """A user's columns are menus where they have few values, and are sought by name and value."""
    own = [{"style": "Ink" if n % 3 else "oil paint", "sku": f"s-{n}"} for n in range(30)]
    await tab.open(write_gallery(fill(tmp_path / "shots", [row(n, **own[n]) for n in range(30)])))
    menu = "document.querySelector('#columns select')"
    assert await tab.run(f"[...{menu}.options].map((option) => option.text)") == [
        *("style: any", "Ink (20)", "oil paint (10)")
    ]
    await tab.run(f"{menu}.value = 'oil paint', {menu}.onchange()")
    await tab.until(f"{COUNT} === '10 of 30'")
    assert await tab.run("location.hash") == "#in.style=oil+paint"
    await tab.run(f"{menu}.value = '', {menu}.onchange()")
    for words, count in (("style:ink", 20), ("sku:s-1", 11), ("style:s-1", 0), ("S-29", 1)):
        await search(tab, words)
        await tab.until(f"{COUNT} === '{count} of 30'")
    await tab.click("#grid button")
    assert "sku" in await tab.run("facts.innerText")


async def test_the_users_columns_of_a_live_page(tab: Page, tmp_path: Path) -> None:
    """While a run goes on its columns become menus as their values come."""
    folder = fill(tmp_path / "shots", [row(0, style="ink", sku="s-0")])
    menu = "document.querySelector('#columns select')"
    options = f"[...{menu}.options].map((option) => option.text).join()"
    async with LiveGallery(folder) as served:
        await tab.call("Page.navigate", url=served.url)
        await tab.until(f"{TILES} === 1 && !{menu}")
        with (folder / "metadata.jsonl").open("a") as file:
            for n in range(1, 30):
                file.write(f"{json.dumps(row(n, style='oil' if n % 3 else 'ink', sku=f's-{n}'))}\n")
        await tab.until(f"{TILES} > 1 && {options} === 'style: any,ink,oil'")
        assert await tab.run("document.querySelectorAll('#columns select').length") == 1
        await tab.run(f"{menu}.value = 'oil', {menu}.onchange()")
        await tab.until(f"{COUNT} === '20 of 30'")
        await search(tab, "style:ink")
        await tab.until(f"{COUNT} === '0 of 30'")
        await tab.click("#clear")
        await tab.until(f"{COUNT} === '' && {menu}.value === ''")


async def test_a_run_that_goes_on_shows_the_latest(tab: Page, tmp_path: Path) -> None:
    """The page that a run writes again and again says which of its pictures it shows."""
    folder = fill(tmp_path / "shots", [row(n) for n in range(10)])
    running = views.Doubts(phase="running")
    write_page(folder, views.cards(folder, running, last=1000), views.about(folder, running))
    await tab.open(folder / "index.html")
    notice = await tab.until("!document.querySelector('#notice').hidden && notice.textContent")
    assert notice.endswith("Shown are the latest 3 of 10 pictures; the batch's lists name all.")
    assert await tab.run("document.querySelector('#summary').textContent") == "10 pictures"


async def test_an_interrupted_run_is_said(tab: Page, tmp_path: Path) -> None:
    """A page whose run was cancelled does not say that it goes on."""
    folder = fill(tmp_path / "shots", [row(1)])
    write_page(folder, views.cards(folder), views.about(folder, views.Doubts(phase="interrupted")))
    await tab.open(folder / "index.html")
    notice = await tab.until("!document.querySelector('#notice').hidden && notice.textContent")
    assert notice.startswith("The run was interrupted; what came last may not be shown.")


async def test_cards_come_while_the_page_is_open(tab: Page, tmp_path: Path) -> None:
    """The page takes more cards at any time: their tiles and counts follow."""
    await tab.open(write_gallery(fill(tmp_path / "shots", [row(1)])))
    await tab.run(
        "gallery.page({ rows: 2, columns: { status: { of: ['done'], at: [] }, ratio: ['', ''],"
        "id: ['x', 'y'], prompt: ['a later one', 'another'] } })"
    )
    await tab.until(f"{TILES} === 3")
    assert (await tab.run("summary.textContent")).startswith("3 pictures")
    await search(tab, "later")
    await tab.until(f"{COUNT} === '1 of 3'")


async def test_long_prompts_are_whole_in_the_large_view(tab: Page, tmp_path: Path) -> None:
    """Ten thousand characters fit the tile, and are all in the large view and in its copy."""
    text = "\x1b[2Jabc \u202e" * 1111
    await tab.open(write_gallery(fill(tmp_path / "shots", [row(0, prompt=text)])))
    assert await tab.run("document.querySelector('.caption').textContent.length") < 1000
    await tab.click("#grid button")
    shown = await tab.run("document.querySelector('#prompt').textContent")
    assert shown == text.replace("\x1b", "\\u001b").replace("\u202e", "\\u202e")
    assert await tab.run("document.documentElement.scrollWidth <= innerWidth")


async def test_a_live_page(tab: Page, tmp_path: Path, axe: str | None) -> None:
    """Images, failures and progress come while the run goes on; the buttons hold and end it."""
    out = tmp_path / "shots"
    async with Emulator(draw="tiny", latency=0.2) as emulator:
        emulator.fail_next("400")
        core = core_on(emulator, concurrency=2)
        run = Run(core, b64(*(f"<b>{n}</b>" for n in range(150))), out, RunOptions(gallery=False))

        def progress() -> dict[str, object]:
            report, paused = run.report, run.paused
            counts = {"total": 150, "done": report.done, "failed": report.failed, "in_flight": 1}
            return {**counts, "paused": paused, "stopping": report.stopped_by is not None}

        async with asyncio.timeout(40), LiveGallery(out, run, progress) as served, run:
            reading = asyncio.create_task(collect(run))
            tab.complaints.clear()
            await tab.call("Page.navigate", url=served.url)
            await tab.until(f"document.querySelectorAll('.loaded').length > 1 && {TILES} > 2")
            assert "1 failed" in await tab.run("summary.textContent")
            assert " of 150" in await tab.run("document.querySelector('#live-text').textContent")
            await tab.click("#live-pause")
            await tab.until(f"{STATE}.startsWith('Paused')")
            await asyncio.sleep(0.3)
            sent = emulator.ledger.total.posts
            await asyncio.sleep(0.3)
            assert emulator.ledger.total.posts == sent
            assert axe is None or await barriers(tab, axe) == []
            await tab.click("#live-pause")
            await tab.until(f"{STATE} === '' && parseInt(summary.textContent) > {sent}")
            await tab.click("#live-stop")
            await reading
        await tab.until(f"{STATE}.includes('has ended')")
        assert run.report.stopped_by == "stopped"
        assert run.report.done == emulator.ledger.total.charged < 150
        summary = await tab.until("summary.textContent")
        assert summary.startswith(f"{run.report.done} pictures")
        assert await tab.run("document.querySelector('#live-pause').hidden")
        await core.aclose()
    # An icon is asked for without the token, and pictures out of sight too late.
    assert [text for text in tab.complaints if "load resource" not in text] == []


async def collect(run: Run) -> None:
    """Read a run to its end."""
    async for _ in run:
        pass


async def test_what_a_large_gallery_leaves_out(
    tab: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond a number of cards the page says what it shows, and of how many."""
    monkeypatch.setattr(views, "SHOWN", 4)
    await tab.open(write_gallery(fill(tmp_path / "shots", [row(n) for n in range(10)])))
    assert await tab.until(f"{TILES} === 4 && document.querySelector('#notice').textContent") == (
        "Shown are the first 4 of 10 pictures; the batch's lists name all."
    )
    assert await tab.run("document.querySelector('#summary').textContent") == "10 pictures"
