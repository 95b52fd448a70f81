"""What every answer and every failure means, and what it may have cost."""

from __future__ import annotations

import json
import pickle
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from imagen_async.errors import Charge, OutcomeUnknownError, QuotaError, Verdict
from imagen_async.wire.verdict import (
    CHARGES,
    ERRORS,
    FailureKind,
    Judgement,
    error_for,
    judge_empty,
    judge_error_document,
    judge_failure,
    judge_spoiled,
    judge_status,
)
from imagen_async.wire.verdict_table import ROWS
from imagen_async.wire.verdict_words import WORDS_LIMIT
from tests.wire.recorded_responses import ANSWERS, SATURATED, error, is_harmless, page

NONE = CIMultiDict[str]()

REFUSED, QUOTA, REJECTED = Verdict.REFUSED, Verdict.QUOTA, Verdict.REJECTED
FAILED, UNKNOWN, SPOILED = Verdict.FAILED, Verdict.UNKNOWN, Verdict.SPOILED


@pytest.mark.parametrize(("status", "body", "verdict"), ANSWERS.values(), ids=ANSWERS)
def test_every_known_answer_has_its_verdict(status: int, body: bytes, verdict: Verdict) -> None:
    """Each body that gateways were seen to send means what the table says, and costs as much."""
    judgement = judge_status(status, NONE, body)
    assert judgement.verdict is verdict
    assert judgement.charge is CHARGES[verdict]
    assert judgement.again is (verdict in {REFUSED, FAILED, UNKNOWN})
    assert judgement.status == status


@pytest.mark.parametrize(
    "words",
    [
        "blocked by our content policy",
        "content_policy_violation in the upstream's words",
        "rejected by our safety system",
        "filtered by Responsible AI",
        "sensitive words detected",
        "PROHIBITED CONTENT",
        "violated Vertex AI's usage guidelines. You will not be charged for blocked images",
        "含有敏感词",
        "未通过内容审核",
        "内容违规",
    ],
)
@pytest.mark.parametrize("status", [500, 503])
def test_refused_content_is_not_sent_again(words: str, status: int) -> None:
    """Words of a content policy under a server error make it permanent."""
    assert judge_status(status, NONE, error(words)).verdict is REJECTED


@pytest.mark.parametrize(
    "words",
    [
        "Request timed out",
        "upstream request timeout",
        "504 Gateway Time-out",
        "context deadline exceeded",
        "unexpected EOF",
        "read: connection reset by peer",
        "Connection aborted",
        "socket hang up",
        "Server disconnected",
        "reset reason: remote reset",
        "请求上游地址失败",
        "请求超时",
    ],
)
@pytest.mark.parametrize("status", [500, 503, 529])
def test_words_of_a_lost_answer_are_unknown(words: str, status: int) -> None:
    """A server error that tells of a lost answer behind it may have cost an image."""
    assert judge_status(status, NONE, error(words)).verdict is UNKNOWN


BARE = {
    **dict.fromkeys([402], QUOTA),
    **dict.fromkeys([425, 429, 521, 523, 525, 526, 530], REFUSED),
    **dict.fromkeys([303, 408, 424, 499], UNKNOWN),
}


def test_every_status_alone_has_its_verdict() -> None:
    """A status without words is judged by the table, then by its class."""
    judged = {status: judge_status(status, NONE, b"").verdict for status in range(100, 1000)}
    by_class = {status: REJECTED if 300 <= status < 500 else UNKNOWN for status in range(100, 1000)}
    assert judged == by_class | BARE


def test_every_code_stands_in_one_row() -> None:
    """A code in two rows is read by the first alone; capitals, in a code or a word, never match."""
    codes = [code for row in ROWS for code in row.codes or ()]
    assert len(codes) == len(set(codes))
    patterns = [row.words for row in ROWS if row.words]
    assert not re.search("[A-Z]", " ".join([*codes, *patterns]).replace(r"\S", ""))


