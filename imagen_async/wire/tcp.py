"""What Linux knows of a TCP connection that ended, and what that proves."""

from __future__ import annotations

import errno

CLOSED = 7
CLOSE_WAIT = 8
"""The first byte of ``struct tcp_info`` (linux/tcp.h) after an RST, and after a FIN."""


def ended_by_fin(state: int, error: int) -> bool:
    """Return whether it was a FIN that ended the other side of a connection, and no RST.

    Args:
        state: Of the connection.
        error: Its SO_ERROR: EPIPE is an RST after a FIN.
    """
    return state == CLOSE_WAIT or (state == CLOSED and error == errno.EPIPE)


def never_read(size: float, *, fin: bool, state: int, unacknowledged: int) -> bool:
    """Return whether nobody read a request whose connection the other side closed.

    A program that closes its connection has read no more than its kernel had taken by then, and
    its FIN acknowledges all of that. An RST acknowledges nothing: a program that resets a
    connection may have read more. So the FIN must have come first, and the RST as the answer to
    what was sent on.

    One server is misjudged: it shuts its own side, takes an order that it can answer no more, and
    resets the connection before its kernel has acknowledged the order.

    Args:
        size: Bytes of head and body; over TLS they were more, and a part of a record is nothing.
        fin: Whether a FIN came first.
        state: Of the connection at the end.
        unacknowledged: Bytes that the other side's kernel has not taken.
    """
    return fin and state == CLOSED and unacknowledged >= size
