"""What fronts and forwarding gateways say of an order that they passed on, or did not.

``SEEN`` was recorded from the programs themselves, run on loopback in November 2026 before an
origin that takes and charges each order and then breaks off in one of the ways named;
``tests/fronts`` and ``benchmarks/fronts.py`` run them again. ``TOLD`` is from their documents,
their sources and logs that quote them.
"""

# ruff: noqa: E501, RUF001 - as they came

from __future__ import annotations

from collections.abc import Mapping

import attrs

from tests.wire.front_pages import (
    apache,
    cloudflare,
    cloudfront,
    document,
    elb,
    fallen,
    haproxy,
    lighttpd,
    litellm,
    traffic_server,
    varnish,
)
from tests.wire.recorded_responses import ENVOY, error, google, page


@attrs.frozen
class Said:
    """An answer in place of an image.

    Args:
        name: Who says it, and when.
        status: Its HTTP status.
        body: Its body.
        taken: Whether the origin had the order: False where this answer proves that it had not,
            None where it may have had it.
        headers: Those that a reader might take for a sign.
        source: Where it is written, if it was not recorded.
    """

    name: str
    status: int
    body: bytes = b""
    taken: bool | None = True
    headers: Mapping[str, str] = attrs.field(factory=dict)
    source: str = ""


# fmt: off
_LIMIT = ("429", "RateLimitError: RateLimitError: OpenAIException - Rate limit reached", 429)
_PROMPT = ("400", "BadRequestError: OpenAIException - bad prompt", 400)
_DROP = ("FIN", "APIConnectionError: APIConnectionError: OpenAIException - Connection error.", 500)
_CUT = ("a cut body", "APIConnectionError: APIConnectionError: OpenAIException - Unterminated string starting at: line 1 column 38 (char 37)", 500)
_BUSY = ("a front's 503", "ServiceUnavailableError: ServiceUnavailableError: OpenAIException - Error code: 503", 503)
_LATER = {"Retry-After": "5", "Server": "Varnish", "Via": "1.1 varnish (Varnish/7.1)"}
_PORTKEY = {"x-portkey-retry-attempt-count": "0", "x-portkey-provider": "openai"}
_INVALID = "The proxy server received an invalid\r\nresponse from an upstream server.<br />\r\n"
_REASON = "The proxy server could not handle the request<p>Reason: <strong>Error reading from remote server</strong></p>"
_CAPACITY = "The server is temporarily unable to service your\nrequest due to maintenance downtime or capacity\nproblems. Please try again later."
_NO_SERVER = "No server is available to handle this request."
_OPENAI = "APIConnectionError: APIConnectionError: OpenAIException"

