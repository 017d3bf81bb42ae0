"""A small Continuum: keeps episodes in SQLite, and tells of them through an outbox that it never waits for.

    python examples/continuum/continuum.py memory.db init demo
    python examples/continuum/continuum.py memory.db remember agent-1 "what was said" --tag chat
    python examples/continuum/continuum.py memory.db summarize EPISODE "in short"
    python examples/continuum/continuum.py memory.db forget EPISODE
    python examples/continuum/continuum.py memory.db poison        # an event that no version knows

Then, in another terminal: arqonbus export memory.db
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
from pathlib import Path

from arqonbus.protocol.ids import new_ulid

SCHEMA = Path(__file__).with_name("continuum.sql")


class Continuum:
    """Episodic memory in one file."""

    def __init__(self, path: str | Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA busy_timeout = 5000")

    def create(self, tenant: str) -> None:
        """Make the tables of a new memory."""
        self._connection.executescript(SCHEMA.read_text("utf-8"))
        self._connection.execute("INSERT INTO memory (tenant_id) VALUES (?)", (tenant,))

    def remember(self, agent: str, body: str, tags: tuple[str, ...] = ()) -> str:
        """Keep an episode; its id."""
        episode = new_ulid()
        self._connection.execute(
            "INSERT INTO episodes (episode_id, agent_id, body, tags) VALUES (?, ?, ?, ?)",
            (episode, agent, body, json.dumps(tags)),
        )
        return episode

    def summarize(self, episode: str, summary: str) -> bool:
        """Say an episode in short. False if there is none."""
        done = self._connection.execute(
            "UPDATE episodes SET summary = ? WHERE episode_id = ?", (summary, episode)
        )
        return done.rowcount == 1

    def forget(self, episode: str) -> bool:
        """Remove an episode. False if there is none."""
        return self._connection.execute("DELETE FROM episodes WHERE episode_id = ?", (episode,)).rowcount == 1

    def poison(self) -> None:
        """Put an event into the outbox that is none, as a defective producer would."""
        self._connection.execute(
            "INSERT INTO continuum_outbox (event) "
            "SELECT json_set(event, '$.schema_version', '1', '$.event_id', ?, '$.episode_id', ?) "
            "FROM continuum_outbox LIMIT 1",
            (new_ulid(), new_ulid()),
        )

    def close(self) -> None:
        self._connection.close()


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file")
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("init").add_argument("tenant")
    remember = actions.add_parser("remember")
    remember.add_argument("agent")
    remember.add_argument("body")
    remember.add_argument("--tag", action="append", default=[])
    summarize = actions.add_parser("summarize")
    summarize.add_argument("episode")
    summarize.add_argument("summary")
    actions.add_parser("forget").add_argument("episode")
    actions.add_parser("poison")
    args = parser.parse_args(argv)
    continuum = Continuum(args.file)
    match args.action:
        case "init":
            continuum.create(args.tenant)
        case "remember":
            print(continuum.remember(args.agent, args.body, tuple(args.tag)))
        case "summarize":
            return 0 if continuum.summarize(args.episode, args.summary) else 1
        case "forget":
            return 0 if continuum.forget(args.episode) else 1
        case _:
            continuum.poison()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