def test_words_that_the_request_holds_prove_nothing() -> None:
    """A server error that quotes the prompt, or a part of it, is not free by the prompt's words."""
    request = json.dumps({"prompt": 'A sign: "Queue is FULL", 敏感词 below'}).encode()
    for words in ("cannot save 'Queue is full'", "sign: queue is full", "敏感词 was not stored"):
        body = error(words)
        assert judge_status(503, NONE, body, request=request).verdict is UNKNOWN
        assert judge_status(503, NONE, body).verdict in {REFUSED, REJECTED}
        document = {"error": {"message": words, "code": "500"}}
        judged = judge_error_document(document, NONE, 200, request=request)
        assert judged is not None
        assert judged.verdict is UNKNOWN
    known = error("queue is full", code="rate_limit_exceeded")
    assert judge_status(503, NONE, known, request=request).verdict is REFUSED


AFTER = [
    "Generated image was filtered as a result of our safety system.",
    "The generated image was blocked by our content policy",
    "Content Moderated",
    "Content violates usage guidelines. Failed check: SAFETY_CHECK_TYPE_BIO",
    "output blocked by the safety system",
    "rate limit reached after generation",
    "queue is full; the image was generated and has been billed",
    "内容审核: 图片已生成, 已扣费",
]


@pytest.mark.parametrize("words", AFTER)
@pytest.mark.parametrize("status", [200, 400, 403, 409, 429, 500, 503])
def test_words_of_work_that_was_done_are_unknown(words: str, status: int) -> None:
    """Whatever the status, an answer that says that the image was made may have cost it."""
    if status == 200:
        judged = judge_error_document({"error": {"message": words}}, NONE, 200)
    else:
        judged = judge_status(status, NONE, error(words))
    assert judged is not None
    assert (judged.verdict, judged.refusal) == (UNKNOWN, False)


@pytest.mark.parametrize(
    ("headers", "fields"),
    [
        ({"x-litellm-response-cost": "0.04"}, {}),
        ({"X-AIMLAPI-USD-Spent": "0.04"}, {}),
        ({}, {"usage": {"cost": 0.04}}),
        ({}, {"usage": {"input_tokens": 9, "output_tokens": 1056}}),
        ({}, {"data": [{"url": "https://files.example/1.png"}]}),
        ({}, {"images": [{"b64_json": "iVBORw0KGgo="}]}),
        ({}, {"task_id": "t-1"}),
        ({}, {"data": {"task_id": "t-1", "status": "queued"}}),
        ({}, {"data": [{"b64_json": "A" * 100_000}]}),
    ],
)
@pytest.mark.parametrize("status", [400, 402, 429, 503])
def test_a_refusal_beside_what_was_made_is_none(
    headers: dict[str, str], fields: dict[str, object], status: int
) -> None:
    """A cost, an image or a task in an answer outweighs its status and all its words."""
    told = {"error": {"message": "queue is full", "code": "rate_limit_exceeded"}}
    judged = judge_status(status, CIMultiDict(headers), json.dumps(told | fields).encode())
    assert (judged.charge, judged.refusal) == (Charge.MAYBE, False)
    free = CIMultiDict({"x-litellm-response-cost": "0.0"})
    told = told | {"usage": {"output_tokens": 0, "cost": 0}, "data": None}
    assert judge_status(status, free, json.dumps(told).encode()).charge is Charge.NO


@pytest.mark.parametrize("status", [400, 409, 422, 429])
@pytest.mark.parametrize("words", ["upstream timed out", "connection reset by peer", "ECONNRESET"])
def test_a_lost_answer_under_a_4xx_is_unknown(words: str, status: int) -> None:
    """A gateway may tell of it with any status; what it says of a key is of the key alone."""
    assert judge_status(status, NONE, error(words)).charge is Charge.MAYBE
    assert judge_status(401, NONE, error("your session timed out")).verdict is REJECTED


