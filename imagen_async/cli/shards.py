"""``imagen-async batch --shards``: one worker of several, on one shard or on any that is free."""

from __future__ import annotations

import contextlib
import random
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import attrs

from imagen_async.batch.schema import HeldJournalError
from imagen_async.batch.shards import Shard, all_shards, share_of_rate
from imagen_async.batch.status import FolderStatus, batch_status, folder_status
from imagen_async.batch.workers import NoPlaceError, worker_place
from imagen_async.cli.client import RequestFlags
from imagen_async.cli.console import note
from imagen_async.cli.exits import DONE, INTERRUPTED, PARTIAL
from imagen_async.cli.status import left_lines
from imagen_async.errors import ConfigurationError
from imagen_async.storage.offload import in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from typing import Self

LOOKS: Final = 3
"""How often a shard is tried that another process holds: one that only looks is soon done."""
PAUSE: Final = 0.3
"""Seconds between them."""
WAIT: Final = 60.0
"""Seconds that a worker waits for another's place: a scheduler starts one as another ends."""


@attrs.frozen(kw_only=True)
class ShardFlags(RequestFlags):
    """The flags of ``batch`` that say which rows a process works on."""

    source: str
    out: str
    shards: int | None = None
    shard: int | None = None
    workers: int | None = None
    rpm: float | None = None
    on_unknown: str = "hold"
    retry_failed: bool = False
    dry_run: bool = False

    def check(self) -> None:
        """Refuse flags that cannot work together.

        Raises:
            ConfigurationError: It says which.
        """
        if self.shards is None:
            if self.shard is not None:
                raise ConfigurationError("--shard needs --shards, the number of all of them.")
            if self.workers is not None:
                raise ConfigurationError("--workers needs --shards: it divides --rpm among them.")
            return
        if self.source == "-":
            raise ConfigurationError("With --shards every worker reads the input: give a file.")
        if self.shard is None and self.dry_run:
            raise ConfigurationError("--dry-run needs --shard: it plans one shard at a time.")
        _ = self.chosen

    @property
    def chosen(self) -> Shard | None:
        """The shard that is worked on."""
        if self.shards is None or self.shard is None:
            return None
        return Shard(self.shard, of=self.shards)

    @property
    def folder(self) -> Path:
        """The folder of the run, as it is shown."""
        return Path(self.out) if self.chosen is None else Path(self.out, self.chosen.name)

    @property
    def again(self) -> bool:
        """Whether shards at their end have something to send again: once, so by one worker."""
        return self.retry_failed or self.on_unknown != "hold"

    @property
    def alone(self) -> bool:
        """Whether no other worker may take free shards: it would send the same things again."""
        return self.again and self.shard is None

    @property
    def places(self) -> int:
        """How many workers may run at once."""
        most = self.shards or 1
        return 1 if self.alone else min(self.workers or most, most)

    @property
    def rate(self) -> float | None:
        """What this process may send in a minute: its share, if there may be other workers."""
        if self.rpm is None or self.shards is None:
            return self.rpm
        return share_of_rate(self.rpm, self.places)

    def with_shard(self, shard: Shard) -> Self:
        """Return the flags of one shard's run."""
        return attrs.evolve(self, shard=shard.index)

    def passes(self, status: FolderStatus) -> bool:
        """Return whether a shard that stands so is left alone: nothing of it would be sent."""
        return status.phase == "ended" and not self.again


@contextlib.asynccontextmanager
async def place_held(flags: ShardFlags) -> AsyncIterator[None]:
    """Hold a worker's place in the block, if there is a rate to divide or it must be alone.

    Where a rate is divided it is waited for a while.

    Raises:
        ConfigurationError: If none becomes free, or other workers divide it otherwise.
    """
    end = time.monotonic() + WAIT
    with contextlib.ExitStack() as stack:
        while flags.alone or flags.rpm is not None:
            try:
                stack.enter_context(worker_place(Path(flags.out), flags.places))
                break
            except NoPlaceError:
                if flags.alone or time.monotonic() > end:
                    raise
                await anyio.sleep(PAUSE)
        yield


async def run_shard(run: Callable[[], Awaitable[int]]) -> int:
    """Run the one shard that was asked for.

    Raises:
        HeldJournalError: If another process runs it, and not only looks at it.
    """
    for _ in range(LOOKS - 1):
        try:
            return await run()
        except HeldJournalError:
            await anyio.sleep(PAUSE)
    return await run()


async def take_shards(flags: ShardFlags, run: Callable[[Shard], Awaitable[int]]) -> int:
    """Run every shard that is free, one after the other, and say what is left.

    One that another process holds is looked at again at the end: its worker may have died.

    Args:
        flags: Those of the command.
        run: Runs one and returns its exit code.

    Returns:
        The exit code.
    """
    assert flags.shards is not None
    root, first = Path(flags.out), random.randrange(flags.shards)  # noqa: S311 - to spread workers
    waiting, code = list(all_shards(flags.shards, first=first)), DONE
    for _ in range(2):
        waiting, held = [], waiting
        for shard in held:
            status = await in_thread(partial(folder_status, root / shard.name))
            if flags.passes(status):
                continue
            try:
                code = await run(shard)
            except HeldJournalError:
                waiting.append(shard)
                continue
            if code == INTERRUPTED or await in_thread(partial(_stops, root / shard.name)):
                return code
    whole = await in_thread(partial(batch_status, root))
    for line in left_lines(whole, root):
        note(line)
    return DONE if whole.report.ok else PARTIAL


def _stops(folder: Path) -> bool:
    """Return whether a shard stopped for what would stop the next one, too."""
    report = folder_status(folder).report
    return report.get("stopped_by") not in (None, "budget")
