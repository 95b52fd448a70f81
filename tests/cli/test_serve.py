"""``imagen-async serve``: the emulator as a program."""

from __future__ import annotations

import json
import signal
import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagen_async.cli.serve import fault_rule
from imagen_async.emulator import FAULTS, FaultRule
from tests.cli.processes import until


def post(base_url: str, prompt: str, key: str = "k") -> int:
    """Return the status of one request for an image."""
    request = urllib.request.Request(
        f"{base_url}/images/generations",
        json.dumps({"prompt": prompt}).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {key}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_serves_until_a_signal(spawn, number, code):
    """It prints its base URL, keeps the ready file while it listens, and ends on a signal."""
    child = spawn(
        *("serve", "--port", "0", "--ready-file", "ready", "--dialect", "newapi", "--key", "k"),
        *("--fault", "429,times=1,prompt=fox", "--fault", '{"fault": "402", "prompt": "hare"}'),
        *("--profile", "instant", "--seed", "7", "--rpm", "90"),
    )
    until(lambda: Path("ready").exists())
    base_url = Path("ready").read_text().strip()
    assert child.process.stdout.readline().strip() == base_url
    assert [post(base_url, text) for text in ("a fox", "a fox", "a hare")] == [429, 200, 402]
    assert post(base_url, "a fox", key="other") == 401
    child.signal(number)
    ended = child.end()
    assert ended.code == code
    assert "nothing is bought" in ended.err
    assert not Path("ready").exists()
    lines = [line for line in ended.err.splitlines() if line[:2].isdigit() and line[2] == ":"]
    assert [line[9:] for line in lines] == [
        '429  free    "a fox" (fault 429)',
        '200  charged "a fox"',
        '402  free    "a hare" (fault 402)',
        '401  free    "a fox"',
    ]
    ledger = "4 requests, 1 charged, 1 images, 2 faults (1 429, 1 402)"
    assert ended.err.splitlines()[-1] == ledger


def test_quiet_says_nothing_but_the_base_url(spawn):
    """-q logs no request and no ledger."""
    child = spawn("serve", "--port", "0", "-q")
    assert post(child.process.stdout.readline().strip(), "a fox") == 200
    child.signal(signal.SIGTERM)
    assert child.end().err == ""


def test_a_gateway_with_a_log_tasks_keys_and_costs(spawn):
    """Its flags make an emulator with a log, tasks, honoured keys and images of a format."""
    child = spawn(
        *("serve", "--port", "0", "--call-log", "newapi", "--call-log-lateness", "0"),
        *("--tasks", "202", "--honour-idempotency", "--report-cost", "litellm"),
        *("--image-format", "webp", "--time-scale", "100"),
    )
    base_url = child.process.stdout.readline().strip()
    headers = {"Content-Type": "application/json", "Authorization": "Bearer k"}
    headers["Idempotency-Key"] = "one"
    orders = []
    for _ in range(2):
        order = urllib.request.Request(
            f"{base_url}/images/generations", b'{"prompt": "a fox"}', headers
        )
        with urllib.request.urlopen(order, timeout=20) as answer:
            assert answer.status == 202
            assert float(answer.headers["x-litellm-response-cost"]) > 0
            orders.append(answer.read())
    assert orders[0] == orders[1]
    poll = base_url.removesuffix("/v1") + json.loads(orders[0])["poll_url"]

    def links() -> list[str]:
        request = urllib.request.Request(poll, headers=headers)
        with urllib.request.urlopen(request, timeout=20) as answer:
            found = json.load(answer).get("result", {"data": []})
        return [item["url"] for item in found["data"]]

    until(links)
    with urllib.request.urlopen(links()[0], timeout=20) as answer:
        assert answer.headers["Content-Type"] == "image/webp"
    log = urllib.request.Request(f"{base_url.removesuffix('/v1')}/api/log/token", headers=headers)
    with urllib.request.urlopen(log, timeout=20) as answer:
        assert len(json.load(answer)["data"]) == 1
    child.signal(signal.SIGTERM)
    assert child.end().code == 0


def test_a_taken_port_is_an_error_with_a_way_out(cli):
    """The error names the port and --port."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        ended = cli("serve", "--port", held.getsockname()[1])
    assert (ended.code, ended.out) == (1, "")
    assert "--port" in ended.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--fault", "nonsense\x1b[1m"], "no fault"),
        (["--fault", "504,often=yes"], "probability"),
        (["--fault", "504,times=many"], "times"),
        (["--fault", "{"], "JSON"),
        (["--fault", '{"flaw": 1}'], "probability"),
        (["--dialect", "klingon"], "newapi"),
        (["--latency", "-1"], "--latency"),
        (["--call-log", "openai"], "litellm"),
        (["--tasks", "204"], "202"),
        (["--image-format", "gif"], "webp"),
        (["--report-cost", "guessed"], "openrouter"),
        (["--call-log-lateness", "-1"], "--call-log-lateness"),
        (["--time-scale", "0"], "--time-scale"),
        (["--ready-file", "nowhere/ready"], "nowhere/ready"),
    ],
)
def test_wrong_flags_say_what_to_do(cli, arguments, says):
    """What makes no emulator is a usage error on one line."""
    ended = cli("serve", "--port", "0", *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert says in ended.err
    assert ended.err.count("\n") == 1


def test_help_lists_every_fault(cli):
    """--help shows the whole fault table."""
    ended = cli("serve", "--help")
    assert ended.code == 0
    assert all(name in ended.out for name in FAULTS)


@given(
    st.fixed_dictionaries(
        {"fault": st.sampled_from(sorted(FAULTS))},
        optional={
            "prompt": st.text("abc 狐=", min_size=1),
            "key": st.text("abc-1", min_size=1),
            "number": st.integers(1, 99),
            "probability": st.floats(0, 1),
            "times": st.integers(1, 99),
        },
    )
)
def test_both_forms_of_a_rule_mean_the_same(fields):
    """A rule in words and the same as JSON make the same rule."""
    words = ",".join([fields["fault"], *(f"{k}={v}" for k, v in fields.items() if k != "fault")])
    assert fault_rule(words) == fault_rule(json.dumps(fields)) == FaultRule(**fields)