SEEN: tuple[Said, ...] = (
    # Each says the same of a refused connection, but for the last.
    Said("nginx: FIN, RST, half a head", 502, page("502 Bad Gateway")),
    Said("nginx: silence", 504, page("504 Gateway Time-out")),
    Said("nginx: limit_req", 503, page("503 Service Temporarily Unavailable"), taken=False),
    # Of FIN, RST, silence, half a head and nonsense, and of a dead origin and max_connections too.
    Said("Varnish: anything", 503, varnish("Backend fetch failed"), headers=_LATER),
    Said("Varnish: a bad chunk", 503, varnish("Service Unavailable"), headers={"Retry-After": "5", "Server": "Varnish"}),
    Said("HAProxy: FIN, RST, nonsense", 502, haproxy("502 Bad Gateway", "The server returned an invalid or incomplete response.")),
    Said("HAProxy: silence", 504, haproxy("504 Gateway Time-out", "The server didn't respond in time.")),
    # Of a dead server, a silent one and a full queue; with retry-on also of an order that was
    # passed on and lost before.
    Said("HAProxy: no server", 503, haproxy("503 Service Unavailable", _NO_SERVER), taken=None),
    Said("Apache: FIN, RST, silence", 502, apache(502, "Proxy Error", _INVALID + _REASON)),
    Said("Apache: half a head, a bad chunk", 502, apache(502, "Bad Gateway", _INVALID)),
    Said("Apache: no server", 503, apache(503, "Service Unavailable", _CAPACITY), taken=None),
    Said("Caddy: FIN, RST, nonsense", 502, headers={"Server": "Caddy"}),
    Said("Caddy: silence", 504, headers={"Server": "Caddy"}),
    Said("Traefik: FIN, RST", 502, b"Bad Gateway"),
    Said("Traefik: silence", 504, b"Gateway Timeout"),
    Said("Traefik: half a head, nonsense", 500, b"Internal Server Error"),
    Said("Envoy: FIN, RST", 503, ENVOY + b"connection termination", headers={"server": "envoy"}),
    Said("Envoy: half a head, nonsense", 502, ENVOY + b"protocol error"),
    Said("Envoy: silence", 504, b"upstream request timeout"),
    Said("Envoy: refused", 503, ENVOY + b"remote connection failure", taken=False),
    Said("Envoy: its limit", 503, ENVOY + b"overflow", taken=False, headers={"x-envoy-overloaded": "true"}),
    # With QUIC also of a connection that fell silent after the order.
    Said("Envoy: nobody accepts", 503, ENVOY + b"connection timeout", taken=None),
    Said("lighttpd: FIN, RST, half a head", 500, lighttpd("500 Internal Server Error")),
    Said("lighttpd: silence", 504, lighttpd("504 Gateway Timeout")),
    Said("lighttpd: nonsense", 502, lighttpd("502 Bad Gateway")),
    Said("lighttpd: no server", 503, lighttpd("503 Service Unavailable"), taken=None),
    Said("H2O: FIN, RST", 502, b"I/O error (head)", headers={"Server": "h2o/2.2.5"}),
    Said("H2O: silence", 502, b"I/O timeout"),
    Said("H2O: nonsense", 502, b"failed to parse the response"),
    Said("Traffic Server: FIN, RST, nonsense", 502, traffic_server("Web Server Error", "The host requested did not return the document correctly.")),
    Said("Traffic Server: silence", 504, traffic_server("Inactivity Timeout", "Too much time has passed without sending any data for document.")),
    Said("Traffic Server: half a head", 502, traffic_server("Server Connection Closed", "The server requested closed the connection before\nthe transaction was completed.")),
    Said("Go's ReverseProxy: any", 502),
    Said("uvicorn: an exception", 500, b"Internal Server Error", headers={"server": "uvicorn"}),
    Said("gunicorn: an exception", 500, b"<html>\n  <head>\n    <title>Internal Server Error</title>\n  </head>\n  <body>\n    <h1><p>Internal Server Error</p></h1>\n    \n  </body>\n</html>\n"),
    Said("aiohttp.web: an exception", 500, b"500 Internal Server Error\n\nServer got itself in trouble"),
    Said("http-proxy-middleware: any", 504, b"Error occurred while trying to proxy: gateway.test/v1/images/generations"),
    Said("Express: an exception", 500, b'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>Error</title>\n</head>\n<body>\n<pre>Error: fetch failed<br> &nbsp; &nbsp;at /app/index.js:3:33</pre>\n</body>\n</html>\n'),
    # LiteLLM 1.80.5 posts 9 times, or 3 with num_retries and max_retries 0, before it says so.
    Said("LiteLLM: FIN, RST, nonsense, refused", 500, litellm(_OPENAI, "Connection error.")),
    Said("LiteLLM: a cut body", 500, litellm(_OPENAI, "Unterminated string starting at: line 1 column 38 (char 37)")),
    Said("LiteLLM: a page, or nothing, with 200", 500, litellm(_OPENAI, "Expecting value: line 1 column 1 (char 0)")),
    Said("LiteLLM: an error inside a 200", 400, litellm("BadRequestError: OpenAIException", "upstream died", 400)),
    Said("LiteLLM: silence", 408, litellm("Timeout: APITimeoutError", "Request timed out. Error_str: Request timed out.", 408)),
    Said("LiteLLM: a bare 500", 500, litellm("InternalServerError: InternalServerError: OpenAIException", "Error code: 500")),
    Said("LiteLLM: 500 in JSON", 500, litellm("InternalServerError: InternalServerError: OpenAIException", "Internal error encountered.")),
    Said("LiteLLM: a front's 503", 503, litellm("ServiceUnavailableError: ServiceUnavailableError: OpenAIException", "Error code: 503", 503)),
    Said("LiteLLM: Google's 503", 503, litellm("ServiceUnavailableError: ServiceUnavailableError: OpenAIException", "The service is currently unavailable.", 503)),
    Said("LiteLLM: Google's 504", 504, litellm("Timeout: Timeout Error: OpenAIException", "Deadline expired before operation could complete.", 504)),
    # InputRow of Vertex, not run here.
    Said("LiteLLM: Vertex's 504", 500, litellm("APIConnectionError: VertexAIException", "Deadline expired before operation could complete.")),
    *(
        Said(
            f"LiteLLM: {code}",
            code,
            litellm("APIError: APIError: OpenAIException", f"Error code: {code}", code),
            # The last of its posts; the ones before it may have been taken. Run: 520, 521, 522, 524.
            taken=True if code in {520, 522, 524} else None,
        )
        for code in (520, 521, 522, 523, 524, 525, 526, 530)
    ),
    # openai-python, inside LiteLLM, quotes a body that is JSON.
    Said("LiteLLM: Cloudflare's 521 in JSON", 521, litellm("APIError: APIError: OpenAIException", "Error code: 521 - {'type': 'https://developers.cloudflare.com/support/troubleshooting/http-status-codes/cloudflare-5xx-errors/error-521/'}", 521), taken=None),
    # With two models, of which one took the order: their words stand behind each other. Run: all
    # but those with a front's 503.
    *(Said(f"LiteLLM: {first[0]}, falling back: {second[0]}", first[2], fallen(first, second)) for first, second in ((_LIMIT, _DROP), (_LIMIT, _CUT), (_LIMIT, _BUSY), (_PROMPT, _DROP), (_DROP, _LIMIT), (_DROP, _PROMPT), (_CUT, _LIMIT), (_BUSY, _LIMIT))),
    Said("Portkey: FIN, half a head", 500, document(**{"html-message": "Message: fetch failed Cause: SocketError: other side closed Name: TypeError"}), headers=_PORTKEY),
    Said("Portkey: RST", 500, document(**{"html-message": "Message: fetch failed Cause: Error: read ECONNRESET Name: TypeError"}), headers=_PORTKEY),
    Said("Portkey: nonsense", 500, document(**{"html-message": "Message: fetch failed Cause: HTTPParserError: Response does not match the HTTP/1.1 protocol (Expected HTTP/) Name: TypeError"}), headers=_PORTKEY),
    Said("Portkey: silence", 408, document(error={"message": "Request exceeded the timeout sent in the request: 2000ms", "type": "timeout_error", "param": None, "code": None}), headers=_PORTKEY),
    # Of a cut body, and of any answer that is no JSON: a front's 500, 502, 503, 504, 52x.
    Said("Portkey: a cut body, a page", 500, document(status="failure", message="Something went wrong"), headers={"x-portkey-gateway-exception": "true"}),
    Said("Portkey: 500 in JSON", 500, document(error={"message": "openai error: Internal error encountered.", "type": "server_error", "param": None, "code": "internal_error"}, provider="openai")),
    Said("Portkey: Google's 503", 503, document(error={"message": "openai error: The service is currently unavailable.", "type": None, "param": None, "code": 503}, provider="openai")),
)

