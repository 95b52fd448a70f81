"""The pace: never above rate and burst in any window, in the order of asking."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagen_async.policy.rate import Rate

rates = st.floats(0.5, 60_000)
bursts = st.integers(1, 40)
gaps = st.lists(st.floats(0, 5) | st.just(0.0), min_size=1, max_size=60)


def starts(pacing: Rate, gaps: list[float]) -> list[float]:
    """Return when requests begin that ask ``gaps`` seconds after one another."""
    now, begun = 1_000.0, []
    for gap in gaps:
        now += gap
        begun.append(now + pacing.reserve(now))
    return begun


def assert_within(begun: list[float], rate: float, burst: int) -> None:
    """Assert that no window between two requests holds more than burst + rate * its length."""
    for first, start in enumerate(begun):
        for last in range(first, len(begun)):
            assert last - first + 1 <= burst + (begun[last] - start) * rate / 60 + 1e-4


@given(rate=rates, burst=bursts, gaps=gaps)
def test_no_window_holds_more_than_rate_and_burst(
    rate: float, burst: int, gaps: list[float]
) -> None:
    """Whatever the arrivals, every window of w seconds has at most burst + rate * w requests."""
    assert_within(starts(Rate(rate, burst), gaps), rate, burst)


@given(rate=rates, burst=bursts, gaps=gaps)
def test_who_asks_first_begins_first(rate: float, burst: int, gaps: list[float]) -> None:
    """Bookings begin in the order in which they were made."""
    begun = starts(Rate(rate, burst), gaps)
    assert begun == sorted(begun)


@given(rate=rates, burst=bursts)
def test_a_queue_runs_at_the_full_rate(rate: float, burst: int) -> None:
    """A standing queue gets the burst at once, then one request per interval and no less."""
    pacing = Rate(rate, burst)
    waits = [pacing.reserve(0.0) for _ in range(burst + 5)]
    assert waits[:burst] == pytest.approx([0.0] * burst, abs=1e-9)
    assert waits[burst:] == pytest.approx([60 / rate * k for k in range(1, 6)])


def test_an_idle_pace_saves_up_no_more_than_the_burst() -> None:
    """After an hour of silence the burst is there again, and not an hour's worth."""
    pacing = Rate(60, 3)
    for now in (0.0, 3_600.0):
        assert [pacing.reserve(now) for _ in range(5)] == [0.0, 0.0, 0.0, 1.0, 2.0]


def test_no_rate_never_waits() -> None:
    """Without a rate every request begins at once."""
    pacing = Rate(None, 1)
    assert {pacing.reserve(now) for now in (0.0, 0.0, 5.0, 5.0)} == {0.0}


@given(rate=rates, burst=bursts, gaps=gaps)
def test_looking_ahead_books_nothing(rate: float, burst: int, gaps: list[float]) -> None:
    """The wait that ``ahead`` names is the one that ``reserve`` then gives, however often asked."""
    pacing, now = Rate(rate, burst), 0.0
    for gap in gaps:
        now += gap
        assert pacing.ahead(now) == pacing.ahead(now) == pacing.reserve(now)
