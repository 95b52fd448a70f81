"""How long a model takes, and what it serves as: the profiles."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING

import attrs

from imagen_async.emulator.faults import chance

if TYPE_CHECKING:
    from collections.abc import Mapping


@attrs.frozen
class Profile:
    """A lognormal latency by two of its quantiles, in seconds.

    Args:
        p50: Half of the generations are faster.
        p95: All but one in twenty are faster.
    """

    p50: float
    p95: float

    def seconds(self, seed: int, number: int) -> float:
        """Return the latency of a request; always the same for the same arguments."""
        if self.p50 <= 0:
            return 0.0
        sigma = math.log(self.p95 / self.p50) / _Z95
        throw = min(max(chance(seed, "latency", number), 1e-6), 1 - 1e-6)
        return self.p50 * math.exp(sigma * NormalDist().inv_cdf(throw))


_Z95 = NormalDist().inv_cdf(0.95)

PROFILES: Mapping[str, Profile] = {
    "instant": Profile(0.0, 0.0),
    "fast": Profile(4.8, 5.7),  # lumenfall.ai's live table for imagen-4.0-fast
    "standard": Profile(11.0, 15.0),  # codegateway, 2026-05: 8 to 15 s
    "ultra": Profile(30.0, 45.0),  # the same: 20 to 45 s
}
"""Latencies of the Imagen 4 models, by name."""
