"""schemathesis tries to disprove /openapi.json: `python -m tests.http.fuzz [PACKAGE] [--cases N]`.

Without a package the fake engine answers; with one, `pagedc serve`. `--cases` are for each operation with a
body. Every check runs; one is loosened, for what a schema of types cannot say (ranges, fields that exclude
each other, models that exist): a body that fits its schema may be refused with a 400 or 404.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.http.server_process import ServerProcess, fake_server
from tests.http.tokenizer_files import write_tokenizer

CONFIG = '[checks]\npositive_data_acceptance.expected-statuses = ["2xx", 400, 404]\n'
TIMEOUT = 60  # seconds for one answer: longer is a hang
# An answer as long as the context may be asked for: a short one.
SMALL = ("--max-model-len", "96", "--threads", "1")


def run_schemathesis(
    server: ServerProcess, model: str, directory: Path, num_cases: int, phases: str = "fuzzing"
) -> str:
    """What it found, "" if nothing."""
    document = server.ask("GET", "/openapi.json").json()
    for schema in document["components"]["schemas"].values():
        if "model" in schema.get("properties", {}):
            field = schema["properties"]["model"]
            field["enum"] = [model, None] if "anyOf" in field else [model]  # else all that it tries is 404
    (directory / "openapi.json").write_text(json.dumps(document))
    (directory / "schemathesis.toml").write_text(CONFIG)
    words = ["--url", server.url, "--phases", phases, "-n", str(num_cases), "--checks", "all"]
    words += ["--suppress-health-check", "all", "--generation-deterministic", "--continue-on-failure"]
    words += ["--request-timeout", str(TIMEOUT)]
    script = Path(sys.executable).with_name("schemathesis")
    done = subprocess.run(
        [script, "run", "openapi.json", *words], cwd=directory, capture_output=True, text=True, check=False
    )
    print(done.stdout[-1500:])
    return done.stdout + done.stderr if done.returncode else ""


def main() -> int:
    """The exit code: 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package", nargs="?", type=Path)
    parser.add_argument("--cases", type=int, default=300)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        if options.package is None:
            write_tokenizer(directory / "tokenizer")
            server, model = fake_server(directory / "tokenizer", {}), "fake"
        else:
            words: list[Any] = ["-m", "pagedc.runtime.cli", "serve", options.package, "--port", "0", *SMALL]
            server, model = ServerProcess([sys.executable, *words, "--served-model-name", "it"]), "it"
        with server:
            server.wait_for_log("is ready in")
            found = run_schemathesis(server, model, directory, options.cases, "coverage,fuzzing")
    print(found)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
