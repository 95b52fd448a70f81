"""A run's folder: whether it is ours, what it was begun with, what a dead run left in it."""

from __future__ import annotations

import json
import shutil
import sys
from array import array
from collections import Counter
from typing import TYPE_CHECKING

import attrs

from imagen_async.batch import item_files, lists, schema
from imagen_async.batch.defaults import asked_anew, changes
from imagen_async.batch.identity import DuplicateCounter, IdSet, body_digest, prompt_of, short
from imagen_async.batch.states import Event, State, after
from imagen_async.errors import Charge, ConfigurationError, InvalidRequestError
from imagen_async.session.record import Trace
from imagen_async.storage import disk
from imagen_async.wire.request import GenerationRequest, request_fields
from imagen_async.wire.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from imagen_async.batch.ports import JournalView
    from imagen_async.batch.records import Count, Item

RUN = "run.json"
LEFT_WITHIN = 120.0
"""Seconds from an attempt's commit until its body has left: a slow disk, and a connection."""
ROOM = 16 * 1024 * 1024
"""Bytes that must be free: a job that is restarted on a full disk would buy what it cannot keep."""
_SAY_YES = "say new_options (--new-options)"


def claim_folder(folder: Path) -> None:
    """Take a folder for a batch: one that holds a journal, an empty one, or a new one.

    Raises:
        ConfigurationError: If it holds something else, or cannot be made.
    """
    shown = printable(str(folder), 300)
    try:
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for path in made:
            disk.sync_folder(path.parent)
        names = {path.name for path in folder.iterdir()}
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigurationError(
            f"{shown} cannot hold a batch: {reason}; choose another folder."
        ) from None
    if schema.NAME in names or not names:
        return
    if any(name.startswith("shard-") for name in names):
        raise ConfigurationError(
            f"{shown} holds a batch in shards; say which (--shards N), or choose another folder."
        )
    if names.intersection(schema.OURS):
        raise ConfigurationError(
            f"{shown} holds a batch without its {schema.NAME}, so what was paid for is not known; "
            "restore it, or choose another folder."
        )
    raise ConfigurationError(f"{shown} is not empty and holds no batch; choose another folder.")


@attrs.frozen(kw_only=True)
class Terms:
    """Under what a batch is run: what ``run.json`` keeps of it.

    Args:
        endpoint: The base URL, or the word ``emulator``.
        defaults: A request that carries the fields which rows leave out.
        renewed: Whether the user says yes to other defaults than before.
        runs: How many runs there were.
        callers: Who sends, as ``Config.caller`` tells keys apart; all that have so far.
    """

    endpoint: str
    defaults: GenerationRequest = attrs.field(factory=lambda: GenerationRequest("-"))
    renewed: bool = False
    runs: int = 0
    callers: frozenset[str] = frozenset()


def check(journal: JournalView, folder: Path, terms: Terms) -> int:
    """Compare what a run was begun with and what it is to go on with.

    Args:
        journal: What the batch has done so far.
        folder: Where ``run.json`` is.
        terms: What the run is to go on with.

    Returns:
        How many runs the journal has seen.

    Raises:
        ConfigurationError: If the endpoint is another one; if other defaults would buy anything
            again, unless the user said yes; if what it was begun with cannot be read, or tells of
            runs that the journal has not seen.
    """
    begun = _begun(folder / RUN)
    runs = journal.runs()
    if begun is None:
        if not terms.renewed and journal.counts():
            raise ConfigurationError(
                f"{printable(str(folder / RUN), 300)} is missing, so what this batch was begun "
                f"with is not known; restore it, or {_SAY_YES} to go on with what is given now."
            )
        return runs
    if begun.endpoint != terms.endpoint:
        raise ConfigurationError(
            f"This batch was begun with {printable(begun.endpoint, 300)} and cannot go on with "
            f"{printable(terms.endpoint, 300)}; use the first, or choose another folder."
        )
    if begun.runs > runs:
        raise ConfigurationError(
            f"{schema.NAME} is older than the last run, so what was paid for is not known; put "
            "the last one back, or choose another folder."
        )
    changed = changes(begun.defaults, terms.defaults)
    if changed and not terms.renewed:
        again = _bought_again(journal, begun.defaults, terms.defaults)
        if again.total():
            raise ConfigurationError(
                f"This batch was begun with other options: {'; '.join(changed)} now. Up to "
                f"{again[True]:,} prompts that are done and {again[False]:,} that may have been "
                f"charged would be bought again; give the same options, or {_SAY_YES} to buy them."
            )
    return runs


def check_endpoint(folder: Path, endpoint: str) -> frozenset[str]:
    """Return who sent a folder's batch.

    Raises:
        ConfigurationError: If it holds none, or one that was begun with another endpoint.
    """
    shown = printable(str(folder), 300)
    begun = _begun(folder / RUN)
    if begun is None or not (folder / schema.NAME).is_file():
        raise ConfigurationError(f"{shown} holds no batch; name the folder that a batch wrote.")
    if begun.endpoint != endpoint:
        raise ConfigurationError(
            f"This batch was begun with {printable(begun.endpoint, 300)}, so its log cannot be "
            f"asked at {printable(endpoint, 300)}; use the first."
        )
    return begun.callers


def endpoint_of(folder: Path) -> str | None:
    """Return the base URL, or the word ``emulator``, that a folder's batch was begun with."""
    begun = _begun(folder / RUN)
    return None if begun is None else begun.endpoint


