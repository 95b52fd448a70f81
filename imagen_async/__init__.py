"""Image generation that is never bought twice in silence.

The public names; each is imported when it is first used, so that ``imagen-async --help`` and a
script that fails early do not wait for the network stack.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imagen_async.batch.plan import Plan
    from imagen_async.batch.prompts import Row, read_source
    from imagen_async.batch.report import Report
    from imagen_async.batch.run import Run
    from imagen_async.batch.settling import Settled, SettledItem
    from imagen_async.batch.shards import Shard
    from imagen_async.blocking.run import BlockingRun
    from imagen_async.blocking.stream import BlockingStream
    from imagen_async.client import AsyncImagen
    from imagen_async.errors import (
        CallLogError,
        Charge,
        ConfigurationError,
        DownloadError,
        ExpiredUrlError,
        ForkedClientError,
        ImagenError,
        InvalidRequestError,
        NotSentError,
        OutcomeUnknownError,
        QuotaError,
        RefusedError,
        RejectedError,
        SaveError,
        ServerFailedError,
        SpoiledAnswerError,
        UnfinishedTaskError,
        Verdict,
    )
    from imagen_async.policy.config import Limits, Timeouts
    from imagen_async.policy.retry import RetryPolicy
    from imagen_async.session.events import (
        Cancelled,
        Done,
        Downloaded,
        Event,
        Failed,
        Queued,
        Received,
        Retrying,
        Sent,
        Throttled,
    )
    from imagen_async.session.stats import Stats
    from imagen_async.session.stream import Outcome, Stream
    from imagen_async.sync import Imagen
    from imagen_async.wire.cost import Cost
    from imagen_async.wire.generation import Generation
    from imagen_async.wire.image import Image
    from imagen_async.wire.request import AspectRatio, GenerationRequest, ResponseFormat

__version__ = "0.2.0"

__all__ = [
    "AspectRatio",
    "AsyncImagen",
    "BlockingRun",
    "BlockingStream",
    "CallLogError",
    "Cancelled",
    "Charge",
    "ConfigurationError",
    "Cost",
    "Done",
    "DownloadError",
    "Downloaded",
    "Event",
    "ExpiredUrlError",
    "Failed",
    "ForkedClientError",
    "Generation",
    "GenerationRequest",
    "Image",
    "Imagen",
    "ImagenError",
    "InvalidRequestError",
    "Limits",
    "NotSentError",
    "Outcome",
    "OutcomeUnknownError",
    "Plan",
    "Queued",
    "QuotaError",
    "Received",
    "RefusedError",
    "RejectedError",
    "Report",
    "ResponseFormat",
    "RetryPolicy",
    "Retrying",
    "Row",
    "Run",
    "SaveError",
    "Sent",
    "ServerFailedError",
    "Settled",
    "SettledItem",
    "Shard",
    "SpoiledAnswerError",
    "Stats",
    "Stream",
    "Throttled",
    "Timeouts",
    "UnfinishedTaskError",
    "Verdict",
    "__version__",
    "read_source",
]

_ROOMS = {
    "batch.plan": ("Plan",),
    "batch.report": ("Report",),
    "batch.run": ("Run",),
    "batch.settling": ("Settled", "SettledItem"),
    "batch.shards": ("Shard",),
    "batch.prompts": ("Row", "read_source"),
    "blocking.run": ("BlockingRun",),
    "blocking.stream": ("BlockingStream",),
    "client": ("AsyncImagen",),
    "errors": (
        "CallLogError",
        "Charge",
        "ConfigurationError",
        "DownloadError",
        "ExpiredUrlError",
        "ForkedClientError",
        "ImagenError",
        "InvalidRequestError",
        "NotSentError",
        "OutcomeUnknownError",
        "QuotaError",
        "RefusedError",
        "RejectedError",
        "SaveError",
        "ServerFailedError",
        "SpoiledAnswerError",
        "UnfinishedTaskError",
        "Verdict",
    ),
    "policy.config": ("Limits", "Timeouts"),
    "policy.retry": ("RetryPolicy",),
    "session.events": (
        "Cancelled",
        "Done",
        "Downloaded",
        "Event",
        "Failed",
        "Queued",
        "Received",
        "Retrying",
        "Sent",
        "Throttled",
    ),
    "session.stream": ("Outcome", "Stream"),
    "session.stats": ("Stats",),
    "sync": ("Imagen",),
    "wire.cost": ("Cost",),
    "wire.generation": ("Generation",),
    "wire.image": ("Image",),
    "wire.request": ("AspectRatio", "GenerationRequest", "ResponseFormat"),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _ROOM_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_ROOM_OF[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
