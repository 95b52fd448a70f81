"""The time that a late timer gives: a moment for what came, more for what goes on coming."""

from hypothesis import given
from hypothesis import strategies as st

from imagen_async.policy.grace import LATE, LOOK, LOOKS, Grace, first, further

seconds = st.floats(0.001, 1e6)


@given(due=seconds, total=seconds, early=st.floats(0, 10), late=st.floats(0, LATE * 0.9))
def test_a_timer_that_rings_in_time_gives_nothing(
    due: float, total: float, early: float, late: float
) -> None:
    """A timer that rings when it should, give or take a busy loop, is over."""
    assert first(due, due - early, total, 0) is None
    assert first(1000.0, 1000.0 + late, total, 0) is None


@given(total=seconds, late=st.floats(LATE * 2, 1e6), heard=st.integers(0, 9))
def test_silence_ends_soon(total: float, late: float, heard: int) -> None:
    """A late timer that finds nothing new is over after its looks, however long the pause was."""
    now = 1000.0 + late
    grace = first(1000.0, now, total, heard)
    looks = 0
    while grace is not None:
        looks += 1
        now += LOOK
        grace = further(grace, now, heard)
    assert looks == LOOKS


@given(total=seconds, late=st.floats(LATE * 2, 20), stalls=st.lists(st.floats(0, 50)))
def test_what_goes_on_coming_is_bounded(total: float, late: float, stalls: list[float]) -> None:
    """An answer that never ceases to come gets what the pause took, and at most its total."""
    began = now = 1000.0 + late
    grace = first(1000.0, now, total, 0)
    heard = 0
    while grace is not None:
        assert now < began + LOOK * LOOKS + min(late, total)
        now += LOOK + (stalls.pop() if stalls else 0)
        heard += 1
        grace = further(grace, now, heard)


def test_looks_that_are_late_themselves_still_count_what_came() -> None:
    """A loop that stands still again between two looks loses nothing that came by then."""
    grace = first(0.0, 60.0, 100.0, 0)
    assert grace == Grace(60.0 + LOOK * LOOKS + 60.0, LOOKS, 0)
    grace = further(grace, 90.0, 3)
    assert grace is not None
    assert (grace.looks, grace.heard) == (LOOKS, 3)
