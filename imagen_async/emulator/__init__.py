"""A stand-in for an image gateway, on loopback: it draws pictures and keeps a ledger of charges.

Nothing is imported before it is asked for: the fault table alone must not cost a web server.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imagen_async.emulator.dialects import DIALECTS
    from imagen_async.emulator.faults import FAULTS, FaultRule
    from imagen_async.emulator.latency import PROFILES
    from imagen_async.emulator.ledger import Account, Exchange, Ledger
    from imagen_async.emulator.server import Emulator

__all__ = [
    "DIALECTS",
    "FAULTS",
    "PROFILES",
    "Account",
    "Emulator",
    "Exchange",
    "FaultRule",
    "Ledger",
]

_ROOMS = {
    "DIALECTS": "dialects",
    "FAULTS": "faults",
    "FaultRule": "faults",
    "PROFILES": "latency",
    "Account": "ledger",
    "Exchange": "ledger",
    "Ledger": "ledger",
    "Emulator": "server",
}


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)
