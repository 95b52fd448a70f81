"""What HTTP clients say of an answer that was lost after the order was sent, and who quotes it."""

# ruff: noqa: E501 - as they came

from __future__ import annotations

from collections.abc import Callable

from tests.wire.front_pages import document, litellm
from tests.wire.recorded_responses import error

PHRASES: tuple[str, ...] = (
    # httpx 0.28
    "Server disconnected without sending a response.",
    "[Errno 104] Connection reset by peer",
    "timed out",
    "peer closed connection without sending complete message body (received 96 bytes, expected 161)",
    "peer closed connection without sending complete message body (incomplete chunked read)",
    "ReadTimeout",
    "RemoteProtocolError",
    # requests, urllib3, urllib
    "('Connection aborted.', RemoteDisconnected('Remote end closed connection without response'))",
    "('Connection aborted.', ConnectionResetError(104, 'Connection reset by peer'))",
    "('Connection aborted.', BadStatusLine('SSH-2.0-OpenSSH_9.6\\r\\n'))",
    "HTTPConnectionPool(host='127.0.0.1', port=8000): Read timed out. (read timeout=0.7)",
    "('Connection broken: IncompleteRead(96 bytes read, 65 more expected)', IncompleteRead(96 bytes read, 65 more expected))",
    "Response ended prematurely",
    "IncompleteRead(96 bytes read, 65 more expected)",
    # aiohttp 3.14
    "Server disconnected",
    "Response payload is not completed: <ContentLengthError: 400, message='Not enough data to satisfy content length header (received 96 of 161 bytes).'>",
    "Response payload is not completed: <TransferEncodingError: 400, message='Not enough data to satisfy transfer length header.'>",
    "400, message=\"Bad status line:\\n  Expected HTTP/, RTSP/ or ICE/:\\n\\n  b'SSH-2.0-OpenSSH_9.6'\\n    ^\", url='http://127.0.0.1:8000/v1/images/generations'",
    # openai-python, openai-node
    "Connection error.",
    "Request timed out.",
    # JSON, of a cut body
    "Unterminated string starting at: line 1 column 38 (char 37)",
    "Expecting value: line 1 column 1 (char 0)",
    "Expecting ':' delimiter: line 1 column 80 (char 79)",
    "Unterminated string in JSON at position 96",
    "Unexpected end of JSON input",
    "Unexpected token '<', \"<html>\r\n<h\"... is not valid JSON",
    # fetch (undici) of node 20
    "fetch failed",
    "fetch failed: other side closed",
    "UND_ERR_SOCKET",
    "terminated",
    "The operation was aborted due to timeout",
    "UND_ERR_HEADERS_TIMEOUT",
    "Response does not match the HTTP/1.1 protocol (Expected HTTP/)",
    # axios, node-fetch, node's http
    "socket hang up",
    "read ECONNRESET",
    "timeout of 700ms exceeded",
    "stream has been aborted",
    "aborted",
    "write EPIPE",
    "network timeout at: http://127.0.0.1:8000/v1/images/generations",
    "Invalid response body while trying to fetch http://127.0.0.1:8000/v1/images/generations: Premature close",
    "Parse Error: Expected HTTP/, RTSP/ or ICE/",
    # Go 1.19
    'Post "http://127.0.0.1:8000/v1/images/generations": EOF',
    "unexpected EOF",
    "read tcp 127.0.0.1:57310->127.0.0.1:8000: read: connection reset by peer",
    "context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
    "context canceled",
    "net/http: timeout awaiting response headers",
    'net/http: HTTP/1.x transport connection broken: malformed HTTP response "SSH-2.0-OpenSSH_9.6"',
    "http: server closed idle connection",
    "http2: server sent GOAWAY and closed the connection",
    "stream error: stream ID 7; INTERNAL_ERROR; received from peer",
    "write: broken pipe",
    # Java, .NET, Rust, gRPC, Google
    "HTTP/1.1 header parser received no bytes",
    "java.net.SocketTimeoutException: Read timed out",
    "org.apache.http.NoHttpResponseException: api.test:443 failed to respond",
    "java.io.IOException: Premature EOF",
    "The response ended prematurely. (ResponseEnded)",
    "The SSL connection could not be established, see inner exception.",
    "connection closed before message completed",
    "error sending request for url (https://api.test/v1/images/generations)",
    "Deadline expired before operation could complete.",
    "The service is currently unavailable.",
    "Internal error encountered.",
    "14 UNAVAILABLE: Connection dropped",
    "rpc error: code = Unavailable desc = transport is closing",
    "Stream removed",
    # of nobody in particular
    "upstream connect error or disconnect/reset before headers. reset reason: connection termination",
    "upstream request timeout",
    "Bad Gateway",
    "Something went wrong",
    "Upstream request failed",
    "Internal Server Error",
    "Service Unavailable",
)
"""Each word for word; those of httpx to Go were recorded, the others are from their sources."""

WRAPPERS: dict[str, Callable[[str], bytes]] = {
    "OpenAI": lambda text: document(
        error={"message": text, "type": "server_error", "param": None, "code": None}
    ),
    "LiteLLM": lambda text: litellm(
        "APIConnectionError: APIConnectionError: OpenAIException", text
    ),
    "new-api": lambda text: error(f"{text} (request id: 2026081201)"),
    "one-api": lambda text: error(text, "one_api_error", "do_request_failed"),
    "Portkey": lambda text: document(
        **{"html-message": f"Message: fetch failed Cause: {text} Name: TypeError"}
    ),
    "FastAPI": lambda text: document(detail=text),
    "bare": lambda text: document(message=text),
}
"""Errors of gateways around such words."""
