"""What a closed connection proves about the request on it: only an RST after a FIN is proof."""

import errno

from hypothesis import given
from hypothesis import strategies as st

from imagen_async.wire.tcp import CLOSE_WAIT, CLOSED, ended_by_fin, never_read

sizes = st.integers(1, 10**9)
states = st.integers(1, 12)
errors = st.sampled_from([0, *errno.errorcode])


@given(size=sizes, more=st.integers(0, 10**6))
def test_an_order_that_was_refused_whole(size: int, more: int) -> None:
    """An RST after a FIN, and no byte of the request acknowledged: nobody read it."""
    assert never_read(size, fin=True, state=CLOSED, unacknowledged=size + more)


@given(size=sizes, state=states, left=st.floats(0, 1, exclude_max=True))
def test_every_fact_is_needed(size: int, state: int, left: float) -> None:
    """Without any one of them somebody may have read it: it stays unknown."""
    assert not never_read(size, fin=False, state=CLOSED, unacknowledged=size)
    assert not never_read(size, fin=True, state=CLOSED, unacknowledged=int(left * size))
    assert state == CLOSED or not never_read(size, fin=True, state=state, unacknowledged=size)


@given(left=st.integers(0, 2**31))
def test_a_request_that_was_not_written_whole(left: int) -> None:
    """A request of unknown size is never called unread."""
    assert not never_read(float("inf"), fin=True, state=CLOSED, unacknowledged=left)


@given(state=states, error=errors)
def test_what_is_a_fin(state: int, error: int) -> None:
    """A FIN is one that waits for our own end, or that an RST came after; all else is none."""
    rst_after_it = (state, error) == (CLOSED, errno.EPIPE)
    assert ended_by_fin(state, error) is (state == CLOSE_WAIT or rst_after_it)
    assert not ended_by_fin(CLOSED, errno.ECONNRESET)
    assert not ended_by_fin(CLOSED, 0)
