"""Answers put onto the wire, the broken ones by hand."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from http import HTTPStatus

from aiohttp import web

from imagen_async.emulator.answers import Answer, Framing

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
        await _break(request, answer)
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


async def _break(request: web.BaseRequest, answer: Answer) -> None:
    """Send what a broken answer lets through, and leave the connection as it says."""
    transport, part = _transport(request), answer.body[: answer.sent]
    match answer.framing:
        case Framing.CUT | Framing.STALLED:
            transport.write(head_of(answer, f"Content-Length: {len(answer.body)}") + part)
        case Framing.CUT_CHUNKED:
            chunk = f"{len(part):x}\r\n".encode() + part + b"\r\n" if part else b""
            transport.write(head_of(answer, "Transfer-Encoding: chunked") + chunk)
        case Framing.CUT_SILENT:
            transport.write(head_of(answer, "Connection: close") + part)
        case Framing.RESET:
            # Lingering for no time makes the kernel send RST instead of FIN (socket(7)).
            linger = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
            wire = transport.get_extra_info("socket")
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            transport.abort()
    if answer.framing in (Framing.STALLED, Framing.SILENT):
        # aiohttp tells a handler that the client left only by cancelling it, which is switched off.
        while request.transport is not None and not request.transport.is_closing():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    else:
        transport.close()