def test_a_doubt_counts_wherever_it_is_said() -> None:
    """A refusal's other fields are heard for a lost answer behind it."""
    for fields in (
        {"detail": "socket hang up"},
        {"error": {"message": "queue is full", "raw": "timed out"}},
    ):
        told = {"error": {"message": "queue is full"}} | fields
        assert judge_status(503, NONE, json.dumps(told).encode()).verdict is UNKNOWN


def test_503_with_retry_after_proves_nothing() -> None:
    """A time to come back says nothing of the request: Varnish names one after its time-out."""
    later = CIMultiDict({"retry-after": "30"})
    assert judge_status(503, later, b"").verdict is UNKNOWN
    assert judge_status(503, later, error("no")).verdict is UNKNOWN


@pytest.mark.parametrize("status", [500, 503, 529])
def test_server_errors_can_be_stated_free(status: int) -> None:
    """By the user's statement an unknown failure is free, but not one that tells of a lost end."""
    free = judge_status(status, NONE, b"oops", server_errors_charged=False)
    assert (free.verdict, free.charge, free.counts) == (FAILED, Charge.NO, True)
    lost = judge_status(status, NONE, error("timed out"), server_errors_charged=False)
    assert lost.verdict is UNKNOWN


@pytest.mark.parametrize(
    ("status", "body", "counts"),
    [
        (429, b"", False),
        (429, page("429 Too Many Requests"), False),
        (503, error("queue is full"), False),
        (400, error("no"), False),
        (402, error("no"), False),
        (503, page("503 Service Temporarily Unavailable"), True),
        (521, b"error code: 521", True),
        (521, b'{"status": 521, "title": "Web server is down"}', True),
        (403, page("Just a moment...", "cloudflare"), True),
        (425, b"", True),
        (500, error("rate_limit_check_failed"), True),
        (504, b"", True),
    ],
)
def test_only_the_apis_own_refusal_does_not_count(status: int, body: bytes, counts: bool) -> None:
    """What a front says, or a failure, counts as a send: only the table calls it free."""
    assert judge_status(status, NONE, body).counts is counts


@pytest.mark.parametrize(
    ("status", "words", "asked"),
    [
        (429, "Rate limit reached. Please try again in 12s.", 12),
        (429, "Please try again in 6m0s.", 360),
        (429, "try again in 864ms", 0.864),
        (429, "Please retry in 41.5s", 41.5),
        (429, "retry after 2 minutes", 120),
        (429, "try again in 1h2m3s", 3723),
        (429, "please try again in a few moments", None),
        (503, "queue is full, try again in 3s", 3),
        (500, "try again in 12s", None),
    ],
)
def test_a_wait_in_words_is_read(status: int, words: str, asked: float | None) -> None:
    """A refusal that says how long to wait in its text is taken at its word."""
    assert judge_status(status, NONE, error(words)).asked == asked


def test_other_verdicts_ignore_server_errors_charged() -> None:
    """A refusal and a permanent code under 503 stay uncharged whatever that setting is."""
    queue = judge_status(503, NONE, error("queue is full"), server_errors_charged=True)
    channel = judge_status(503, NONE, error("无可用渠道"), server_errors_charged=True)
    assert (queue.verdict, channel.verdict) == (REFUSED, REJECTED)


@pytest.mark.parametrize(
    ("status", "body", "conflict"),
    [
        (409, b"", True),
        (422, error("Idempotency-Key was used with another body"), True),
        (422, error("no", code="idempotency_key_reused"), True),
        (422, error("n is too large"), False),
        (400, error("Idempotency-Key is too long"), False),
    ],
)
def test_a_refused_key_after_an_earlier_attempt_is_unknown(
    status: int, body: bytes, conflict: bool
) -> None:
    """A 409, or a 422 naming the key, says that an earlier attempt was taken: it may have cost."""
    judgement = judge_status(status, NONE, body, key_used_before=True)
    assert judgement.verdict is (UNKNOWN if conflict else REJECTED)
    assert judgement.charge is (Charge.MAYBE if conflict else Charge.NO)
    assert judge_status(status, NONE, body).verdict is REJECTED


