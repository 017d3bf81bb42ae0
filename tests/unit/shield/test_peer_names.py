"""Service identities from client certificates."""

import pytest

from arqonbus.config.access import ServiceIdentity
from arqonbus.shield.peer_names import ServiceNames

NAMES = ServiceNames([ServiceIdentity(dns="billing.svc", tenant="shop", subject="billing")])


@pytest.mark.parametrize(
    ("kind", "value", "named"),
    [
        ("URI", "arqonbus://shop/billing", True),
        ("URI", "arqonbus://shop/bill%69ng", True),
        ("URI", "arqonbus://shop/billing/", False),
        ("URI", "arqonbus://shop/billing?x", False),
        ("URI", "arqonbus://shop/billing#x", False),
        ("URI", "arqonbus://Shop/billing", False),
        ("URI", "https://shop/billing", False),
        ("URI", "arqonbus://[shop/billing", False),
        ("URI", "spiffe://shop/billing", False),
        ("DNS", "billing.svc", True),
        ("DNS", "Billing.SVC", True),
        ("DNS", "*.svc", False),
        ("DNS", "arqonbus://shop/billing", False),
        ("email", "billing.svc", False),
    ],
)
def test_a_name_is_a_service_or_none(kind: str, value: str, named: bool) -> None:
    """By the URI, exactly, or by a DNS name that the profile maps."""
    assert NAMES.names([("DNS", "other"), (kind, value)], "shop", "billing") is named
    assert NAMES.names([(kind, value)], "shop", "shipping") is False


def test_a_subject_may_hold_what_a_uri_may_not() -> None:
    """Percent-encoded, as URIs do."""
    assert NAMES.names([("URI", "arqonbus://shop/a%2Fb%20c")], "shop", "a/b c")
