"""``imagen-async serve``: the emulator as a program."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from imagen_async.cli.client import on_signals, run_loop
from imagen_async.cli.console import note, result, set_up
from imagen_async.cli.exits import DONE, INTERRUPTED
from imagen_async.cli.words import cut
from imagen_async.emulator import Emulator, FaultRule
from imagen_async.errors import ConfigurationError, ImagenError
from imagen_async.wire.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imagen_async.emulator import Account, Exchange

_NUMBERS = {"number": int, "probability": float, "times": int}
"""Conditions of a fault that are no texts."""


def serve(
    *,
    faults: tuple[str, ...],
    keys: tuple[str, ...],
    ready_file: str | None,
    quiet: bool,
    **settings: Any,
) -> int:
    """Serve until a signal comes.

    Args:
        faults: Rules, as ``fault_rule`` reads them.
        keys: API keys that are let in; any if empty.
        ready_file: Where the base URL is written while it listens.
        quiet: Whether notes are left out.
        **settings: As the emulator takes them.

    Raises:
        ConfigurationError: If a flag makes no emulator.
        ImagenError: If the port cannot be taken.
    """
    set_up(quiet=quiet)
    struck: Counter[str] = Counter()
    try:
        rules, tell = tuple(map(fault_rule, faults)), partial(_tell, struck)
        emulator = Emulator(faults=rules, keys=keys or None, on_exchange=tell, **settings)
    except ValueError as error:
        raise ConfigurationError(printable(str(error))) from None
    code = run_loop(_serve(emulator, ready_file))
    note(_ledger_line(emulator.ledger.total, struck))
    return code


def _tell(faults: Counter[str], exchange: Exchange) -> None:
    """Log a request in a line."""
    struck = [fault for fault in (exchange.fault, exchange.file_fault) if fault is not None]
    faults.update(struck)
    status = "none" if exchange.status is None else str(exchange.status)
    charged = "charged" if exchange.charged else "free   "
    because = f" (fault {', '.join(struck)})" if struck else ""
    prompt = cut(exchange.prompt, 60)
    note(f'{time.strftime("%H:%M:%S")} {status:4} {charged} "{prompt}"{because}')


def _ledger_line(total: Account, faults: Counter[str]) -> str:
    struck = ", ".join(f"{number:,} {fault}" for fault, number in faults.most_common())
    return (
        f"{total.posts:,} requests, {total.charged:,} charged, {total.images:,} images, "
        f"{faults.total():,} faults{f' ({struck})' if struck else ''}"
    )


def fault_rule(text: str) -> FaultRule:
    """Read ``fault``, ``fault,condition=value,...`` or a JSON object of a rule's fields.

    Raises:
        ValueError: If it makes no rule.
    """
    try:
        return FaultRule(**_fields(text))
    except (AttributeError, TypeError, ValueError) as error:
        names = ", ".join(field.name for field in attrs.fields(FaultRule))
        raise ValueError(
            f"--fault {text} is no rule: {error}; it has {names}, as fault,name=value or as JSON."
        ) from None


def _fields(text: str) -> dict[str, Any]:
    if text.lstrip().startswith("{"):
        fields: dict[str, Any] = json.loads(text)
        return fields
    fault, *conditions = text.split(",")
    pairs = [condition.partition("=") for condition in conditions]
    # A condition that is not known is one of the rule's errors.
    values = {name.strip(): _NUMBERS.get(name.strip(), str)(value) for name, _, value in pairs}
    return {"fault": fault, **values}


async def _serve(emulator: Emulator, ready_file: str | None) -> int:
    ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def end(number: int) -> None:
        if not ended.done():
            ended.set_result(INTERRUPTED if number == signal.SIGINT else DONE)

    with on_signals(end):
        try:
            await emulator.start()
        except OSError as error:
            raise ImagenError(
                f"Port {emulator.port} cannot be taken ({os.strerror(error.errno or 0)}); "
                "choose another with --port, or 0 for a free one."
            ) from None
        try:
            with _ready(ready_file, emulator.base_url):
                result(emulator.base_url)
                note("emulator: pictures are drawn here, nothing is bought; Ctrl-C ends it")
                return await ended
        finally:
            await emulator.stop()


@contextlib.contextmanager
def _ready(path: str | None, base_url: str) -> Iterator[None]:
    """Keep a file that says where the emulator listens, while it does."""
    if path is None:
        yield
        return
    part = Path(f"{path}.part")
    try:
        part.write_text(f"{base_url}\n")
        part.replace(path)
    except OSError as error:
        raise ConfigurationError(
            f"--ready-file {printable(path)} cannot be written: {error.strerror}."
        ) from None
    try:
        yield
    finally:
        Path(path).unlink(missing_ok=True)
