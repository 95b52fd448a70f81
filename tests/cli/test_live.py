"""``--live`` and ``--open``: the gallery in a browser while a batch runs."""

from __future__ import annotations

import os
import signal
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.cli.processes import until


@pytest.fixture
def browser(monkeypatch):
    """What a browser does with the address that it is given; returns the addresses."""
    opened: list[str] = []

    def install(act):
        def open_address(address: str) -> bool:
            opened.append(address)
            act(address)
            return True

        monkeypatch.setattr("webbrowser.open", open_address)
        return opened

    return install


def press(address: str, action: str) -> None:
    """Press a button as the page does."""
    parts = urlsplit(address)
    headers = {"Origin": f"{parts.scheme}://{parts.netloc}"}
    urllib.request.urlopen(
        urllib.request.Request(f"{address}{action}", method="POST", headers=headers)
    ).close()


def test_a_batch_is_served_while_it_runs(cli, gateway, browser):
    """The address is told and opened; what its buttons do is done; at the end it is closed."""
    Path("in.txt").write_text("".join(f"fox {n}\n" for n in range(2000)))
    pages: list[bytes] = []

    def act(address: str) -> None:
        pages.append(urllib.request.urlopen(address).read())
        until(lambda: gateway.ledger.total.charged >= 3)
        press(address, "pause")
        press(address, "resume")
        press(address, "stop")

    opened = browser(act)
    ended = cli("batch", "in.txt", "--out", "shots", "--live", "--open")
    assert (ended.code, ended.lines) == (3, ["shots/index.html"])
    assert f"Live: {opened[0]}" in ended.err
    assert opened[0] not in ended.out
    assert b"connect-src" in pages[0]
    assert 3 <= gateway.ledger.total.charged < 2000
    gateway.ledger.assert_charged_once()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(opened[0])


def test_a_folder_is_served_until_a_signal(cli, gateway, browser):
    """Without a run of its own the command shows a folder, changes nothing, and has no buttons."""
    Path("in.txt").write_text("a fox\n")
    assert cli("batch", "in.txt", "--out", "shots").code == 0
    before = {path: path.stat().st_mtime_ns for path in Path("shots").rglob("*")}

    def act(address: str) -> None:
        try:
            assert urllib.request.urlopen(address).status == 200
            with pytest.raises(OSError, match="404"):
                press(address, "stop")
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    opened = browser(act)
    ended = cli("gallery", "shots", "--live", "--open")
    assert (ended.code, ended.lines) == (0, opened)
    assert {path: path.stat().st_mtime_ns for path in Path("shots").rglob("*")} == before


def test_a_written_gallery_is_opened(cli, gateway, browser):
    """Without a server it is the page on disk that is opened, by a batch at its end."""
    Path("in.txt").write_text("a fox\n")
    opened = browser(lambda _: None)
    assert cli("batch", "in.txt", "--out", "shots", "--open").code == 0
    assert cli("gallery", "shots", "--open").code == 0
    assert opened == [Path("shots/index.html").absolute().as_uri()] * 2


def test_a_folder_without_a_batch_is_not_served(cli):
    """A folder that holds no batch is refused before anything listens."""
    Path("empty").mkdir()
    ended = cli("gallery", "empty", "--live")
    assert (ended.code, ended.out) == (2, "")
    assert "holds no batch" in ended.err
