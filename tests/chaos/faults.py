"""Faults as a network and a gateway really commit them, down to the byte.

Those that end after ``generate`` have cost money, whatever the client is told.
"""

import asyncio
import base64
import gzip
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from tests.chaos.server import PNG, Exchange, Fault, head

SECRET_HEADER = "Set-Cookie: session=server-secret-4711"


def status(code: int | str, body: bytes = b"", *headers: str, charged: bool = False) -> Fault:
    """Return a fault that answers with a status."""

    async def answer(exchange: Exchange) -> None:
        if charged:
            exchange.generate()
        await exchange.answer(body, code, *headers)

    return answer


def error(code: int, /, *, charged: bool = False, **fields: Any) -> Fault:
    """Return a fault that answers with a status and an error object."""
    return status(code, json.dumps({"error": fields}).encode(), charged=charged)


def body(make: Callable[[bytes], bytes] | bytes, *headers: str, code: int = 200) -> Fault:
    """Return a fault that generates, and answers with a body made of the good one."""

    async def answer(exchange: Exchange) -> None:
        good = exchange.generate()
        await exchange.answer(make if isinstance(make, bytes) else make(good), code, *headers)

    return answer


def document(**fields: Any) -> Fault:
    """Return a fault that generates, and answers with a document."""
    return body(json.dumps(fields).encode())


def raw(*pieces: bytes, then: str = "close") -> Fault:
    """Return a fault that generates, writes bytes, and closes, resets or hangs."""

    async def write(exchange: Exchange) -> None:
        exchange.generate()
        for piece in pieces:
            await exchange.send(piece)
            await asyncio.sleep(0)
        await _end(exchange, then)

    return write


async def _end(exchange: Exchange, then: str) -> None:
    if then == "hang":
        await exchange.add()
    elif then == "reset":
        # What was written is out before the RST overtakes it.
        await asyncio.sleep(0.01)
        exchange.reset()
    else:
        exchange.close()


def cut(framing: str, share: float = 0.6, then: str = "close", blank: bytes = b"") -> Fault:
    """Return a fault that sends a part of the body, and no more.

    Args:
        framing: ``length``, ``chunked`` or ``none``.
        share: Of the body's bytes.
        then: ``close``, ``reset`` or ``hang``.
        blank: Sent before the body.
    """

    async def send(exchange: Exchange) -> None:
        good = exchange.generate()
        part = blank + good[: int(len(good) * share)]
        if framing == "length":
            await exchange.send(head(200, len(blank + good)) + part)
        elif framing == "chunked":
            begin = head(200, None, "Transfer-Encoding: chunked")
            await exchange.send(begin + b"%x\r\n%s\r\n" % (len(part), part) if part else begin)
        else:
            await exchange.send(head(200, None, "Connection: close") + part)
        await _end(exchange, then)

    return send


def dripping(pause: float) -> Fault:
    """Return a fault that sends spaces for ever."""

    async def drip(exchange: Exchange) -> None:
        exchange.generate()
        await exchange.send(head(200, None, "Transfer-Encoding: chunked"))
        with suppress(ConnectionError):
            while not exchange.reader.at_eof() and not exchange.writer.is_closing():
                await exchange.send(b"1\r\n \r\n")
                await asyncio.sleep(pause)
        exchange.close()

    return drip


async def sliced(exchange: Exchange) -> None:
    """Send a good answer in segments of one byte, and its prompt as four-byte characters."""
    item = {"b64_json": base64.b64encode(PNG).decode(), "revised_prompt": exchange.prompt}
    exchange.generate()
    good = json.dumps({"data": [item]}, ensure_ascii=False).encode()
    for byte in head(200, len(good)) + good:
        await exchange.send(bytes([byte]))
        await asyncio.sleep(0)


async def early(exchange: Exchange) -> None:
    """Refuse by 413 and close, as a front does while the body still comes."""
    await exchange.answer(b"", 413, "Connection: close")
    exchange.close()


async def twice_answered(exchange: Exchange) -> None:
    """Send a second answer that nobody asked for: another prompt's image."""
    await exchange.answer(exchange.generate())
    stray = json.dumps({"data": [{"url": "https://stray.example/x", "revised_prompt": "stray"}]})
    with suppress(ConnectionError):
        await exchange.answer(stray.encode())


