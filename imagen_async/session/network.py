"""How the network is reached, and what part of a URL may be told."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.request import getproxies_environment, proxy_bypass

import attrs
from yarl import URL

from imagen_async.wire.text import printable, shown_url

if TYPE_CHECKING:
    import ssl


@attrs.frozen
class Network:
    """How the network is reached.

    Args:
        proxy: A proxy's URL for every request.
        trust_env: Whether to read proxies from the environment; never ``.netrc``.
        ssl: A context for TLS; None for aiohttp's default.
    """

    proxy: str | None = attrs.field(default=None, repr=False)
    trust_env: bool = False
    ssl: ssl.SSLContext | None = None

    def proxy_for(self, url: URL) -> URL | None:
        """Return the proxy for a URL, or None."""
        if self.proxy is not None:
            return URL(self.proxy)
        if not self.trust_env:
            return None
        proxies = getproxies_environment()
        found = proxies.get(url.scheme)
        if not found or not url.host or proxy_bypass(url.host):
            return None
        return URL(found)


def origin_of(url: str) -> URL:
    """Return the origin of a base URL.

    Raises:
        ValueError: If it is not an http or https URL with a host; the text shows no secret.
    """
    parsed = URL(url)
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError(printable(shown_url(url)))
    return parsed.origin()
