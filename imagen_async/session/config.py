"""All that a client was told, checked once."""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass

import attrs
from yarl import URL

from imagen_async.errors import ConfigurationError
from imagen_async.policy.config import Limits, Secret, Timeouts
from imagen_async.policy.retry import RetryPolicy
from imagen_async.policy.url_guard import is_loopback
from imagen_async.wire.mask import LONG, Mask
from imagen_async.wire.text import shown_url

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from imagen_async.session.events import Hook, OnEvent

T = TypeVar("T")

_SECRETIVE = re.compile("auth|key|token|secret|cookie|pass|cred|sign|session", re.IGNORECASE)
_OPAQUE = re.compile(r"(?:^|\s)(?=\S*[0-9])(?=\S*[A-Za-z])\S{16,}(?:\s|$)")
"""A value that may be a secret whatever its header is called."""


def _base_url(given: str | None) -> str:
    given = given or os.environ.get("IMAGEN_BASE_URL")
    if given is None or not given.strip():
        raise ConfigurationError(
            "No base URL: pass base_url='https://gateway.example/v1' or set IMAGEN_BASE_URL."
        )
    url = given.strip().rstrip("/")
    shown = shown_url(url)
    try:
        parts = urlsplit(url)
        port_is_fine = parts.port is None or parts.port > 0
        host_is_fine = _is_host(parts.hostname or "")
    except ValueError:
        raise ConfigurationError(f"base_url {shown} cannot be read; check its port.") from None
    if parts.scheme not in ("http", "https") or not host_is_fine or not port_is_fine:
        raise ConfigurationError(
            f"base_url {shown} must begin with https:// or http:// and name a host, "
            "such as https://gateway.example/v1."
        )
    if "@" in parts.netloc:
        raise ConfigurationError("base_url holds a user or password; pass the key as api_key.")
    if parts.query or parts.fragment or not url.isascii() or not url.isprintable() or " " in url:
        raise ConfigurationError(f"base_url {shown} must end with its path, such as /v1.")
    return url


def _is_host(name: str) -> bool:
    # Any other label breaks off deep in the resolver, with an error that names no URL.
    labels = [name] if ":" in name else name.removesuffix(".").split(".")
    return all(0 < len(label) <= 63 for label in labels)


def _secret(given: str | Secret | None) -> Secret | None:
    key = given if given is not None else os.environ.get("IMAGEN_API_KEY")
    if key is None or isinstance(key, Secret):
        return key
    return Secret(key) if key.strip() else None


def _limits(given: Limits | None) -> Limits:
    return _value("limits", Limits, given)


def _retry(given: RetryPolicy | None) -> RetryPolicy:
    return _value("retry", RetryPolicy, given)


def _timeouts(given: Timeouts | None) -> Timeouts:
    return _value("timeouts", Timeouts, given)


def _hooks(given: OnEvent | None) -> tuple[Hook, ...]:
    if given is None or callable(given):
        return () if given is None else (given,)
    hooks = tuple(given) if isinstance(given, Iterable) else None
    if hooks is None or not all(callable(hook) for hook in hooks):
        raise ConfigurationError("on_event must be a function, or a list of functions.")
    return hooks


def _value(name: str, kind: type[T], given: T | None) -> T:
    if given is not None and not isinstance(given, kind):
        raise ConfigurationError(
            f"{name} must be a {kind.__name__}, not {type(given).__name__}: "
            f"{name}={kind.__name__}(...)."
        )
    return kind() if given is None else given


def _headers(given: Mapping[str, str] | None) -> dict[str, str]:
    headers = dict(given or {})
    for name, value in headers.items():
        token = name and name.isascii() and name.replace("-", "").replace("_", "").isalnum()
        if not token or not isinstance(value, str) or not _fits(value):
            raise ConfigurationError(
                f"headers[{name!r}] cannot be sent: a name of letters, digits and dashes, "
                "and a value of printable ASCII."
            )
    return headers


def _fits(value: str) -> bool:
    return value.isascii() and (value.isprintable() or not value)