IN_USE = error("A request with this key is in progress", code="idempotency_key_in_use")
CONFLICT = error("in progress")
OTHER = error("This key was used for another request", code="idempotency_key_reused")


@pytest.mark.parametrize(
    ("status", "body", "used", "verdict", "pending"),
    [
        (409, IN_USE, True, UNKNOWN, True),
        (409, IN_USE, False, UNKNOWN, True),
        (409, CONFLICT, True, UNKNOWN, True),
        (409, CONFLICT, False, REJECTED, False),
        (409, b"", True, UNKNOWN, False),
        (409, b"<html><title>Conflict</title></html>", True, UNKNOWN, False),
        (409, b"", False, REJECTED, False),
        (422, OTHER, True, REJECTED, False),
        (422, OTHER, False, REJECTED, False),
        (422, error("n is too large"), True, REJECTED, False),
        (400, error("Idempotency-Key is too long"), True, REJECTED, False),
        (429, error("slow down", code="idempotency"), True, REFUSED, False),
    ],
)
def test_what_a_gateway_that_honours_keys_says_of_one(
    status: int, body: bytes, used: bool, verdict: Verdict, pending: bool
) -> None:
    """A 409 in the API's own words means: wait; a 422 of the key: another body was sent."""
    judgement = judge_status(status, NONE, body, key_used_before=used, key_honoured=True)
    assert (judgement.verdict, judgement.pending) == (verdict, pending)
    assert judgement.charge is CHARGES[verdict]
    assert judgement.again is (verdict is not REJECTED)
    assert judgement.counts is (not judgement.refusal)
    assert judgement.refusal >= pending
    assert ("still in the making" in judgement.message) is pending
    assert ("another request was sent under this key" in judgement.message) is (body is OTHER)


def test_a_key_in_use_tells_how_long_to_wait() -> None:
    """The words of such a 409 are read for a wait, as a refusal's are."""
    words = error("idempotency key in use, try again in 12s")
    assert judge_status(409, NONE, words, key_honoured=True).asked == 12
    assert judge_status(409, NONE, words).asked == 12, "without it the request is rejected"


@pytest.mark.parametrize(
    ("status", "body", "authentication"),
    [
        (401, b"", True),
        (403, b"", True),
        (407, b"", True),
        (403, error("用户已被封禁"), True),
        (400, error("API key not valid.", code="invalid_api_key"), True),
        (400, error("no", "authentication_error"), True),
        (
            400,
            b'{"error": {"message": "no", "details": [{"reason": "API_KEY_INVALID"}]}}',
            True,
        ),
        (403, error("no", code="content_policy_violation"), False),
        (403, error("rejected by our safety system"), False),
        (403, error("no access to the model", code="model_not_found"), False),
        (403, error("user quota is not enough"), False),
        (404, b"", False),
        (429, b"", False),
    ],
)
def test_a_key_at_fault_is_told_apart(status: int, body: bytes, authentication: bool) -> None:
    """Only an answer about the key itself, which no other request escapes, says authentication."""
    judgement = judge_status(status, NONE, body)
    assert judgement.authentication is authentication
    assert getattr(error_for(judgement), "authentication", False) is authentication


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("https://api.example/v1/images?sig=secret#f", "https://api.example:"),
        ("https://u:secret@api.example:8443/secret", "https://api.example:8443:"),
        ("http://[::1]:80/x", "http://[::1]:80:"),
        ("/v1/images/secret", "base_url seems wrong."),
        ("ftp://secret/x", "base_url seems wrong."),
        ("https://secret:99999/", "base_url seems wrong."),
        ("https://[secret", "base_url seems wrong."),
        ("https:///secret", "base_url seems wrong."),
        ("", "base_url seems wrong."),
    ],
)
def test_a_redirect_names_the_origin_alone(location: str, shown: str) -> None:
    """A redirect is never followed; its origin is the likely base_url, the rest may be secret."""
    judgement = judge_status(308, CIMultiDict({"Location": location}), b"secret")
    assert judgement.verdict is REJECTED
    assert shown in judgement.message
    assert "secret" not in judgement.message


