"""Parts of files, as a download that goes on asks for them."""

from __future__ import annotations

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagen_async.emulator.answers import Answer
from imagen_async.emulator.ranges import completes, ranged

WHOLE = Answer(200, b"0123456789", "image/png", {"ETag": '"e"'})


@pytest.mark.parametrize(
    ("asked", "status", "body", "told"),
    [
        ("bytes=0-3", 206, b"0123", "bytes 0-3/10"),
        ("bytes=4-", 206, b"456789", "bytes 4-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=-99", 206, b"0123456789", "bytes 0-9/10"),
        ("bytes=8-99", 206, b"89", "bytes 8-9/10"),
        ("bytes=10-", 416, b"", "bytes */10"),
        ("bytes=99-100", 416, b"", "bytes */10"),
        ("bytes=-0", 416, b"", "bytes */10"),
        ("bytes=5-4", 200, WHOLE.body, None),
        ("bytes=0-1,3-4", 200, WHOLE.body, None),
        ("bytes=-", 200, WHOLE.body, None),
        ("lines=1-2", 200, WHOLE.body, None),
        ("", 200, WHOLE.body, None),
        (None, 200, WHOLE.body, None),
    ],
)
def test_a_range(asked, status, body, told):
    """One range gets its part, one beyond the end 416; anything else gets the whole file."""
    answer = ranged(WHOLE, asked, None)
    assert (answer.status, answer.body) == (status, body)
    assert answer.headers.get("Content-Range") == told
    assert answer.headers["Accept-Ranges"] == "bytes"


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        (None, 206),
        ('"e"', 206),
        ('"f"', 200),
        ('W/"e"', 200),
        ("Mon, 01 Jan 2024 00:00:00 GMT", 200),
    ],
)
def test_if_range(condition, status):
    """Only the same ETag gets a part: another one's parts must not be joined."""
    assert ranged(WHOLE, "bytes=4-", condition).status == status


@pytest.mark.parametrize("status", [302, 304, 403, 404])
def test_only_a_file_has_parts(status):
    """An answer that is no file stays what it is."""
    answer = Answer(status, b"Not Found", headers={"ETag": '"e"'})
    assert ranged(answer, "bytes=0-1", None) is answer
    assert not completes(answer)


@given(st.binary(max_size=40), st.text(max_size=12) | st.from_regex(r"bytes=[0-9]{0,3}-[0-9]{0,3}"))
def test_any_range_is_answered(body, asked):
    """Whatever is asked, the part is where its answer says, and only the last one completes."""
    answer = ranged(Answer(200, body, headers={"ETag": '"e"'}), asked, None)
    if answer.status == 206:
        span = answer.headers["Content-Range"].removeprefix("bytes ").partition("/")[0]
        first, last = map(int, span.split("-"))
        assert answer.body == body[first : last + 1] != b""
        assert completes(answer) is (last == len(body) - 1)
    else:
        assert answer.body == (body if answer.status == 200 else b"")
        assert completes(answer) is (answer.status == 200)


async def test_a_download_goes_on_where_it_stopped(run):
    """Two parts are the file, counted as one download; HEAD and an expired link have no parts."""
    async with run() as (emulator, raw):
        url = (await raw.post("A cat")).json["data"][0]["url"]
        whole = await raw.get(url)
        account = emulator.ledger["A cat"]
        assert (whole.headers["Accept-Ranges"], account.downloads) == ("bytes", 1)
        first = await raw.get(url, headers={"Range": "bytes=0-9"})
        assert account.downloads == 1
        headers = {"Range": "bytes=10-", "If-Range": first.headers["ETag"]}
        rest = await raw.get(url, headers=headers)
        assert (first.status, rest.status, account.downloads) == (206, 206, 2)
        assert first.body + rest.body == whole.body
        beyond = await raw.get(url, headers={"Range": f"bytes={len(whole.body)}-"})
        assert (beyond.status, beyond.headers["Content-Range"]) == (
            416,
            f"bytes */{len(whole.body)}",
        )
        assert (await raw.send("HEAD", url, headers={"Range": "bytes=0-9"})).status == 200
        assert (await raw.get("/files/none.png", headers={"Range": "bytes=0-9"})).status == 404


async def test_a_part_may_break_too(run):
    """Half of a part comes before the connection ends."""
    async with run() as (_, raw):
        url = (await raw.post("A cat", fault="file_truncated")).json["data"][0]["url"]
        with pytest.raises(aiohttp.ClientPayloadError):
            await raw.get(url, headers={"Range": "bytes=0-9"})
