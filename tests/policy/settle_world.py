"""A gateway that charges in secret, our calls to it, and the log it shows afterwards."""

import heapq
import math
import random

import attrs

from imagen_async.errors import Charge
from imagen_async.policy.settlement import CallLog, Doubt, KnownCall, LogRow, RowKind, Send

EPOCH = 1_790_000_000.25
"""Unix seconds on our clock at which a run begins."""


@attrs.define
class World:
    """One run, seen from both sides."""

    doubts: list[Doubt] = attrs.field(factory=list)
    calls: list[KnownCall] = attrs.field(factory=list)
    rows: list[LogRow] = attrs.field(factory=list)
    charged: dict[str, int] = attrs.field(factory=dict)
    """Charges of each item in doubt: the truth."""

    @property
    def charges(self) -> int:
        return sum(self.charged.values())

    def log(self, **changes: object) -> CallLog:
        rows = tuple(self.rows)
        found = CallLog(rows=rows, read_at=EPOCH + 1e6, whole_since=-math.inf)
        return attrs.evolve(found, **changes)


def row_of(start: float, seconds: float, skew: float, **fields: object) -> LogRow:
    """Return a row as new-api writes it: whole seconds, the start by difference."""
    began, ended = math.floor(start + skew), math.floor(start + seconds + skew)
    usual = {"kind": RowKind.CHARGE, "model": "imagen4", "amount": 20000.0}
    times = {"start": float(began), "end": float(ended)}
    return LogRow(**{**usual, **times, **fields})  # type: ignore[arg-type]


def simulate(
    seed: int,
    *,
    concurrency: int,
    prompts: int = 600,
    skew: float = 0.0,
    foreign: bool = False,
    resends: float = 0.0,
) -> World:
    """Run prompts, a tenth of which end in doubt, two thirds of those charged.

    Args:
        seed: Decides everything.
        concurrency: Calls at once.
        prompts: How many.
        skew: Seconds that the gateway's clock is ahead.
        foreign: Whether somebody else uses the key, at least every minute or so.
        resends: The part of the doubtful items that went out twice.
    """
    dice = random.Random(seed)
    world = World()
    slots = [EPOCH + dice.random() / 10 for _ in range(concurrency)]
    heapq.heapify(slots)
    for number in range(prompts):
        ended = one_prompt(world, dice, number, slots[0], skew, resends)
        heapq.heapreplace(slots, ended)
    if foreign:
        at, pause, number = EPOCH - 900, dice.uniform(5, 60), 0
        while at < max(slots) + 900:
            at += dice.expovariate(1 / pause)
            number += 1
            took = dice.lognormvariate(2.4, 0.3)
            world.rows.append(row_of(at, took, skew, id=f"foreign-{number}"))
    dice.shuffle(world.rows)
    return world


def one_prompt(
    world: World, dice: random.Random, number: int, at: float, skew: float, resends: float
) -> float:
    """Play one prompt; return when it has ended."""
    took = dice.lognormvariate(2.4, 0.2)
    arrives = at + dice.uniform(0.01, 0.4)
    if dice.random() >= 65 / 600:
        world.rows.append(row_of(arrives, took, skew, id=f"r{number}"))
        world.calls.append(KnownCall(send=Send(at, at, request_id=f"r{number}"), model="imagen4"))
        if dice.random() < 0.05:  # refused once, by the log too
            kind = RowKind.FREE
            world.rows.append(row_of(arrives, 0.2, skew, id=f"e{number}", kind=kind, amount=0.0))
        return at + took + 0.2
    sends, charges = [], 0
    for _ in range(1 + (dice.random() < resends)):
        sends.append(Send(at, at))
        if dice.random() < 44 / 65:
            charges += 1
            world.rows.append(row_of(arrives, took, skew, id=f"u{number}-{charges}"))
        at += took * dice.random() + 0.5
        arrives = at + dice.uniform(0.01, 0.4)
    name = f"item-{number}"
    world.doubts.append(Doubt(id=name, key=None, sends=tuple(sends), model="imagen4"))
    world.charged[name] = charges
    return at


def by_date(skew: float, dice: random.Random) -> tuple[float, float]:
    """Return what one Date header tells of the skew: whole seconds, and the way there and back."""
    sent = EPOCH + 2000 + dice.random()
    received = sent + dice.uniform(0.02, 0.3)
    date = math.floor(dice.uniform(sent, received) + skew)
    return date - received, date + 1 - sent


def wrong(world: World, decisions: object) -> list[str]:
    """Return the items that were settled and are not so."""
    truth = {Charge.NO: False, Charge.YES: True}
    return [
        each.id
        for each in decisions  # type: ignore[attr-defined]
        if each.charge in truth and truth[each.charge] is not (world.charged[each.id] > 0)
    ]
