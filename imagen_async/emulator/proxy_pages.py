"""What stands in front of a gateway says it in these bytes."""

from __future__ import annotations

import http

_NGINX = (
    "<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n"
    "<center><h1>{title}</h1></center>\r\n<hr><center>nginx/1.22.1</center>\r\n"
    "</body>\r\n</html>\r\n"
)

NGINX = "nginx/1.22.1"
"""The server whose pages these are (captured from Debian's)."""

_TITLES = {504: "Gateway Time-out", 413: "Request Entity Too Large"}

CLOUDFLARE_524 = (
    b'{"error":{"type":"origin_gateway_timeout","message":"The origin web server did not answer '
    b'in time.","retryable":true,"retry_after":120}}'
)
"""The JSON form of Cloudflare's 524; it calls itself retryable, generation went on all the same."""

EXPIRED_XML = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code>'
    b"<Message>Request has expired</Message></Error>"
)
"""What an object store answers to a signed link past its time."""

INDEX = b"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Image gateway (emulated)</title>
<style>body{font:16px/1.5 system-ui;max-width:40em;margin:4em auto;padding:0 1em}</style></head>
<body><h1>Image gateway (emulated)</h1>
<p>The API is under <code>/v1</code>: <code>POST /v1/images/generations</code>,
<code>GET /v1/models</code>. What was asked and charged: <a href="/_emulator/ledger">ledger</a>,
<a href="/_emulator/requests">requests</a>; faults: <a href="/_emulator/plan">plan</a>.</p>
</body></html>
"""
"""The web site: what a base_url without /v1 meets, with status 200."""


def nginx_page(status: int) -> bytes:
    """Return nginx's own page of an error status."""
    title = _TITLES.get(status) or http.HTTPStatus(status).phrase
    return _NGINX.format(title=f"{status} {title}").encode("ascii")