def test_x_should_retry_can_only_stop() -> None:
    """The header's false forbids another attempt; its true does not allow one."""
    stop, go = CIMultiDict({"X-Should-Retry": "False"}), CIMultiDict({"X-Should-Retry": "true"})
    assert not judge_status(429, stop, b"").again
    assert not judge_status(400, go, b"").again


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (429, b"", "The gateway answered 429 with an empty body."),
        (429, error("rate limit reached"), "The gateway answered 429: rate limit reached."),
        (400, error("No!"), "The gateway answered 400: No!"),
        (400, error("", "t", "c"), "The gateway answered 400: c."),
        (400, error("", "t"), "The gateway answered 400: t."),
        (502, page("502 Bad Gateway"), "The gateway answered 502: 502 Bad Gateway."),
        (502, b"<html><body>no", "The gateway answered 502 with a web page."),
        (401, error("bad key sk-abcdef123456"), "The gateway answered 401: bad key ***."),
        (400, error("\x1b[2J\r\nno"), "The gateway answered 400: \\x1b[2J  no."),
    ],
)
def test_messages_say_what_happened(status: int, body: bytes, message: str) -> None:
    """A message is one printable line with the gateway's words and no key in it."""
    assert judge_status(status, NONE, body).message == message


def test_messages_quote_little() -> None:
    """At most 300 characters of the server's words are quoted."""
    message = judge_status(400, NONE, error("x" * 5000)).message
    assert message.count("x") == WORDS_LIMIT


def test_code_and_request_id_are_kept() -> None:
    """A judgement carries the gateway's code and its id, from a header or from the message."""
    judged = judge_status(400, NONE, error("no (request id: 2026Fa)", code=7))
    assert (judged.code, judged.request_id) == ("7", "2026Fa")
    headed = judge_status(400, CIMultiDict({"cf-ray": "9"}), b"")
    assert (headed.code, headed.request_id) == (None, "9")


DOCUMENTS: dict[str, tuple[object, Verdict | None]] = {
    "worker-vllm": ({"code": 404, "object": "error", "message": "no model"}, REJECTED),
    "int code": ({"error": {"code": 429, "message": "slow down"}}, REFUSED),
    "text code": ({"error": {"code": "402", "message": "pay"}}, QUOTA),
    "500": ({"error": {"code": 500, "message": "no"}}, UNKNOWN),
    "504": ({"error": {"code": 504, "message": "no"}}, UNKNOWN),
    "known code": ({"error": {"code": "insufficient_quota", "message": "no"}}, QUOTA),
    "known words": ({"error": "image queue is full"}, UNKNOWN),
    "saturated": ({"error": {"message": SATURATED}}, REFUSED),
    "content": ({"error": {"message": "content policy", "code": None}}, REJECTED),
    "bad key": ({"error": {"code": "invalid_api_key"}}, REJECTED),
    "in-band": ({"error_code": "E17", "detail": "generation failed"}, UNKNOWN),
    "unknown code": ({"error": {"code": "x", "message": "no"}}, UNKNOWN),
    "a code that is no error": ({"error": {"code": 200, "message": "no"}}, UNKNOWN),
    "no words": ({"error": True}, UNKNOWN),
    "array of one": ([{"error": {"code": 404}}], REJECTED),
    "a 4xx behind it": ({"error": {"code": 400, "message": "upstream died"}}, UNKNOWN),
    "a front's code": ({"error": {"code": 521, "message": "no"}}, UNKNOWN),
    "a cost": ({"error": {"code": 429}, "usage": {"cost": 0.1}}, UNKNOWN),
    "task": ({"task_id": "t", "status": "queued", "poll_url": "/t"}, SPOILED),
    "error beside an image": ({"error": "one failed", "data": [{"url": "u"}]}, None),
    "no images": ({"created": 1, "data": []}, None),
    "empty": ({}, None),
    "empty array": ([], None),
    "text": ("no", None),
}


