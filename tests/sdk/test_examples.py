"""Every example in a docstring of the public API, executed against a bus of its own."""

from __future__ import annotations

import ast
import asyncio
import doctest
import inspect
import io
from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import partial
from typing import Any

import pytest

import arqonbus.client
from arqonbus.client import Client, sync
from tests.sdk.runner import RealBus, Scenario

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
SYNC = sync.__name__


def documented() -> Iterator[tuple[str, str]]:
    """Public names with their docstrings: of the two modules, their classes, and the classes' methods."""
    for module in (arqonbus.client, sync):
        yield module.__name__, inspect.getdoc(module) or ""
        for name in module.__all__:
            thing = getattr(module, name)
            yield f"{module.__name__}.{name}", inspect.getdoc(thing) or ""
            if inspect.isclass(thing):
                yield from _methods(f"{module.__name__}.{name}", thing)


def _methods(prefix: str, thing: type) -> Iterator[tuple[str, str]]:
    for name, member in inspect.getmembers(thing):
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
            yield f"{prefix}.{name}", inspect.getdoc(member) or ""


DOCUMENTED = dict(documented())
WITH_EXAMPLES = [name for name, text in DOCUMENTED.items() if ">>>" in text]


def test_public_names_have_docstrings() -> None:
    """What is public says what it is. Fields that only carry an envelope's are named for it."""
    plain = ("arqonbus.client.Message.", "arqonbus.client.Envelope", "arqonbus.client.Token")
    assert [name for name, text in DOCUMENTED.items() if not text and not name.startswith(plain)] == []


def test_every_call_of_the_client_has_an_example() -> None:
    """The calls of both clients are shown, not only described."""
    calls = [name for name in DOCUMENTED if name.startswith(("arqonbus.client.Client.", f"{SYNC}.Client."))]
    silent = {"connect", "close", "reconnects", "state", "welcome", "send", "request", "presence"}
    missing = [name for name in calls if name not in WITH_EXAMPLES and name.split(".")[-1] not in silent]
    assert missing == []


@pytest.fixture
async def bus(tmp_path) -> Any:
    real = RealBus(Scenario("examples", "", [], {"storage.backend": "sqlite"}), tmp_path)
    await real.start()
    yield real
    await real.stop()


@pytest.mark.parametrize("name", WITH_EXAMPLES)
async def test_example(name: str, bus: RealBus) -> None:
    """It runs, and prints what it says.

    Orders 1 to 3 are in the room orders, except where they are published.
    """
    token = bus.token("alice", 600, None, "admin")
    async with Client(bus.url, token, timeout=5) as client:
        public = {name: getattr(arqonbus.client, name) for name in arqonbus.client.__all__}
        names = {**public, "client": client, "url": bus.url, "token": token, "sync": sync}
        if name.startswith(SYNC):
            await asyncio.to_thread(_run_sync, DOCUMENTED[name], names)
        else:
            await _prepare(name, client)
            await _run(DOCUMENTED[name], names)


async def _prepare(name: str, client: Client) -> None:
    published = {"publish": 0, "publish_many": 1}.get(name.rsplit(".", 1)[-1], 3)
    if not name.endswith(".State"):
        for number in range(1, published + 1):
            await client.publish("orders", {"id": number})


def _run_sync(text: str, names: dict[str, Any]) -> None:
    with sync.Client(names["url"], names["token"], timeout=5) as bus:
        if "history" in text or "last_value" in text:
            bus.publish_many("news", ["hello", 1, 2, 3])
        asyncio.run(_run(text, {**names, "bus": bus}))


async def _run(text: str, names: dict[str, Any]) -> None:
    checker = doctest.OutputChecker()
    for example in doctest.DocTestParser().get_examples(text):
        said = io.StringIO()
        with redirect_stdout(said):
            try:
                scope = {**names, "_show": partial(_show, said)}
                await _execute(example.source, scope, names)
            except Exception as error:
                if example.exc_msg is None:
                    raise
                said.write(f"{type(error).__name__}: {error}\n")
        wanted = example.exc_msg or example.want
        assert checker.check_output(wanted, said.getvalue(), FLAGS), (example.source, said.getvalue())


def _show(said: io.StringIO, value: Any) -> None:
    if value is not None:
        said.write(f"{value!r}\n")


async def _execute(source: str, scope: dict[str, Any], names: dict[str, Any]) -> None:
    """Run statements that may await; expressions in them are shown as a shell shows them."""
    shown = ast.fix_missing_locations(_Show().visit(ast.parse(source)))
    result = eval(compile(shown, "<example>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), scope)
    if inspect.isawaitable(result):
        await result
    names.update(scope)


class _Show(ast.NodeTransformer):
    """Makes expression statements print their value, except in functions."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        return ast.copy_location(ast.Expr(ast.Call(ast.Name("_show", ast.Load()), [node.value], [])), node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return node