def begin(journal: JournalView, folder: Path, terms: Terms) -> None:
    """Note what a run is begun with, if it may go on with it.

    Raises:
        ConfigurationError: If it may not, or the disk has no room for images.
        OSError: If the disk fails.
    """
    total, _, free = shutil.disk_usage(folder)
    if free < ROOM <= total:
        raise ConfigurationError(
            f"Only {free // 1024:,} KiB are free at {printable(str(folder), 300)}, and an image "
            "that does not fit is lost; make room, then run the same command again."
        )
    runs = check(journal, folder, terms) + 1
    begun = _begun(folder / RUN)
    callers = sorted(terms.callers | (frozenset() if begun is None else begun.callers))
    # The journal first: it may be ahead of the other file, if the process ends here, never behind.
    journal.count_run()
    options = {**request_fields(terms.defaults)}
    del options["prompt"]
    kept = {"version": 2, "base_url": terms.endpoint, "options": options, "runs": runs}
    kept["callers"] = callers
    lists.write_whole(folder / RUN, json.dumps(kept) + "\n")


def _begun(path: Path) -> Terms | None:
    try:
        kept = json.loads(path.read_text("utf-8"))
        defaults = GenerationRequest("-", **kept["options"])
        return Terms(
            endpoint=str(kept["base_url"]),
            defaults=defaults,
            runs=int(kept["runs"]),
            callers=frozenset(kept.get("callers", ())),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, InvalidRequestError):
        raise ConfigurationError(
            f"{printable(str(path), 300)} cannot be read; restore it."
        ) from None


def _bought_again(
    journal: JournalView, old: GenerationRequest, new: GenerationRequest
) -> Counter[bool]:
    """Count the items that cost or may have, and that other defaults would order anew.

    Returns:
        The done ones under True, the others under False.
    """
    known, duplicates, counts = KnownItems(journal.known()), DuplicateCounter(), Counter[bool]()
    for item in journal.items():
        if item.charge is Charge.NO:
            continue
        anew = asked_anew(item.row.request, old, new)
        if anew is not None and known.find(duplicates.enter(body_digest(anew))) is None:
            counts[item.state is State.DONE] += 1
    return counts


class KnownItems:
    """What a journal said of its items when the run began, in 16 bytes an item.

    Args:
        known: The ids of each state and charge, joined; see ``JournalView.known``.
    """

    def __init__(self, known: Iterable[tuple[Count, bytes]] = ()) -> None:
        self._sets: list[tuple[tuple[State, Charge], IdSet]] = []
        prompts = array("Q")
        # What a resume meets most comes first.
        for count, ids in sorted(known, key=lambda group: len(group[1]), reverse=True):
            halves = array("Q", ids)
            if sys.byteorder == "little":
                halves.byteswap()
            self._sets.append(((count.state, count.charge), IdSet(halves[::2])))
            if count.charge is not Charge.NO:
                prompts.extend(halves[1::2])
        self._prompts = IdSet(prompts)

    def find(self, identity: bytes) -> tuple[State, Charge] | None:
        """Return the state and charge of an item, or None if the journal did not have it."""
        number = short(identity)
        for at, found in self._sets:
            if number in found:
                return at
        return None

    def has_any(self, state: State) -> bool:
        """Return whether any item is in a state: looking for it reads the whole journal."""
        return any(at[0] is state for at, _ in self._sets)

    def has_bought(self, identity: bytes) -> bool:
        """Return whether any item with this one's prompt was or may have been charged."""
        return prompt_of(identity) in self._prompts

    def owns_files(self, digits: str) -> bool:
        """Return whether an item that may have images has these 12 hexadecimal digits."""
        for (state, charge), found in self._sets:
            # What is known to have cost nothing was not so when its image came.
            if (charge is not Charge.NO or state is State.SENDING) and found.has_name(digits):
                return True
        return False


@attrs.frozen
class Recovered:
    """What a run takes up.

    Args:
        known: What the journal says of its items.
        counts: What it counts.
        cut: The items that a dead run left under way, settled.
    """

    known: KnownItems
    counts: list[Count]
    cut: list[Item]


def recover(journal: JournalView, folder: Path, *, drop: bool = False) -> Recovered:
    """Settle what a dead run left under way: adopted if its images are all here, else unknown.

    Args:
        journal: What the batch has done so far.
        folder: Where its images are.
        drop: Whether to give up what may have been charged and is not done.

    Raises:
        ConfigurationError: If an image is of no item that may have one: the journal lost commits.
        OSError: If the disk fails.
    """
    groups = journal.known()
    known = KnownItems(groups)
    cut = list(journal.items([State.SENDING])) if known.has_any(State.SENDING) else []
    parts, files = item_files.survey(folder, known.owns_files, {item.digits for item in cut})
    settled = [_settled(item, files.get(item.digits, ())) for item in cut]
    for item in settled:
        journal.settled(item, _traces_of(item))
    for part in parts:  # those that held an image have a name by now
        disk.remove(part)
    journal.forget_refused()
    if drop:
        journal.drop_unknown()
    if cut or drop:
        groups = journal.known()
        known = KnownItems(groups)
    return Recovered(known, [count for count, _ in groups], settled)


def _traces_of(item: Item) -> list[Trace]:
    """Return when a dead run's body may have left: at once, or once it had a connection."""
    if item.sent_at is None:
        return []
    return [Trace(item.sent_at, item.sent_at + LEFT_WITHIN, item.charge)]


def _settled(item: Item, files: Iterable[str]) -> Item:
    """Return an item as what lies on the disk settles it."""
    images, complete = item_files.rescue(item, files)
    charge = Charge.YES if images else max(item.charge, Charge.MAYBE)
    state = after(item.state, Event.DELIVERED if complete else Event.FAILED, charge)
    settled = attrs.evolve(item, state=state, charge=charge, error=None)
    if not images:
        return settled
    answer = item.answer_with(images)
    return attrs.evolve(settled, answer=answer, images=len(answer.files))