@pytest.mark.parametrize(("document", "verdict"), DOCUMENTS.values(), ids=DOCUMENTS)
def test_an_error_in_a_success_is_judged_by_its_code(
    document: object, verdict: Verdict | None
) -> None:
    """A 2xx answer whose JSON is an error goes through the same table; else it is no error."""
    judgement = judge_error_document(document, NONE, 200)
    assert (judgement and judgement.verdict) is verdict
    if judgement:
        assert judgement.charge is CHARGES[judgement.verdict]
        assert judgement.status == 200


def test_a_202_is_a_task() -> None:
    """An accepted order without an image is paid and cannot be used here."""
    judgement = judge_error_document({"id": "t"}, CIMultiDict({"x-request-id": "r"}), 202)
    assert judgement == Judgement(
        SPOILED,
        Charge.YES,
        again=False,
        message="The gateway answered with a task without an id.",
        status=202,
        request_id="r",
    )


def test_an_error_in_a_success_says_so() -> None:
    """The message keeps the true status, and a key at fault is told there too."""
    judged = judge_error_document({"error": {"code": 401, "message": "bad key"}}, NONE, 200)
    assert judged is not None
    assert judged.message == "The gateway answered 200 with an error: bad key."
    assert judged.authentication
    stated = judge_error_document({"error": {"code": 500}}, NONE, 200, server_errors_charged=False)
    assert stated is not None
    assert stated.verdict is FAILED


def test_a_spoiled_answer_is_paid() -> None:
    """A success that cannot be used was charged and is never sent again."""
    headers = CIMultiDict({"x-request-id": "r"})
    judged = judge_spoiled("bad base64 at https://a/b?sig=1", b'{"data":[', headers, 200)
    assert (judged.verdict, judged.charge, judged.again) == (SPOILED, Charge.YES, False)
    assert judged.message == "The gateway's answer cannot be used: bad base64 at https://a/b."
    assert judged.request_id == "r"


@pytest.mark.parametrize("status", [200, 202, 204])
def test_an_answer_without_a_body_claims_nothing(status: int) -> None:
    """A success that says nothing may have been charged, no more, and its id is kept."""
    judged = judge_empty(CIMultiDict({"x-request-id": "r"}), status)
    assert (judged.verdict, judged.charge, judged.again) == (UNKNOWN, Charge.MAYBE, True)
    assert (judged.status, judged.request_id) == (status, "r")
    assert judged.message == f"The gateway answered {status} with an empty body."
    assert "It may have been charged" in str(error_for(judged))
    assert not judge_empty(CIMultiDict({"x-should-retry": "false"}), status).again


def test_a_web_page_is_not_paid() -> None:
    """A web page with 200 means that base_url misses the API, so nothing was bought."""
    judged = judge_spoiled("not JSON", b"\n<!DOCTYPE html><html>", NONE, 200)
    assert (judged.verdict, judged.charge, judged.again) == (REJECTED, Charge.NO, False)
    assert "/v1" in judged.message


PERMANENT = {"certificate", "tls", "bad_url", "bad_header"}


@pytest.mark.parametrize("kind", FailureKind)
def test_a_failure_is_judged_by_whether_it_was_sent(kind: FailureKind) -> None:
    """Unsent costs nothing and may be tried again unless it is permanent; sent is unknown."""
    unsent = judge_failure(kind, sent=False)
    assert (unsent.verdict, unsent.charge) == (Verdict.NOT_SENT, Charge.NO)
    assert unsent.again is (kind.name.lower() not in PERMANENT)
    sent = judge_failure(kind, sent=True, detail="errno 104\x1b sk-abcdef123456")
    assert (sent.verdict, sent.charge, sent.again) == (UNKNOWN, Charge.MAYBE, True)
    assert sent.message.endswith(": errno 104\\x1b ***.")


