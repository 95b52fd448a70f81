"""What is counted: sends, images that cost and images that only count as free."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from imagen_async.batch.accounting import ItemAccount, Tally
from imagen_async.batch.records import Item, RequestRow
from imagen_async.batch.states import State
from imagen_async.errors import Charge
from imagen_async.wire.request import GenerationRequest

N = 2


def opened(tally: Tally, *, known: bool = False, recount: bool = False, **fields: Any) -> Any:
    item = Item(b"", 0, RequestRow(GenerationRequest("a", n=N)), **fields)
    return ItemAccount(tally, item, known=known, listed=True, recount=recount)


ITEM = Item(b"", 0, RequestRow(GenerationRequest("a")))


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 4)), max_size=8))
def test_what_is_spent_is_what_was_sent_and_not_freed(steps: list[tuple[bool, bool, int]]) -> None:
    """Attempts are counted as they go out, freed ones taken back, excess images counted once."""
    tally = Tally()
    account = opened(tally)
    charged = presumed = sends = most = 0
    for freed, counts_as_send, came in steps:
        account.sent(ITEM)
        sends += 1
        if freed:
            sends -= not counts_as_send
            free = account.freed(sends)
            assert free == (N if counts_as_send else 0)
            presumed += free
        else:
            charged += N
            most = max(most, came)
            account.came(came)
            account.came(came)  # told as links come, and again once they are files
        assert (tally.spent, tally.presumed) == (charged + max(0, most - N), presumed)
        assert tally.at_risk(None) == tally.spent + tally.presumed
        assert account.sends == sends


def test_a_recount_begins_with_no_sends_and_keeps_what_was_spent() -> None:
    """The user's word lets a prompt out again; what it cost before is not excess now."""
    tally = Tally()
    assert opened(tally, sends=4).sends == 4
    account = opened(tally, known=True, recount=True, sends=4, spent=6)
    assert account.sends == 0
    account.sent(ITEM)
    assert account.came(6) == 0
    assert account.came(7) == 1


def test_an_item_is_counted_where_it_stands_and_once() -> None:
    """A new one adds to the folder's, a known one moves, and only listed ones are rows."""
    tally = Tally()
    at = {"state": State.UNKNOWN, "charge": Charge.MAYBE}
    tally.items[State.UNKNOWN, Charge.MAYBE] = 1
    item = Item(b"", 0, RequestRow(GenerationRequest("a")), **at)
    account = ItemAccount(tally, item, known=True, listed=False, recount=False)
    new = opened(tally)
    assert (tally.items.total(), tally.rows.total()) == (2, 1)
    for moved in (account, new):
        item.state, item.charge = State.DONE, Charge.YES
        moved.moved(item)
    assert +tally.items == {(State.DONE, Charge.YES): 2}
    assert +tally.rows == {(State.DONE, Charge.YES): 1}


def test_a_second_send_of_one_purchase_costs_nothing_and_frees_nothing() -> None:
    """Under a key that counts once, only the first send is spent, however the second one ends."""
    tally = Tally()
    account = opened(tally)
    account.sent(ITEM)
    account.at_stake = 0
    account.sent(ITEM)
    assert (tally.spent, account.sends) == (N, 2)
    assert account.freed(2) == 0
    account.sent(ITEM)
    assert (tally.spent, tally.presumed, account.sends) == (N, 0, 3)
    account.came(N)
    assert account.freed(3) == N, "a task that fails frees the purchase, and not one of its sends"
    assert tally.spent == 0
