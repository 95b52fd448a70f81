"""How long a run goes on while nothing comes of it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagen_async import ConfigurationError, Verdict
from imagen_async.policy.patience import REFUSED_FOR, UNREACHED_FOR, Patience

VAIN = (Verdict.NOT_SENT, Verdict.REFUSED)
TOLD = st.lists(st.tuples(st.sampled_from(list(Verdict)), st.floats(0, 500)), max_size=30)


def test_a_dead_port_is_left_after_a_minute() -> None:
    """A run that never reached anything is over 60 s after its first failure, no earlier."""
    patience = Patience()
    assert patience.tell(Verdict.NOT_SENT, 100)
    assert not patience.tell(Verdict.NOT_SENT, 130)
    patience.end(159.9)
    assert (patience.ended, patience.problem) == (None, "")
    patience.end(160)
    assert patience.ended == "unreachable"
    assert patience.problem == "nothing was reached for 60 s (give_up_after)"


def test_a_server_that_only_refuses_is_left_after_half_an_hour() -> None:
    """A refusal shows that something is there: the run waits 1,800 s from its first failure."""
    patience = Patience()
    patience.tell(Verdict.NOT_SENT, 0)
    patience.tell(Verdict.REFUSED, 10)
    assert patience.due == REFUSED_FOR
    patience.end(REFUSED_FOR)
    assert patience.ended == "refused"
    assert patience.problem == "every request was refused for 1800 s (give_up_after)"


@pytest.mark.parametrize("verdict", sorted(set(Verdict) - set(VAIN)))
def test_any_other_end_begins_the_count_anew(verdict: Verdict) -> None:
    """What was answered, or reached and lost, gives the run its whole time again."""
    patience = Patience()
    patience.tell(Verdict.NOT_SENT, 0)
    assert patience.tell(verdict, 50)
    assert patience.due == math.inf
    patience.tell(Verdict.NOT_SENT, 70)
    assert patience.due == 70 + REFUSED_FOR


def test_the_users_limit_takes_the_place_of_both() -> None:
    """One number bounds the time of both kinds; a number that is none is refused."""
    patience = Patience(5)
    patience.tell(Verdict.REFUSED, 1)
    assert patience.due == 6
    for wrong in (0, -1, math.nan, "5"):
        with pytest.raises(ConfigurationError, match="give_up_after"):
            Patience(wrong)  # type: ignore[arg-type]


@given(TOLD)
def test_a_run_ends_only_after_its_limit_in_vain(told: list[tuple[Verdict, float]]) -> None:
    """For any story: it is over exactly if the last good end lies a whole limit back."""
    patience, now, since, reached = Patience(), 0.0, None, False
    for verdict, passed in told:
        now += passed
        patience.tell(verdict, now)
        reached = reached or verdict is not Verdict.NOT_SENT
        since = None if verdict not in VAIN else now if since is None else since
    limit = REFUSED_FOR if reached else UNREACHED_FOR
    assert patience.due == (math.inf if since is None else since + limit)
    patience.end(now)
    assert (patience.ended is not None) is (since is not None and now - since >= limit)


@given(before=st.floats(0, 50), paused=st.floats(0, 1e6), verdict=st.sampled_from(VAIN))
def test_a_pause_does_not_count(before: float, paused: float, verdict: Verdict) -> None:
    """While it is paused a run is never over, and afterwards it has what was left to it."""
    patience = Patience(60)
    patience.tell(verdict, 0)
    patience.pause(before)
    patience.pause(before + 1)
    assert (patience.paused, patience.due) == (True, math.inf)
    patience.end(before + paused)
    patience.resume(before + paused)
    assert (patience.paused, patience.ended) == (False, None)
    assert patience.due == pytest.approx(60 + paused)


def test_what_fails_during_a_pause_counts_from_its_end() -> None:
    """A failure of what was in flight gives the run its whole time after the pause."""
    patience = Patience(60)
    patience.pause(0)
    patience.tell(Verdict.NOT_SENT, 500)
    patience.resume(1000)
    assert patience.due == 1060
