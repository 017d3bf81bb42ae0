"""Where a client is, seen through proxies."""

import pytest

from arqonbus.shield.proxies import TrustedProxies

TRUSTED = TrustedProxies(["10.0.0.0/8", "fd00::/8"])
FROM = "10.0.0.1"


@pytest.mark.parametrize(
    ("address", "headers", "client"),
    [
        (FROM, {}, FROM),
        (FROM, {"x-forwarded-for": ["192.0.2.1"]}, "192.0.2.1"),
        (FROM, {"x-forwarded-for": ["8.8.8.8, 192.0.2.1"]}, "192.0.2.1"),
        (FROM, {"x-forwarded-for": ["8.8.8.8", "192.0.2.1, 10.0.0.2"]}, "192.0.2.1"),
        (FROM, {"x-forwarded-for": ["10.0.0.3, 10.0.0.2"]}, "10.0.0.3"),
        (FROM, {"x-forwarded-for": ["192.0.2.1:4711"]}, "192.0.2.1"),
        (FROM, {"x-forwarded-for": ["[2001:db8::1]:4711"]}, "2001:db8::1"),
        (FROM, {"x-forwarded-for": ["2001:db8::1"]}, "2001:db8::1"),
        (FROM, {"x-forwarded-for": ["192.0.2.1, unknown"]}, FROM),
        (FROM, {"x-forwarded-for": ["192.0.2.1, "]}, FROM),
        (FROM, {"forwarded": ["for=192.0.2.1;proto=https, for=10.0.0.2"]}, "192.0.2.1"),
        (FROM, {"forwarded": ['For="[2001:db8::1]:80"']}, "2001:db8::1"),
        (FROM, {"forwarded": ["for=_hidden"]}, FROM),
        (FROM, {"forwarded": ["proto=https"], "x-forwarded-for": ["192.0.2.1"]}, FROM),
        ("fd00::1", {"x-forwarded-for": ["192.0.2.1"]}, "192.0.2.1"),
        ("::ffff:10.0.0.1", {"x-forwarded-for": ["192.0.2.1"]}, "192.0.2.1"),
        ("192.0.2.7", {"x-forwarded-for": ["10.0.0.1"], "forwarded": ["for=10.0.0.2"]}, "192.0.2.7"),
        ("", {"x-forwarded-for": ["192.0.2.1"]}, ""),
    ],
)
def test_the_nearest_hop_that_is_no_proxy_of_ours(
    address: str, headers: dict[str, list[str]], client: str
) -> None:
    """From the right, as long as who added it is trusted; what is no address ends the search."""
    assert TRUSTED.client(address, headers) == client


def test_without_trusted_proxies_no_header_counts() -> None:
    """Which is the default."""
    assert TrustedProxies([]).client("127.0.0.1", {"x-forwarded-for": ["192.0.2.1"]}) == "127.0.0.1"


def test_a_header_without_end_is_read_from_its_end() -> None:
    """A client cannot make the bus look at thousands of hops."""
    hops = ", ".join(["10.0.0.2"] * 5000)
    assert TRUSTED.client(FROM, {"x-forwarded-for": [f"192.0.2.1, {hops}"]}) == "10.0.0.2"
