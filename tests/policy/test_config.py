"""Limits, timeouts and secrets: what they take and what they never show."""

import copy
import math
import pickle
import sys

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagen_async.errors import ConfigurationError
from imagen_async.policy.config import Limits, Secret, Timeouts

NOT_COUNTS = [0, -1, 1.0, True, "8", None, math.nan]
NOT_POSITIVE = [0, -1, 0.0, math.nan, math.inf, -math.inf, 10**400, True, "8", b"8", [1]]


def test_the_defaults() -> None:
    """Eight requests at once, no rate, 64 MiB an image; ten minutes for a call."""
    assert attrs.astuple(Limits()) == (8, None, 1, 67_108_864)
    assert attrs.astuple(Timeouts()) == (900.0, 10.0, 600.0, 30.0)


def test_the_largest_float_is_still_a_time() -> None:
    """The bound is what a float can hold, itself included."""
    assert Timeouts(total=sys.float_info.max).total == sys.float_info.max


@pytest.mark.parametrize("value", NOT_COUNTS)
@pytest.mark.parametrize("name", ["concurrency", "burst", "max_image_bytes"])
def test_a_count_is_a_whole_number_from_one(name: str, value: object) -> None:
    """Anything but a whole number of 1 or more is refused by the name of its field."""
    with pytest.raises(ConfigurationError, match=rf"Limits\.{name} must be a whole number"):
        Limits(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", NOT_POSITIVE)
@pytest.mark.parametrize("name", ["total", "connect", "answer", "stall"])
def test_a_time_is_a_finite_number_above_zero(name: str, value: object) -> None:
    """A time that no clock can wait for is refused by the name of its field."""
    with pytest.raises(ConfigurationError, match=rf"Timeouts\.{name} must be a number above 0"):
        Timeouts(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", NOT_POSITIVE)
def test_a_rate_is_none_or_a_number_above_zero(value: object) -> None:
    """No rate is None and nothing else, so that 0 does not come to mean no limit."""
    assert Limits(requests_per_minute=None).requests_per_minute is None
    with pytest.raises(ConfigurationError, match=r"Limits\.requests_per_minute"):
        Limits(requests_per_minute=value)  # type: ignore[arg-type]


def test_a_refused_value_cannot_drive_the_terminal() -> None:
    """A wrong value is shown short, on one line and without escapes."""
    with pytest.raises(ConfigurationError) as caught:
        Limits(concurrency="\x1b[2J\u202e" + "x" * 10_000)  # type: ignore[arg-type]
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 200


@given(st.floats(min_value=5e-324, max_value=1.7e308) | st.integers(1, 10**300))
def test_every_number_above_zero_is_a_time(value: float) -> None:
    """What a float can hold and is above 0 is taken as it is."""
    assert Timeouts(total=value).total == value


@pytest.mark.parametrize(
    "value", ["", " \t\n", "sk-a\nb", "sk-a\rb", "sk-\u2028a", "кey", "a\x00b"]
)
def test_a_key_that_no_header_carries_is_refused_unseen(value: str) -> None:
    """A key that would break the request is refused without being quoted."""
    with pytest.raises(ConfigurationError) as caught:
        Secret(value)
    assert value.strip() == "" or value not in str(caught.value)


def test_a_key_loses_the_space_around_it() -> None:
    """The line break that a file or a variable leaves behind is not part of the key."""
    assert Secret(" sk-canary\n").reveal() == "sk-canary"


def test_a_secret_is_shown_by_nothing() -> None:
    """No text that a log, a debugger or a notebook makes of a secret holds its value."""
    secret = Secret("sk-canary")
    shown = [repr(secret), str(secret), f"{secret}", f"{secret:>9}", f"{[secret]}"]
    assert not any("canary" in text for text in shown)
    assert not hasattr(secret, "__dict__")


@pytest.mark.parametrize("dump", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_secret_is_never_pickled_or_copied(dump: object) -> None:
    """A pickle cannot carry the key out of the process unnoticed."""
    with pytest.raises(ConfigurationError, match="never pickled"):
        dump(Secret("sk-canary"))  # type: ignore[operator]


def test_secrets_compare_by_value() -> None:
    """Two secrets of one value are equal and hash alike; a plain string is no secret."""
    assert Secret("a") == Secret(" a")
    assert hash(Secret("a")) == hash(Secret("a"))
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
