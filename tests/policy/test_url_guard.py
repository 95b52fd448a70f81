"""Which addresses and links a download may reach."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagen_async.policy.url_guard import (
    URL_LIMIT,
    address_problem,
    host_problem,
    is_loopback,
    url_problem,
)

PRIVATE = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.0.170",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::127.0.0.1",
    "::8.8.8.8",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::8.8.8.8",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:0:53aa:64c::1",
    "2001:2::1",
    "2001:10::1",
    "2001:20::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:808:808::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "2606:4700::1%1",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
]
UNREADABLE = [
    "",
    "localhost",
    "2130706433",
    "127.1",
    "0x7f000001",
    "0177.0.0.1",
    "1.2.3.4 ",
    "[::1]",
]
PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "172.15.0.1",
    "172.32.0.1",
    "192.0.1.1",
    "::ffff:8.8.8.8",
    "2001:4860:4860::8888",
    "2606:4700:4700::1111",
    "2a00:1450:4001::1",
]


@pytest.mark.parametrize("address", PRIVATE + UNREADABLE)
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    """Every private, tunnelled, reserved or unreadable address has a problem."""
    assert address_problem(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_reached(address: str) -> None:
    """Addresses of the open internet have none."""
    assert address_problem(address) is None


@given(st.ip_addresses(v=6))
def test_no_ipv6_address_hides_a_private_ipv4_address(address: ipaddress.IPv6Address) -> None:
    """What passes is global unicast, and no form that carries an IPv4 address but the mapped."""
    if address_problem(str(address)) is None:
        mapped = address.ipv4_mapped
        assert mapped is None or mapped.is_global
        assert mapped is not None or address in ipaddress.ip_network("2000::/3")
        assert address.sixtofour is None
        assert address.teredo is None


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_and_its_mapped_form_are_judged_alike(
    address: ipaddress.IPv4Address,
) -> None:
    """Writing an IPv4 address as IPv6 changes nothing."""
    assert address_problem(str(address)) == address_problem(f"::ffff:{address}")


@pytest.mark.parametrize(
    "host",
    [
        *(address for address in PRIVATE + UNREADABLE),
        *("127.0.0.1.", "0", "0x7f.1", "017700000001", "1.2.3.256", "010.8.8.8", "0x8.8.8.8"),
        *("a.0x", "example.08", "4294967295", "8.8.8.8%20", "%31.example", "8.8.8.8\x00"),
        *("LocalHost", "a.localhost.", "localhost.localdomain", "ip6-localhost", "."),
    ],
)
def test_a_host_that_may_be_read_as_a_private_address_is_refused(host: str) -> None:
    """Every spelling that some resolver takes for an address is refused, unless it is public."""
    assert host_problem(host)


@pytest.mark.parametrize(
    "host",
    [
        *PUBLIC,
        *("8.8.8.8.", "a.example", "A.Example.", "xn--bcher-kva.example", "a_b-c.s3.example"),
        *("10.0.0.1.nip.io", "localhost.example", "0x7f.example", "127.0.0.1x", "intranet"),
    ],
)
def test_a_name_is_left_to_its_resolver(host: str) -> None:
    """A host whose last label is no number is a name, and a public address is fine."""
    assert host_problem(host) is None


@pytest.mark.parametrize(
    ("host", "here"),
    [
        *(("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("0.0.0.0", True)),
        *(("LOCALHOST.", True), ("a.localhost", True), ("localhost.example", False)),
        *(("10.0.0.1", False), ("127.0.0.1.example", False), ("8.8.8.8", False), ("", False)),
    ],
)
def test_this_machine_is_known_by_its_usual_names(host: str, here: bool) -> None:
    """Loopback names and addresses are this machine, and so is the address of none."""
    assert is_loopback(host) is here


@given(st.ip_addresses())
def test_a_host_that_is_an_address_is_judged_as_one(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    """A plain address means the same in a link as at a socket; a number never passes."""
    assert host_problem(str(address)) == address_problem(str(address))
    assert host_problem(str(int(address)))
    assert host_problem(hex(int(address)))


@given(st.text())
def test_no_text_raises(text: str) -> None:
    """Whatever the text, there is a verdict."""
    assert host_problem(text) is None or host_problem(text)
    assert address_problem(text) is None or address_problem(text)
    assert url_problem(text, api_scheme="http") is None or url_problem(text, api_scheme="http")


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://a.example/x", "not https"),
        ("file:///etc/passwd", "neither"),
        ("javascript:alert(1)", "neither"),
        ("data:text/html,x", "neither"),
        ("ftp://a.example/x", "neither"),
        ("C:/x.png", "neither"),
        ("~/x.png", "neither"),
        ("", "neither"),
        ("//a.example/x", "neither"),
        ("https:///x", "no host"),
        ("https:x", "no host"),
        ("https://user:secret@a.example/x", "user name"),
        ("https://@a.example/x", "user name"),
        ("https://a.example\\@b.example/x", "backslash"),
        (" https://a.example/x", "space"),
        ("https://a.example/x\ny", "control"),
        ("https://a.example/x\ty", "control"),
        ("https://a.example/\u2028", "control"),
        ("https://a.example/\ud800", "control"),
        ("https://a.example/\x00", "control"),
        ("https://[::1/x", "not a URL"),
        ("https://a.example:99999/x", "not a URL"),
        ("https://a.example:x/x", "not a URL"),
        ("https://a.example/" + "x" * URL_LIMIT, "longer"),
    ],
)
def test_a_link_of_a_dangerous_form_is_refused(url: str, problem: str) -> None:
    """Each refusal says why, and quotes nothing of the link."""
    said = url_problem(url, api_scheme="https")
    assert said is not None
    assert problem in said
    assert "secret" not in said


@pytest.mark.parametrize(
    "url",
    [
        "https://a.example/x.png",
        "https://a.example:8443/x?sig=a%2Bb%2F&e=1",
        "HTTPS://A.example/x",
        "https://[2606:4700::1]/x",
        "https://a.example/\u4e2d.png",
        "https://a.example/" + "x" * 8000,
    ],
)
def test_a_link_of_an_ordinary_form_is_followed(url: str) -> None:
    """Signed and long links, ports and other scripts are fine."""
    assert url_problem(url, api_scheme="https") is None


def test_plain_http_is_for_an_api_of_plain_http() -> None:
    """A gateway on http may give links on http; one on https may not."""
    assert url_problem("http://localhost:8000/x", api_scheme="http") is None
    assert url_problem("https://a.example/x", api_scheme="http") is None
    assert url_problem("http://a.example/x", api_scheme="https") == "is not https"
