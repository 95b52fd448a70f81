"""Which addresses and links a download may reach: a gateway's word must not open our network."""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from urllib.parse import urlsplit

URL_LIMIT = 16 * 1024
"""Characters of a link; signed ones have about two thousand."""

_PUBLIC_V6 = ipaddress.IPv6Network("2000::/3")
# All that is handed out as global unicast (IANA, "IPv6 Address Space"). Outside of it lie
# loopback, link-local, site-local, multicast, IPv4-compatible and NAT64's 64:ff9b::/96.
_NOT_PUBLIC = tuple(
    (ipaddress.ip_network(network), why)
    for network, why in (
        # What ipaddress of some Python 3.11 to 3.13 calls global, and is not.
        ("192.0.0.0/24", "is set aside for protocols"),  # RFC 6890
        ("192.88.99.0/24", "is a 6to4 relay"),  # RFC 7526
        ("2001::/32", "is a Teredo tunnel"),  # RFC 4380
        ("2001::/23", "is set aside for protocols"),  # RFC 2928
        ("2002::/16", "is a 6to4 tunnel"),  # RFC 3056
        ("3fff::/20", "is for documentation"),  # RFC 9637
    )
)
_SCHEMES = ("https", "http")
_NAME = re.compile("[a-z0-9._-]+")
_NUMBER = re.compile("[0-9]+|0x[0-9a-f]*")
_HERE = re.compile("(?:ip6-)?(?:local(?:host|domain)[46]?|loopback)")


def address_problem(address: str) -> str | None:
    """Return why no socket may connect to an address, or None if it is public.

    Args:
        address: An IP address as the resolver gave it.

    Returns:
        The rest of a sentence about the address, such as ``is not public``.
    """
    if "%" in address:
        return "has a zone id"
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return "is not an IP address in its usual form"
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            # A socket of IPv6 connects there by IPv4.
            return address_problem(str(parsed.ipv4_mapped))
        if parsed not in _PUBLIC_V6:
            return "is not public"
    for network, why in _NOT_PUBLIC:
        if parsed in network:
            return why
    if not parsed.is_global or parsed.is_multicast or parsed.is_reserved:
        return "is not public"
    return None


def host_problem(host: str) -> str | None:
    """Return why a link's host is not even looked up, or None if it is a name or a public address.

    Behind a proxy no address is seen but the one that the link spells, and resolvers read many
    spellings: all but the usual one are refused, whatever they mean. A name is the resolver's.

    Args:
        host: As it goes over the wire: in ASCII, without brackets.

    Returns:
        The rest of a sentence about the host, such as ``is not public``.
    """
    name = host.lower().rstrip(".")
    if ":" in name:
        return address_problem(name)
    if _NAME.fullmatch(name) is None:
        return "is not a host's name"
    last = name.rpartition(".")[2]
    if _HERE.fullmatch(last):
        return "is this machine"
    return address_problem(name) if _NUMBER.fullmatch(last) else None


def is_loopback(host: str) -> bool:
    """Return whether a URL's host is this machine, by its usual names and addresses."""
    name = host.lower().rstrip(".")
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return _HERE.fullmatch(name.rpartition(".")[2]) is not None
    return address.is_loopback or address.is_unspecified


def url_problem(url: str, *, api_scheme: str) -> str | None:
    """Return why a link is not followed, or None if its form is fine.

    Args:
        url: An absolute link, exactly as the gateway sent it.
        api_scheme: The scheme of the base URL; only if it is ``http``, a link may be so too.

    Returns:
        The rest of a sentence about the link, without any part of it.
    """
    if len(url) > URL_LIMIT:
        return f"is longer than {URL_LIMIT} characters"
    if any(unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} for character in url):
        return "holds control characters"
    if "\\" in url:
        return "holds a backslash"
    if url.startswith(" "):  # urlsplit would pass over it, an HTTP client would not
        return "begins with a space"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "is not a URL"
    if parts.scheme not in _SCHEMES:
        return "is neither https nor http"
    if not host:
        return "names no host"
    if "@" in parts.netloc:
        return "holds a user name"
    if parts.scheme == "http" and api_scheme != "http":
        return "is not https"
    return None
