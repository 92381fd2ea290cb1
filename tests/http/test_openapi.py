"""/openapi.json says what the server does; schemathesis tries to disprove it."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.http.fuzz import run_schemathesis
from tests.http.server_process import ServerProcess


@pytest.fixture
def document(server: ServerProcess) -> Any:
    """The server's own description."""
    return server.ask("GET", "/openapi.json").json()


def references(value: Any) -> Iterator[str]:
    """Every $ref in a document."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key == "$ref":
                yield item
            else:
                yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def test_every_reference_leads_somewhere(document: Any) -> None:
    assert document["openapi"].startswith("3.1")
    schemas = document["components"]["schemas"]
    assert {ref.removeprefix("#/components/schemas/") for ref in references(document)} <= set(schemas)
    assert all(schema.get("additionalProperties") is False or name == "ErrorBody" or name == "ErrorInfo"
               for name, schema in schemas.items())  # fmt: skip


def test_every_route_is_described(document: Any) -> None:
    source = Path(__file__).parents[2] / "runtime" / "server" / "app.py"
    patterns = re.findall(r'\(r"(/[^"]*)", [A-Z]', source.read_text())
    routes = {pattern.replace("(.+)", "{model}") for pattern in patterns}
    inner = {route for route in routes if route == "/" or route.startswith(("/web", "/admin"))}
    assert set(document["paths"]) == routes - inner


def test_keys_and_admin_are_described(start_server: Callable[..., ServerProcess], tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("sk-1\n")
    server = start_server(key_file=str(keys))
    document = server.ask("GET", "/openapi.json", headers={"Authorization": "Bearer sk-1"}).json()
    assert document["security"] == [{"key": []}]
    assert document["paths"]["/health"]["get"]["security"] == []
    assert "/admin/models" not in document["paths"]


def test_schemathesis_finds_nothing(server: ServerProcess, tmp_path: Path) -> None:
    """A few cases of every operation; `python -m tests.http.fuzz` tries thousands."""
    assert not run_schemathesis(server, "fake", tmp_path, 4)
