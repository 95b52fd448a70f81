"""How an origin breaks off once it has charged an order."""

from __future__ import annotations

from tests.chaos.faults import cut, raw, status
from tests.chaos.server import Fault

WAYS: dict[str, Fault] = {
    "FIN": raw(),
    "RST": raw(then="reset"),
    "silence": raw(then="hang"),
    "half a status line": raw(b"HTTP/1.1 20"),
    "half the headers": raw(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConte"),
    "nonsense": raw(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "a bad chunk": raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"),
    "a header of 900 KB": raw(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 900_000 + b"\r\n\r\n"),
    "cut by length": cut("length"),
    "cut in a chunk": cut("chunked"),
    "cut without length": cut("none"),
    "RST in the body": cut("length", then="reset"),
    **{str(code): status(code, charged=True) for code in (500, 502, 503, 504, 520, 529)},
    "503 as a page": status(
        503, b"<html><title>busy</title></html>", "Retry-After: 1", charged=True
    ),
}
