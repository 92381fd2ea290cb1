"""/openapi.json says what the server does; schemathesis tries to disprove it where it is installed.

A long run: `PAGEDC_CASES=300 python -m pytest tests/http/test_openapi.py` is some 4,000 requests.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tests.http.server_process import ServerProcess

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,"
    "response_headers_conformance,negative_data_rejection,unsupported_method,allow_header_conformance"
)


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


@pytest.mark.skipif(find_spec("schemathesis") is None, reason="schemathesis is not installed")
def test_schemathesis_finds_nothing(server: ServerProcess, document: Any, tmp_path: Path) -> None:
    for schema in document["components"]["schemas"].values():
        if "model" in schema.get("properties", {}):
            schema["properties"]["model"]["enum"] = ["fake"]  # else all that it tries is 404
    path = tmp_path / "openapi.json"
    path.write_text(json.dumps(document))
    words = ["--phases", "fuzzing", "-n", os.environ.get("PAGEDC_CASES", "4"), "--checks", CHECKS]
    words += ["--suppress-health-check", "all", "--generation-deterministic", "--request-timeout", "20"]
    script = Path(sys.executable).with_name("schemathesis")
    result = subprocess.run(
        [script, "run", path, "--url", server.url, *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout
