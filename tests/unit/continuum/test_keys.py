"""Key families in Valkey: no name leads out of a family, and an ACL enforces it."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from arqonbus.continuum.keys import (
    FAMILIES,
    MAX_CACHE_SECONDS,
    ForbiddenKey,
    acl_rules,
    cache,
    cache_seconds,
    presence,
    rate_limit,
)
from arqonbus.protocol.ids import derived_ulid, is_ulid
from arqonbus.protocol.names import is_name
from tests.servers.valkey import ValkeyServer, running_server

EPISODE = derived_ulid(0, "episode")
_names = st.from_regex(r"[A-Za-z0-9._-]{1,20}", fullmatch=True)
_anything = _names | st.text(max_size=12) | st.sampled_from(["a:b", "*", "", "a\n", "..", "{x}", "ａ", "é"])
_episodes = st.just(EPISODE) | _anything


def _within(key: str, tenant: str) -> bool:
    parts = key.split(":")
    return any(
        len(parts) == 6 and fnmatch.fnmatchcase(key, family.format(tenant=tenant)) for family in FAMILIES
    )


@given(_anything, _anything, _anything)
def test_a_key_of_an_agent_stays_in_its_family(tenant, agent, name):
    """Or is not made at all."""
    for make, family in ((presence, "presence"), (rate_limit, "rate_limit")):
        try:
            key = make(tenant, agent, name)
        except ForbiddenKey:
            assert not (is_name(tenant) and is_name(agent) and is_name(name))
        else:
            assert key.split(":") == ["tenant", tenant, "agent", agent, family, name]
            assert _within(key, tenant)


@given(_anything, _episodes, _anything)
def test_a_key_of_a_cache_stays_in_its_family(tenant, episode, name):
    """Or is not made at all."""
    try:
        key = cache(tenant, episode, name)
    except ForbiddenKey:
        assert not (is_name(tenant) and is_ulid(episode) and is_name(name))
    else:
        assert key.split(":") == ["tenant", tenant, "episode", episode, "cache", name]
        assert _within(key, tenant)


@pytest.mark.parametrize("seconds", [0, -1, MAX_CACHE_SECONDS + 1])
def test_a_cache_has_an_end(seconds):
    """Of 15 minutes at most."""
    assert cache_seconds(MAX_CACHE_SECONDS, b"sqlite://episodes/1") == MAX_CACHE_SECONDS
    with pytest.raises(ForbiddenKey, match=f"lives 1 to {MAX_CACHE_SECONDS} s, not {seconds}"):
        cache_seconds(seconds, b"")


def test_a_cache_holds_no_body():
    """Only what is small."""
    with pytest.raises(ForbiddenKey, match="4096 bytes at most; episodes are not kept here"):
        cache_seconds(60, b"x" * 4097)


@pytest.mark.parametrize("tenant", ["a b", "a* ~*", "a\n", "", "a:b"])
def test_rules_are_made_for_a_tenant_only(tenant):
    """A name that would widen them is refused."""
    with pytest.raises(ForbiddenKey):
        acl_rules(tenant)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    with running_server(tmp_path_factory.mktemp("valkey-acl")) as started:
        yield started


@pytest.fixture
def agent(server: ValkeyServer) -> Iterator[redis.Redis]:
    """A connection of a user that is confined to the tenant `demo`."""
    server.ask("ACL", "SETUSER", "agent", "reset", "on", ">secret", *acl_rules("demo").split())
    client = redis.Redis("127.0.0.1", server.port, username="agent", password="secret")
    yield client
    client.close()


@pytest.mark.servers
@pytest.mark.xdist_group("valkey-acl")
def test_a_confined_user_has_its_families(agent: redis.Redis):
    """It may write and read every key that is made here for its tenant."""
    for key in (presence("demo", "a", "x"), rate_limit("demo", "a", "x"), cache("demo", EPISODE, "x")):
        agent.set(key, "1", ex=60)
        assert agent.get(key) == b"1"
        assert 0 < agent.ttl(key) <= 60
        agent.delete(key)
    assert agent.incrby(rate_limit("demo", "a", "y"), 2) == 2
    assert agent.expire(rate_limit("demo", "a", "y"), 1)


@pytest.mark.servers
@pytest.mark.xdist_group("valkey-acl")
@pytest.mark.parametrize(
    "command",
    [
        ("SET", presence("other", "a", "x"), "1"),
        ("GET", cache("other", EPISODE, "x")),
        ("SET", "tenant:demo", "1"),
        ("SET", "tenant:demo:agent:a:memory:x", "1"),
        ("SET", "tenant:demo:room:x", "1"),
        ("GET", "arqonbus:demo"),
        ("SET", f"tenant:demo:episode:{EPISODE}:body:x", "1"),
        ("SET", "anything", "1"),
        ("HSET", presence("demo", "a", "x"), "a", "1"),
        ("XADD", presence("demo", "a", "x"), "*", "a", "1"),
        ("KEYS", "*"),
        ("SCAN", "0"),
        ("FLUSHALL",),
        ("CONFIG", "GET", "*"),
        ("ACL", "LIST"),
        ("ACL", "SETUSER", "agent", "allkeys"),
        ("PUBLISH", "x", "y"),
        ("SUBSCRIBE", "x"),
        ("EVAL", "return 1", "0"),
        ("FCALL", "arqonbus_append", "0"),
        ("MIGRATE", "127.0.0.1", "1", "x", "0", "1"),
        ("RENAME", presence("demo", "a", "x"), presence("demo", "a", "y")),
        ("COPY", presence("demo", "a", "x"), "anything"),
        ("SELECT", "1"),
    ],
    ids=" ".join,
)
def test_a_confined_user_has_nothing_else(agent: redis.Redis, command: tuple[str, ...]):
    """Other tenants, other families, the bus's own keys, other commands: refused by the server."""
    with pytest.raises(redis.exceptions.NoPermissionError):
        agent.execute_command(*command)