CLAIMED_FREE: tuple[Said, ...] = (
    # It comes after the order was taken, and looks like a wrong base_url. It is told as free; what
    # holds is that it is never sent again.
    Said("lighttpd: silence in the body", 404, lighttpd("404 Not Found")),
)

_CLOUDFLARE = "developers.cloudflare.com/support/troubleshooting/http-status-codes/cloudflare-5xx-errors, 2026"
_HEROKU = "devcenter.heroku.com/articles/error-pages, December 2024: one page, 503, for H10 to H99"
_FASTLY = "fastly.com/documentation/guides/vcl/errors, 2026"
_ALB = "docs.aws.amazon.com/elasticloadbalancing/latest/application/load-balancer-troubleshooting, 2026"
_CLOUDFRONT = "docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/troubleshooting-response-errors, 2026"
_AZURE = "learn.microsoft.com/azure/frontdoor/troubleshoot-issues, 2026: ErrorInfo OriginInvalidResponse, OriginTimeout"
_ENVOY = "envoyproxy/envoy, source/common/router: router.cc, upstream_request.cc, read 2026"
_NEW_API = "Calcium-Ion/new-api, relay and controller, read 2026; its issues 556 and 4364"

TOLD: tuple[Said, ...] = (
    # Heroku: H12 is 30 s of silence after the whole request, H13 and H18 a cut after it; H10, H14
    # and H21 come before it, with the same page.
    Said("Heroku: H10 to H99", 503, b'<!DOCTYPE html>\n<html>\n\t<head>\n\t\t<title>Application error</title>\n\t</head>\n\t<body>\n\t\t<iframe src="//www.herokucdn.com/error-pages/application-error.html"></iframe>\n\t</body>\n</html>', headers={"Server": "Heroku"}, source=_HEROKU),
    *(
        Said(f"Fastly: {reason}", 503, varnish(reason, "Error 54113", "Details: cache-dub4332-DUB 1762300851 2174292692"), taken, headers={"Retry-After": "0", "Via": "1.1 varnish"}, source=_FASTLY)
        for reason, taken in {
            "first byte timeout": True,
            "between bytes timeout": True,
            "backend read error": True,
            "backend write error": None,
            "Backend fetch failed": True,
            "Connection timed out": None,
            "Backend unavailable, connection timeout": None,
            "Backend is unhealthy": None,
            "All backends failed or unhealthy": None,
            "Backend.max_conn reached": None,
        }.items()
    ),
    # An origin, or a chain of them, may have been tried before; a shield says it of itself.
    Said(
        "Azure Front Door: OriginInvalidResponse, OriginTimeout",
        503,
        b"<!DOCTYPE html><html><head><title>Service unavailable</title></head><body><h2>Our services aren't available right now</h2><p>We're working to restore all services as soon as possible. Please check back soon.</p></body></html>",
        headers={"x-azure-ref": "0", "X-Cache": "CONFIG_NOCACHE"},
        source=_AZURE,
    ),
    Said("Azure Front Door: OriginTimeout", 504, headers={"x-azure-ref": "0"}, source=_AZURE),
    Said("Azure Application Gateway", 502, page("502 Bad Gateway", "Microsoft-Azure-Application-Gateway/v2"), source="learn.microsoft.com/azure/application-gateway/application-gateway-troubleshooting-502, 2026"),
    Said("AWS ALB: the target closed", 502, elb("502 Bad Gateway"), source=_ALB),
    Said("AWS ALB: silence", 504, elb("504 Gateway Time-out"), source=_ALB),
    # No target is registered, or one closed a reused connection, depending on the year's text.
    Said("AWS ALB: no target", 503, elb("503 Service Temporarily Unavailable"), taken=None, headers={"Server": "awselb/2.0"}, source=_ALB),
    Said("CloudFront: the origin closed", 502, cloudfront(502, "CloudFront wasn't able to connect to the origin."), source=_CLOUDFRONT),
    Said("CloudFront: silence", 504, cloudfront(504, "We can't connect."), source=_CLOUDFRONT),
    Said("CloudFront: capacity, or the origin's own", 503, cloudfront(503, "We can't connect to the server for this app or website at this time."), taken=None, source=_CLOUDFRONT),
    *(
        Said(f"Cloudflare: {code}", code, f"error code: {code}".encode(), taken, source=_CLOUDFLARE)
        for code, taken in {
            500: None,
            502: True,
            503: None,
            504: True,
            520: True,
            # No SYN+ACK within 19 s, and no ACK of the request itself within 90 s.
            522: True,
            524: True,
            521: False,
            523: False,
            525: False,
            526: False,
            530: False,
        }.items()
    ),
    # To "Accept: application/json", which imagen_async sends, since 2026-03.
    *(
        Said(f"Cloudflare: {code} in JSON", code, cloudflare(code, title, reason, error_code), taken, headers={"Server": "cloudflare", "Content-Type": "application/problem+json"}, source=_CLOUDFLARE)
        for code, error_code, title, reason, taken in (
            (502, 502, "Bad gateway", "origin_bad_gateway", True),
            (503, 503, "Service unavailable", "origin_unavailable", None),
            (504, 504, "Gateway time-out", "origin_gateway_timeout", True),
            (520, 520, "Web server is returning an unknown error", "origin_unknown_error", True),
            (521, 521, "Web server is down", "origin_down", False),
            (522, 522, "Connection timed out", "origin_connection_timeout", True),
            (523, 523, "Origin is unreachable", "origin_unreachable", False),
            (524, 524, "A timeout occurred", "origin_response_timeout", True),
            (525, 525, "SSL handshake failed", "origin_ssl_handshake", False),
            (526, 526, "Invalid SSL certificate", "origin_ssl_invalid", False),
            (530, 1033, "Cloudflare Tunnel error", "tunnel_error", False),
        )
    ),
    Said("Cloudflare: 522 as a page", 522, page("gateway.test | 522: Connection timed out", "cloudflare"), source=_CLOUDFLARE),
    Said("nginx: the client left", 499, source="nginx's own status, its http module"),
    *(
        Said(f"Envoy: {before}{reason}", 503, b"upstream connect error or disconnect/reset before headers. " + f"{before}reset reason: {reason}".encode(), taken, source=_ENVOY)
        for before in ("", "retried and the latest ")
        for reason, taken in {
            "remote reset": True,
            "local reset": True,
            "remote refused stream reset": None,
            "connection termination": True,
            "protocol error": True,
            "overload manager reset": None,
            "http1 response incomplete": True,
            "connection failure": None if before else False,
            "local connection failure": None if before else False,
            "remote connection failure, transport failure reason: delayed connect error: Connection refused": None if before else False,
            "overflow": None if before else False,
        }.items()
    ),
    Said("Envoy: no host", 503, b"no healthy upstream", taken=None, source=_ENVOY),
    Said("Envoy: a reset after the head, in JSON", 500, document(message="upstream connect error or disconnect/reset before headers. reset reason: connection termination"), source=_ENVOY),
    Said("OpenResty: FIN", 502, page("502 Bad Gateway", "openresty"), source="as nginx, its own name"),
    Said("Kong: FIN", 502, document(message="An invalid response was received from the upstream server", request_id="d5db"), source="Kong/kong, kong/error_handlers.lua, read 2026"),
    Said("Kong: silence", 504, document(message="The upstream server is timing out"), source="Kong/kong, kong/error_handlers.lua, read 2026"),
    Said("Kong: no server", 503, document(message="failure to get a peer from the ring-balancer"), taken=None, source="Kong/kong, kong/runloop/balancer, read 2026"),
    Said("AWS API Gateway: its limit of 29 s", 504, document(message="Endpoint request timed out"), source="docs.aws.amazon.com/apigateway/latest/developerguide/supported-gateway-response-types, 2026"),
    Said("AWS API Gateway: DEFAULT_5XX", 500, document(message="Internal server error"), source="docs.aws.amazon.com/apigateway/latest/developerguide/supported-gateway-response-types, 2026"),
    Said("Vercel: FUNCTION_INVOCATION_TIMEOUT", 504, document(error={"code": "504", "message": "An error occurred with your deployment"}), source="vercel.com/docs/errors, 2026"),
    Said("Vercel: INTERNAL_SERVER_ERROR", 500, document(error={"code": "INTERNAL_SERVER_ERROR", "message": "A server error has occurred"}), source="vercel.com/docs/errors, 2026"),
    Said("Google: UNAVAILABLE", 503, google(503, "The service is currently unavailable.", "UNAVAILABLE"), source="ai.google.dev/gemini-api/docs/troubleshooting, 2026"),
    Said("Google: INTERNAL", 500, google(500, "Internal error encountered.", "INTERNAL"), source="ai.google.dev/gemini-api/docs/troubleshooting, 2026"),
    Said("Google: DEADLINE_EXCEEDED", 504, google(504, "Deadline expired before operation could complete.", "DEADLINE_EXCEEDED"), source="ai.google.dev/gemini-api/docs/troubleshooting, 2026"),
    *(
        Said(f"new-api: {status} {code} {words}", status, error(words, kind, code, param), source=_NEW_API)
        for status, code, words, kind, param in (
            (500, "do_request_failed", "请求上游地址失败", "new_api_error", ""),
            (500, "do_request_failed", 'Post "https://api.test/v1/images/generations": EOF', "new_api_error", ""),
            (500, "read_response_body_failed", "unexpected EOF", "new_api_error", ""),
            (500, "bad_response_body", "invalid character '<' looking for beginning of value", "new_api_error", ""),
            (500, "bad_response_status_code", "", "upstream_error", "500"),
            (503, "bad_response_status_code", "bad response status code 503", "upstream_error", "503"),
            (524, "bad_response_status_code", "", "upstream_error", "524"),
            (521, "bad_response_status_code", "", "upstream_error", "521"),
            (500, "get_channel_failed", "分组 default 下模型 x 的可用渠道不存在（retry）", "new_api_error", ""),
            (500, "new_api_panic", "Panic detected", "new_api_panic", ""),
            (500, "", "upstream error: do request failed", "one_api_error", ""),
        )
    ),
)
