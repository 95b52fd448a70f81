"""A shard's run: an ordinary one, in its own folder, of the rows that are its own."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from imagen_async.batch.run import Run
from imagen_async.batch.shard_root import claim_root
from imagen_async.storage.offload import in_thread

if TYPE_CHECKING:
    from typing import Self

    from imagen_async.batch.intake import RunOptions
    from imagen_async.batch.plan import Plan
    from imagen_async.batch.prompts import Requests
    from imagen_async.batch.report import Report
    from imagen_async.batch.shards import Shard
    from imagen_async.session.core import Core


class ShardRun(Run):
    """The run of one shard; see Run.

    Args:
        core: The client's, which sends.
        requests: The whole input, of which the shard takes its rows.
        root: The folder over the shards' folders.
        options: How to go about it.
        shard: Which one it is; also in the options.

    Raises:
        ConfigurationError: As Run; also if the batch was begun with other shards, another input
            or other options.
    """

    def __init__(
        self, core: Core, requests: Requests, root: Path, options: RunOptions, shard: Shard
    ) -> None:
        self._root = Path(root).absolute()
        shard = shard.reading(requests)
        super().__init__(core, requests, self._root / shard.name, options)
        self._claim = partial(claim_root, self._root, shard, self._terms)

    async def __aenter__(self) -> Self:
        await in_thread(self.claim)
        return await super().__aenter__()

    def claim(self) -> None:
        """Fix what all shards share, or compare it; entering the block does that too."""
        self._claim()

    async def plan(self) -> Plan:
        """Read the whole input and return what the shard's run would do; see ``Run.plan``."""
        await in_thread(partial(self._claim, begin=False))
        return await super().plan()

    @property
    def report(self) -> Report:
        """What the shard came to so far; final after the block."""
        allowance = self._options.allowance
        return attrs.evolve(super().report, share=None if allowance is None else int(allowance))


def open_run(core: Core, requests: Requests, out: Path, options: RunOptions) -> Run:
    """Return a run in a folder, or that of the options' shard below it."""
    if options.shard is None:
        return Run(core, requests, out, options)
    return ShardRun(core, requests, out, options, options.shard)
