"""Walks the audit of a tenant from its first row to its head, while others may be writing to it."""

from __future__ import annotations

from arqonbus.storage.audit_chain import Verdict, Walk
from arqonbus.storage.projection import ProjectionStore

PAGE = 1000


async def verify(store: ProjectionStore, tenant: str) -> Verdict:
    """The first thing that is wrong, or that nothing is."""
    walk = Walk()
    after = 0
    while True:
        page = await store.audit(tenant, after, PAGE)
        if not page:
            # A row and its head are one transaction: what the head names was there before this next look.
            head = await store.audit_head(tenant)
            page = await store.audit(tenant, after, PAGE) if head[0] > after else ()
            if not page:
                return walk.end(*head)
        if verdict := walk.take(page):
            return verdict
        after = page[-1].number


__all__ = ["verify"]
