"""What a batch asks of a journal: named steps, each durable before the run acts on it.

A run gives each step while its calls are under way, many at once; an implementation may commit
what waits together. Work that reads the whole journal gets a ``JournalView`` instead, off the
event loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

from imagen_async.batch.states import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from imagen_async.batch.records import Count, Item, RefusedRow
    from imagen_async.errors import ConfigurationError
    from imagen_async.session.record import Trace

_T = TypeVar("_T")


class JournalView(Protocol):
    """A journal that nothing else reads or writes for now; its methods may block.

    Each raises ConfigurationError if the journal is damaged.
    """

    def runs(self) -> int:
        """Return how many runs the journal has seen."""
        ...

    def count_run(self) -> None:
        """Count one more run."""
        ...

    def find(self, identity: bytes) -> Item | None:
        """Return an item, or None."""
        ...

    def items(self, states: Iterable[State] = State) -> Iterator[Item]:
        """Yield the items in these states in the order in which they were first sent."""
        ...

    def ids(self, state: State) -> Iterator[bytes]:
        """Yield the ids of the items in a state."""
        ...

    def known(self) -> list[tuple[Count, bytes]]:
        """Return what ``counts`` does, each with its items' ids; it says that none was lost."""
        ...

    def refused(self) -> Iterator[RefusedRow]:
        """Yield the rows that this run did not send."""
        ...

    def counts(self) -> list[Count]:
        """Return how many items are in which state."""
        ...

    def settled(self, item: Item, traces: Iterable[Trace] = ()) -> None:
        """Keep an item's end; see ``Journal.settled``."""
        ...

    def sends(self) -> Iterator[tuple[bytes, Trace]]:
        """Yield each time that a body went out, with its item's id, in the order of the ends."""
        ...

    def cleared(self, item: Item) -> None:
        """Keep a charge that is lower than it was thought; see ``Journal.cleared``."""
        ...

    def decided(self, item: Item, at: float, decision: str) -> None:
        """Keep why an item was settled.

        Args:
            item: As it stands now.
            at: Unix seconds.
            decision: The charge, the rule and the rows of the log, as JSON.
        """
        ...

    def forget_refused(self) -> None:
        """Forget the rows that earlier runs did not send."""
        ...

    def drop_unknown(self) -> None:
        """Give up every item that may have been charged and is not done."""
        ...


class Journal(Protocol):
    """The open journal of one batch. What is counted is counted once for each step told.

    Each step returns when it is on disk, and raises ConfigurationError if it cannot be written;
    nothing more will be. It is queued before its first await: a cancelled wait undoes nothing.
    """

    @property
    def broken(self) -> ConfigurationError | None:
        """Why nothing more will be written, if so."""
        ...

    async def open(self, *, begin: bool = True) -> None:
        """Take the journal for this process alone and check it.

        Args:
            begin: Whether something will be written; False to look only.
        """
        ...

    async def aclose(self) -> None:
        """Commit what waits, mark the journal as whole and let go of it."""
        ...

    async def sending(
        self, item: Item, traces: Iterable[Trace] = (), *, images: int, resends: int
    ) -> None:
        """Keep that an attempt is about to be sent, new item or known.

        Args:
            item: With its ``sends``, this one counted, and its key.
            traces: What a log may show of the attempts since the last step.
            images: How many images the attempt may buy.
            resends: 1 if it may have been charged before, else 0.
        """
        ...

    async def returned(
        self, item: Item, traces: Iterable[Trace] = (), *, images: int, presumed: int
    ) -> None:
        """Keep that the attempt under way was free.

        Args:
            item: With its charge and its ``sends``.
            traces: What a log may show of the attempts since the last step.
            images: How many images to take back from what is spent.
            presumed: How many of them are only taken as free.
        """
        ...

    async def received(self, item: Item, traces: Iterable[Trace] = (), *, excess: int) -> None:
        """Keep a paid answer whose links are not downloaded yet.

        Args:
            item: With its answer.
            traces: What a log may show of the attempts since the last step.
            excess: Images that came beyond those that were counted when it was sent.
        """
        ...

    async def settled(
        self, item: Item, traces: Iterable[Trace] = (), *, excess: int = 0, presumed: int = 0
    ) -> None:
        """Keep how an item stands as its call ends; see the other steps for the arguments."""
        ...

    async def cleared(self, item: Item, *, presumed: int = 0) -> None:
        """Keep how an item stands whose charge is lower than it was thought: that is proven."""
        ...

    async def refused(self, row: RefusedRow) -> None:
        """Keep a row that is not sent."""
        ...

    async def call(self, work: Callable[[JournalView], _T]) -> _T:
        """Run a function beside the event loop, after everything that was asked before it."""
        ...