async def overlong(exchange: Exchange) -> None:
    """Send more bytes than Content-Length says."""
    good = exchange.generate()
    await exchange.answer(good + b'{"data": []}' * 50, length=len(good))


async def truncated_gzip(exchange: Exchange) -> None:
    """Send half a gzip stream under a right Content-Length: aiohttp reports no error."""
    packed = gzip.compress(exchange.generate())[:-40]
    await exchange.answer(packed, 200, "Content-Encoding: gzip")


async def ok_then_closed(exchange: Exchange) -> None:
    """Answer well and close the kept connection without a word."""
    await exchange.answer(exchange.generate())
    exchange.close()


def repeated(fault: Fault, times: int, then: Fault) -> list[Fault]:
    return [fault] * times + [then]


Play = Callable[[Exchange], Awaitable[None]]

CHARGED: dict[str, Fault] = {
    "RST after the request": raw(then="reset"),
    "FIN after the request": raw(),
    "half a status line": raw(b"HTTP/1.1 20"),
    "half the headers": raw(f"HTTP/1.1 200 OK\r\n{SECRET_HEADER}\r\nConte".encode()),
    "cut by length": cut("length"),
    "cut in a chunk": cut("chunked"),
    "cut without length": cut("none"),
    "RST in the body": cut("length", then="reset"),
    "spaces, then cut": cut("chunked", 0, blank=b"  \n "),
    "spaces, then RST": cut("length", 0, "reset", b" \r\n"),
    "head only": cut("chunked", 0),
    "truncated gzip": truncated_gzip,
    "408": status(408, charged=True),
    "502": status(502, b"<html>Bad Gateway", charged=True),
    "504": status(504, charged=True),
    "520": status(520, charged=True),
    "524": status(524, b"error code: 524", charged=True),
    "499": status(499, charged=True),
    "522": status(522, charged=True),
    "599": status(599, charged=True),
    "500": status(500, b"Internal Server Error", charged=True),
    "503": status(503, b"", "Retry-After: 0", charged=True),
    "529": status(529, charged=True),
    "500 of a forwarder": error(
        500, message="litellm.APIConnectionError: Connection error.", charged=True
    ),
    "SSH banner": raw(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "HTTP/2 preface": raw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "HTTP/0.9": raw(b'{"data": []}'),
    "status 0200": raw(b"HTTP/1.1 0200 OK\r\nContent-Length: 0\r\n\r\n"),
    "only 100 Continue": raw(b"HTTP/1.1 100 Continue\r\n\r\n"),
    "CL and TE": raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n"),
    "two CL": raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}"),
    "negative CL": raw(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"),
    "a header of 9 KB": raw(b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 9000 + b"\r\n\r\n"),
    "200 headers": raw(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n"),
    "NUL in a header": raw(b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n"),
    "bad chunk size": raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"),
    "empty body": body(b""),
    "blank body": body(b" \r\n"),
    "empty body in chunks": raw(
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "empty body without length": raw(b"HTTP/1.1 200 OK\r\n\r\n"),
    "204": status(204, charged=True),
    "null": body(b"null"),
    "a list": body(b"[]"),
    "broken JSON": body(lambda good: good[:-3] + b"}}}"),
    "100,000 brackets": body(b"[" * 100_000),
    "a number of 5,000 digits": body(b'{"data": ' + b"9" * 5000 + b"}"),
    "no data": document(created=1),
    "empty data": document(data=[]),
    "an item without image": document(data=[{"revised_prompt": "x"}]),
    "nulls": document(data=[{"url": None, "b64_json": None}, None]),
    "bad base64": document(data=[{"b64_json": "!!!!"}]),
    "half an image": document(data=[{"b64_json": base64.b64encode(PNG[:-5]).decode()}]),
}
"""By name, faults after which the image is paid for and the naive client pays again."""

FREE: dict[str, Fault] = {
    "425": status(425),
    "429": status(429, b"", "Retry-After: 0"),
    "an empty 429": status(429),
    "500": error(500, message="rate_limit_check_failed"),
    "503 in a queue": error(503, message="Queue is full"),
    "529": error(529, code="overloaded_error"),
    "521": status(521),
    "200 with a rate limit": error(200, code="rate_limit_exceeded", message="slow down"),
}
"""By name, faults before anything was made; sending again is right."""
