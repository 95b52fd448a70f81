"""Answers put onto the wire, the broken ones by hand."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from http import HTTPStatus
from typing import TYPE_CHECKING

from aiohttp import web

from imagen_async.emulator.answers import Answer, Framing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

BLANK_EVERY = 0.005
"""Seconds between the blanks of a dribbled body."""


async def deliver(request: web.BaseRequest, answer: Answer) -> tuple[web.StreamResponse, bool]:
    """Send an answer.

    Args:
        request: What is answered.
        answer: The answer.

    Returns:
        The response for aiohttp to finish with, and whether the answer left whole.
    """
    try:
        if answer.framing is Framing.WHOLE:
            return await _whole(request, answer), True
        if answer.framing in (Framing.DRIBBLED, Framing.STREAMED):
            return await _in_pieces(request, answer), True
        await _BROKEN[answer.framing](request, answer)
    except ConnectionError:
        pass  # the client went away: it has what it has
    return web.Response(), False


async def _whole(request: web.BaseRequest, answer: Answer) -> web.StreamResponse:
    headers = {"Content-Type": answer.content_type, **answer.headers}
    response = web.Response(status=answer.status, body=answer.body, headers=headers)
    await response.prepare(request)
    await response.write_eof()
    return response


async def _in_pieces(request: web.BaseRequest, answer: Answer) -> web.StreamResponse:
    headers = {"Content-Type": answer.content_type, **answer.headers}
    response = web.StreamResponse(status=answer.status, headers=headers)
    response.enable_chunked_encoding()
    await response.prepare(request)
    for _ in range(answer.sent):
        await response.write(b" ")
        await asyncio.sleep(BLANK_EVERY)
    streamed = answer.framing is Framing.STREAMED
    for piece in answer.body.splitlines(keepends=True) if streamed else (answer.body,):
        await response.write(piece)
    await response.write_eof()
    return response


def head_of(answer: Answer, *framing: str) -> bytes:
    """Return the status line and headers of an answer, framed as told.

    Args:
        answer: The answer.
        framing: Header lines that say where the body ends.
    """
    phrase = HTTPStatus(answer.status).phrase
    lines = [f"HTTP/1.1 {answer.status} {phrase}", f"Content-Type: {answer.content_type}"]
    lines += [f"{name}: {text}" for name, text in answer.headers.items()]
    return "\r\n".join([*lines, *framing, "", ""]).encode("latin-1")


def _transport(request: web.BaseRequest) -> asyncio.Transport:
    transport = request.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError
    return transport


async def _cut(request: web.BaseRequest, answer: Answer) -> None:
    head = head_of(answer, f"Content-Length: {len(answer.body)}")
    transport = _transport(request)
    transport.write(head + answer.body[: answer.sent])
    transport.close()


async def _cut_chunked(request: web.BaseRequest, answer: Answer) -> None:
    part = answer.body[: answer.sent]
    chunk = f"{len(part):x}\r\n".encode() + part + b"\r\n" if part else b""
    transport = _transport(request)
    transport.write(head_of(answer, "Transfer-Encoding: chunked") + chunk)
    transport.close()


async def _cut_silent(request: web.BaseRequest, answer: Answer) -> None:
    transport = _transport(request)
    transport.write(head_of(answer, "Connection: close") + answer.body[: answer.sent])
    transport.close()


async def _stalled(request: web.BaseRequest, answer: Answer) -> None:
    head = head_of(answer, f"Content-Length: {len(answer.body)}")
    _transport(request).write(head + answer.body[: answer.sent])
    await _until_gone(request)


async def _silent(request: web.BaseRequest, _answer: Answer) -> None:
    await _until_gone(request)


async def _until_gone(request: web.BaseRequest) -> None:
    # aiohttp tells a handler that the client left only by cancelling it, which is switched off.
    while request.transport is not None and not request.transport.is_closing():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def _dropped(request: web.BaseRequest, _answer: Answer) -> None:
    _transport(request).close()


async def _reset(request: web.BaseRequest, _answer: Answer) -> None:
    transport = _transport(request)
    # Lingering for no time makes the kernel send RST instead of FIN (socket(7)).
    linger = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    transport.abort()


_BROKEN: dict[Framing, Callable[[web.BaseRequest, Answer], Awaitable[None]]] = {
    Framing.CUT: _cut,
    Framing.CUT_CHUNKED: _cut_chunked,
    Framing.CUT_SILENT: _cut_silent,
    Framing.STALLED: _stalled,
    Framing.DROPPED: _dropped,
    Framing.RESET: _reset,
    Framing.SILENT: _silent,
}