def _proxy(proxy: str | None) -> str | None:
    if proxy is None:
        return None
    try:
        parts = urlsplit(proxy)
        usable = parts.scheme in ("http", "https") and _is_host(parts.hostname or "")
    except ValueError:
        usable = False
    if not usable:
        raise ConfigurationError(
            f"proxy {shown_url(proxy)} must be a URL such as http://proxy.example:3128."
        )
    return proxy


def _mask(config: Config) -> Mask:
    secrets = [] if config.api_key is None else [config.api_key.reveal()]
    for name, value in config.headers.items():
        if _SECRETIVE.search(name) or _OPAQUE.search(value):
            # Without its scheme, too: `Basic ...` may be told without the first word.
            secrets += [part for part in (value, *value.split()) if len(part) >= LONG]
    return Mask(secrets)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Config:
    """A client's configuration, checked; see AsyncImagen for the meaning of each field.

    Raises:
        ConfigurationError: If something is missing or cannot work; it says what to do.

    Warns:
        UserWarning: If the key goes over plain http to another machine.
    """

    base_url: str = attrs.field(default=None, converter=_base_url)
    api_key: Secret | None = attrs.field(default=None, converter=_secret)
    model: str | None = None
    limits: Limits = attrs.field(default=None, converter=_limits)
    retry: RetryPolicy = attrs.field(default=None, converter=_retry)
    timeouts: Timeouts = attrs.field(default=None, converter=_timeouts)
    headers: Mapping[str, str] = attrs.field(default=None, converter=_headers)
    proxy: str | None = attrs.field(default=None, converter=_proxy)
    trust_env: bool = False
    ssl: ssl.SSLContext | None = None
    allow_private: bool = False
    idempotency: bool = True
    key_honoured: bool = False
    on_event: tuple[Hook, ...] = attrs.field(default=None, converter=_hooks)
    mask: Mask = attrs.field(init=False, default=attrs.Factory(_mask, takes_self=True))

    def __attrs_post_init__(self) -> None:
        if self.key_honoured and not self.idempotency:
            raise ConfigurationError(
                "key_honoured=True needs the keys that idempotency=False leaves out; give one of "
                "them."
            )
        parts = urlsplit(self.base_url)
        public = parts.scheme == "http" and not is_loopback(parts.hostname or "")
        if public and self.api_key is not None:
            warnings.warn(
                f"The API key goes to {parts.netloc} over plain http, where others can read it; "
                "use an https:// base_url.",
                stacklevel=4,  # whoever makes the client
            )

    @property
    def caller(self) -> str:
        """Eight digits that differ with the key, and with what goes along for a log to keep."""
        key = "" if self.api_key is None else self.api_key.reveal()
        own = sorted(name.lower() for name in self.headers)
        told = json.dumps([key, self.idempotency, own]).encode()
        return hashlib.sha256(told).hexdigest()[:8]

    @property
    def names_caller(self) -> bool:
        """Whether requests say who asks: by the key, or by a header of the caller's."""
        return self.api_key is not None or any(map(_SECRETIVE.search, self.headers))

    @property
    def origin(self) -> URL:
        """The API's: scheme, host and port."""
        return URL(self.base_url).origin()

    def proxy_for(self, url: URL) -> URL | None:
        """Return the proxy for a URL, or None; never by ``.netrc``."""
        if self.proxy is not None:
            return URL(self.proxy)
        if not self.trust_env:
            return None
        found = getproxies_environment().get(url.scheme)
        if not found or not url.host or proxy_bypass(url.host):
            return None
        return URL(found)


def checked_key(key: str) -> str:
    """Return an Idempotency-Key that a header can carry.

    Raises:
        ConfigurationError: If it is empty, longer than 255 characters or not printable ASCII.
    """
    if not (isinstance(key, str) and 0 < len(key) <= 255 and _fits(key)):
        raise ConfigurationError(
            "idempotency_key must be 1 to 255 characters of printable ASCII, such as a UUID."
        )
    return key


def checked_total(seconds: float) -> float:
    """Return a call's own total, in seconds.

    Raises:
        ConfigurationError: If it is not a number above 0.
    """
    return Timeouts(total=seconds).total


def new_key() -> str:
    """Return a random UUID (RFC 9562, version 4); the uuid module takes five times as long."""
    digits = os.urandom(16).hex()
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"
