"""A real Chromium, driven over its debugging protocol with nothing but aiohttp's websocket."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import shutil
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import attrs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--remote-debugging-port=0",
    "--window-size=1280,800",
)


def find_chromium() -> str | None:
    """Return the path of a Chromium, None if there is none here."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next(filter(None, map(shutil.which, names)), None)


@attrs.define(eq=False)
class Page:
    """One tab, and all that it complained of."""

    _socket: aiohttp.ClientWebSocketResponse
    complaints: list[str] = attrs.field(factory=list)
    _answers: dict[int, asyncio.Future[dict[str, Any]]] = attrs.field(factory=dict)
    _numbers: itertools.count[int] = attrs.field(factory=lambda: itertools.count(1))

    async def listen(self) -> None:
        """Hand answers to their callers and keep complaints, until the tab is gone."""
        async for message in self._socket:
            event = json.loads(message.data)
            if waiting := self._answers.pop(event.get("id"), None):
                waiting.set_result(event)
            elif event.get("method") == "Log.entryAdded":
                self.complaints.append(event["params"]["entry"]["text"])
            elif event.get("method") == "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(event["params"]["exceptionDetails"]))
            elif event.get("method") == "Runtime.consoleAPICalled":
                self.complaints.append(json.dumps(event["params"]["args"]))
            elif event.get("method") == "Page.javascriptDialogOpening":
                self.complaints.append("dialog: " + event["params"]["message"])

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        number = next(self._numbers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        answer = await self._answers[number]
        assert "error" not in answer, answer["error"]
        return answer["result"]

    async def run(self, script: str) -> Any:
        """Evaluate an expression in the page, await it, and return its JSON value."""
        result = await self.call(
            "Runtime.evaluate",
            expression=script,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    async def until(self, script: str) -> Any:
        """Wait until an expression holds, looked at once a frame, at most ten seconds.

        One that throws does not hold yet: what it names may come later.
        """
        return await self.run(
            "new Promise((found, failed) => { const start = performance.now(); (function look() {"
            f"let value; try {{ value = {script}; }} catch {{}} if (value) found(value);"
            f"else if (performance.now() - start > 10000) failed(new Error({json.dumps(script)}));"
            "else requestAnimationFrame(look); })(); })"
        )

    async def open(self, file: Path, fragment: str = "") -> None:
        """Open a file as a reader's double click does, until its first tile or empty state."""
        self.complaints.clear()
        await self.call("Page.navigate", url="about:blank")  # else a fragment alone loads nothing
        await self.call("Page.navigate", url=file.as_uri() + fragment)
        await self.until(
            "document.querySelector('#grid li, #empty:not([hidden])') && "
            "document.readyState === 'complete'"
        )

    async def press(self, key: str, text: str = "") -> None:
        """Press and release one key."""
        code = {"Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowRight": 39, "ArrowDown": 40}
        keys = {"key": key, "windowsVirtualKeyCode": code.get(key, 0), "text": text}
        keys["text"] = "\r" if key == "Enter" else text
        await self.call("Input.dispatchKeyEvent", type="keyDown", **keys)
        await self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    async def click(self, selector: str) -> None:
        """Bring an element into the window and click its middle with the mouse."""
        x, y = await self.run(
            f"(() => {{ const element = document.querySelector({json.dumps(selector)});"
            "element.scrollIntoView({ block: 'nearest' });"
            "const box = element.getBoundingClientRect();"
            "return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            place = {"x": x, "y": y, "button": "left", "clickCount": 1}
            await self.call("Input.dispatchMouseEvent", type=kind, **place)

    async def screen(self, width: int, height: int, *, dark: bool = False, scale: int = 1) -> None:
        """Set the window's size in CSS pixels and the preferred colours; nothing moves."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 500,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        still = {"name": "prefers-reduced-motion", "value": "reduce"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme, still])

    async def screenshot(self, file: Path) -> None:
        """Save what the window shows as PNG."""
        shot = await self.call("Page.captureScreenshot", format="png")
        file.write_bytes(base64.b64decode(shot["data"]))


@asynccontextmanager
async def chromium(profile: Path) -> AsyncIterator[Page]:
    """Start a Chromium of our own with one tab, and end it, and it alone, on leaving."""
    binary = find_chromium()
    assert binary is not None
    process = await asyncio.create_subprocess_exec(
        binary,
        *FLAGS,
        f"--user-data-dir={profile}",
        "about:blank",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        port = await _port(profile / "DevToolsActivePort", process)
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            async with session.get("/json/list") as answer:
                tabs = await answer.json(content_type=None)
            address = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
            async with session.ws_connect(address, max_msg_size=0) as socket:
                page = Page(socket)
                listening = asyncio.create_task(page.listen())
                for domain in ("Page", "Runtime", "Log"):
                    await page.call(f"{domain}.enable")
                yield page
                listening.cancel()
    finally:
        os.killpg(process.pid, 9)
        await process.wait()


async def _port(file: Path, process: asyncio.subprocess.Process) -> int:
    async with asyncio.timeout(20):
        while True:
            assert process.returncode is None, "Chromium ended at its start"
            if file.exists() and (lines := file.read_text().split()):
                return int(lines[0])
            await asyncio.sleep(0.02)