@pytest.mark.parametrize("verdict", [verdict for verdict in Verdict if verdict is not Verdict.DONE])
def test_every_verdict_but_done_has_an_error(verdict: Verdict) -> None:
    """The error's class is the verdict's, and it carries what the judgement knows."""
    judgement = Judgement(verdict, CHARGES[verdict], False, "No.", 400, "c", "r")
    raised = error_for(judgement, attempts=2, idempotency_key="k", retry_after=1.5)
    assert type(raised) is ERRORS[verdict]
    known = (raised.message, raised.verdict, raised.charge, raised.status, raised.code)
    assert known == ("No.", verdict, CHARGES[verdict], 400, "c")
    assert (raised.request_id, raised.attempts) == ("r", 2)
    assert (raised.idempotency_key, raised.retry_after) == ("k", 1.5)
    assert str(pickle.loads(pickle.dumps(raised))) == str(raised)


def test_the_worst_charge_of_the_call_wins() -> None:
    """A charge given to the error replaces the one of its last attempt."""
    quota = judge_status(402, NONE, b"")
    assert error_for(quota).charge is Charge.NO
    assert error_for(quota, charge=Charge.MAYBE).charge is Charge.MAYBE
    assert isinstance(error_for(quota), QuotaError)
    assert isinstance(error_for(judge_status(504, NONE, b"")), OutcomeUnknownError)


HEADERS = st.dictionaries(
    st.sampled_from(["location", "retry-after", "x-should-retry", "x-request-id", "cf-ray"]),
    st.text(max_size=30) | st.just("https://a.example:8443/b"),
)
BODY = st.binary(max_size=200) | st.text(st.characters(), max_size=100).map(
    lambda text: json.dumps({"error": {"message": text, "code": text}}).encode()
)


@given(st.integers(100, 999), HEADERS, BODY, st.booleans(), st.booleans(), st.booleans())
def test_any_answer_is_judged(
    status: int, headers: dict[str, str], body: bytes, used: bool, charged: bool, honoured: bool
) -> None:
    """No answer makes the judge raise; charge follows verdict, and the message is one line."""
    judgement = judge_status(
        status,
        CIMultiDict(headers),
        body,
        key_used_before=used,
        key_honoured=honoured,
        server_errors_charged=charged,
    )
    assert judgement.pending <= (honoured and status == 409 and judgement.verdict is UNKNOWN)
    assert not (judgement.pending and judgement.counts)
    assert judgement.charge is CHARGES[judgement.verdict]
    assert is_harmless(judgement.message)
    assert judgement.again <= (judgement.verdict in {REFUSED, FAILED, UNKNOWN})
    assert judge_spoiled("", body, CIMultiDict(headers), 200).verdict in {SPOILED, REJECTED}


@given(st.sampled_from([408, 499, 502, 504, 520, 522, 524, 599]), BODY, HEADERS)
def test_a_cut_off_front_is_never_believed(
    status: int, body: bytes, headers: dict[str, str]
) -> None:
    """Whatever body stands under these statuses, the image may have been made."""
    assert judge_status(status, CIMultiDict(headers), body).verdict is UNKNOWN


@given(st.sampled_from([500, 501, 503, 505, 529]), st.text(max_size=300), HEADERS)
def test_no_page_is_believed(status: int, text: str, headers: dict[str, str]) -> None:
    """No text that is not JSON makes a server error free, whatever it says."""
    body = f"<html><head><title>{text}</title></head><body><h1>{text}</h1></body></html>".encode()
    assert judge_status(status, CIMultiDict(headers), body).verdict is UNKNOWN
    assert judge_status(status, CIMultiDict(headers), b"oops: " + text.encode()).counts


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=8) | st.booleans(),
        lambda inner: (
            st.dictionaries(
                st.sampled_from(["error", "code", "message", "data", "url", "status", "task_id"]),
                inner,
            )
            | st.lists(inner, max_size=2)
        ),
    ),
    st.integers(200, 299),
)
def test_any_document_is_judged(document: object, status: int) -> None:
    """No JSON makes the judge raise, and DONE is never its verdict."""
    judgement = judge_error_document(document, NONE, status)
    assert judgement is None or judgement.verdict is not Verdict.DONE
