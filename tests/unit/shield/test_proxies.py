"""Client addresses behind trusted proxies."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arqonbus.shield.proxies import TrustedProxies

RANGES = ["10.0.0.0/8", "fd00::/8"]
LIST = TrustedProxies(RANGES, "x-forwarded-for")
FORWARDED = TrustedProxies(RANGES, "forwarded")
FROM = "10.0.0.1"


@pytest.mark.parametrize(
    ("lines", "client"),
    [
        ([], FROM),
        (["192.0.2.1"], "192.0.2.1"),
        (["8.8.8.8, 192.0.2.1"], "192.0.2.1"),
        (["8.8.8.8", "192.0.2.1, 10.0.0.2"], "192.0.2.1"),
        (["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        (["192.0.2.1:4711"], "192.0.2.1"),
        (["[2001:db8::1]:4711"], "2001:db8::1"),
        (["2001:DB8:0::1"], "2001:db8::1"),
        (["::ffff:192.0.2.1"], "192.0.2.1"),
        (["192.0.2.1, ::ffff:10.0.0.2"], "192.0.2.1"),
        (["192.0.2.1, unknown"], FROM),
        (["192.0.2.1, "], FROM),
        (["for=192.0.2.1"], FROM),
        (["192.0.2.1:4711:1"], FROM),
        (["192.0.2.999"], FROM),
    ],
)
def test_x_forwarded_for(lines: Sequence[str], client: str) -> None:
    """From the right, as long as who added it is trusted; what is no address ends the search."""
    assert LIST.client(FROM, {"x-forwarded-for": lines, "forwarded": ["for=198.51.100.9"]}) == client


@pytest.mark.parametrize(
    ("lines", "client"),
    [
        (["for=192.0.2.1"], "192.0.2.1"),
        (["for=192.0.2.1;proto=https;by=10.0.0.1"], "192.0.2.1"),
        (["for=192.0.2.1;proto=https, for=10.0.0.2"], "192.0.2.1"),
        (["for=8.8.8.8", "for=192.0.2.1", "FOR=10.0.0.2"], "192.0.2.1"),
        (['For="[2001:db8::1]:80"'], "2001:db8::1"),
        (['for="[2001:db8::1]"'], "2001:db8::1"),
        (['for="192.0.2.1:_port"'], "192.0.2.1"),
        (['for="[::ffff:192.0.2.1]"'], "192.0.2.1"),
        (['for="192\\.0.2.1"'], "192.0.2.1"),
        (['host="a,b;for=8.8.8.8";for=192.0.2.1'], "192.0.2.1"),
        (["for=192.0.2.1 ; proto=https ,, "], "192.0.2.1"),
        ([";for=192.0.2.1;"], "192.0.2.1"),
        # Hidden, or said by nobody
        (["for=192.0.2.1, for=unknown"], FROM),
        (["for=192.0.2.1, for=_hidden"], FROM),
        (["for=192.0.2.1, proto=https"], FROM),
        (["for=192.0.2.1, for=10.0.0.2, for=_hidden"], FROM),
        (["for=192.0.2.1, for=_hidden, for=10.0.0.2"], "10.0.0.2"),
        # No Forwarded
        (["192.0.2.1"], FROM),
        (["for = 192.0.2.1"], FROM),
        (["for=2001:db8::1"], FROM),
        (["for=[2001:db8::1]"], FROM),
        (['for="2001:db8::1"'], FROM),
        (['for="[192.0.2.1]"'], FROM),
        (["for=192.0.2.1;for=192.0.2.2"], FROM),
        (["for=192.0.2.1;For=192.0.2.1"], FROM),
        (["for="], FROM),
        (['for=""'], FROM),
        (['for="192.0.2.1'], FROM),
        (['for="192.0.2.1"x'], FROM),
        (["for=192.0.2.1 for=192.0.2.2"], FROM),
        # A client opens a quote, so that what the proxy adds would be text
        (['for=8.8.8.8;by=", for=192.0.2.1'], FROM),
        (['for=8.8.8.8;by=", for="[2001:db8::1]"'], FROM),
        (['for=8.8.8.8;by="', "for=192.0.2.1"], "192.0.2.1"),
    ],
)
def test_forwarded(lines: Sequence[str], client: str) -> None:
    """By the grammar of RFC 7239; what does not keep to it ends the search."""
    assert FORWARDED.client(FROM, {"forwarded": lines, "x-forwarded-for": ["198.51.100.9"]}) == client


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("fd00::1", "192.0.2.1"),
        ("::ffff:10.0.0.1", "192.0.2.1"),
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:DB8::7", "2001:db8::7"),
        ("", ""),
    ],
)
def test_only_a_trusted_proxy_is_believed(address: str, client: str) -> None:
    """IPv4 in the form of IPv6, which a socket for both shows, is IPv4."""
    assert LIST.client(address, {"x-forwarded-for": ["192.0.2.1"]}) == client


def test_only_the_header_of_the_profile_is_read() -> None:
    """And none is the default."""
    headers = {"x-forwarded-for": ["192.0.2.1"], "forwarded": ["for=192.0.2.2"]}
    assert TrustedProxies(RANGES).client(FROM, headers) == FROM
    assert TrustedProxies([], "forwarded").client(FROM, headers) == FROM
    assert FORWARDED.client(FROM, {"x-forwarded-for": ["192.0.2.1"]}) == FROM


@pytest.mark.parametrize(
    ("proxies", "header", "hop"), [(LIST, "x-forwarded-for", "{}"), (FORWARDED, "forwarded", "for={}")]
)
def test_a_header_without_end_is_read_from_its_end(proxies: TrustedProxies, header: str, hop: str) -> None:
    """A client cannot make the bus look at thousands of hops."""
    hops = ", ".join([hop.format("10.0.0.2")] * 500)
    assert proxies.client(FROM, {header: [f"{hop.format('192.0.2.1')}, {hops}"]}) == "10.0.0.2"


@given(st.lists(st.text(alphabet='for=".,;:[]192 \\\t_bycx', max_size=60), max_size=3))
def test_whatever_a_client_sends_a_proxy_that_adds_a_line_is_believed(lines: list[str]) -> None:
    """No text of a client, quotes left open included, hides what stands in the last line."""
    assert (
        FORWARDED.client(FROM, {"forwarded": [*lines, 'for="[2001:db8::1]:80";proto=https']}) == "2001:db8::1"
    )
    assert LIST.client(FROM, {"x-forwarded-for": [*lines, "192.0.2.1"]}) == "192.0.2.1"


@given(
    st.text(alphabet='for=".,;:[]192 \\\t_bycx', max_size=60),
    st.sampled_from(["for=192.0.2.1", 'for="[2001:db8::1]"']),
)
def test_a_client_cannot_forge_what_a_proxy_appends_to(text: str, appended: str) -> None:
    """Where the proxy appends to the client's line: its own word is heard, or nothing is."""
    found = FORWARDED.client(FROM, {"forwarded": [f"{text}, {appended}"]})
    assert found in (FROM, "192.0.2.1" if "192" in appended else "2001:db8::1")
