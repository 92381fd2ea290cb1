"""The whole path: compile SmolLM2-135M-Instruct, serve the package, ask it a question over HTTP.

`make demo` runs it; a second run compiles again but installs and downloads nothing.
"""

import subprocess
import sys
import time
from pathlib import Path

from examples.serving import Piece, Server, ServerError

MODEL = "smollm2-135m"
PACKAGE = Path("build") / f"{MODEL}.pagedc"
QUESTION = "What is the capital of France?"


def main() -> int:
    """Return the exit code: that of the compile if it fails, 1 if the server does."""
    begin = time.perf_counter()
    PACKAGE.parent.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "pagedc", "compile", MODEL, "-o", str(PACKAGE)]
    code = subprocess.run(command, check=False).returncode
    if code != 0:
        return code
    compile_seconds = time.perf_counter() - begin

    print(f"\n{PACKAGE}/serve\n> {QUESTION}\n", flush=True)
    with Server(PACKAGE) as server:
        try:
            pieces = _ask(server)
        except ServerError as error:
            print(f"\n{error}; its log:\n{server.log}", file=sys.stderr)
            return 1
    texts = [piece for piece in pieces if piece.text]
    if not texts:
        print("the answer is empty", file=sys.stderr)
        return 1
    num_tokens = pieces[-1].usage["completion_tokens"] if pieces[-1].usage else len(texts)
    first, last = texts[0].seconds, pieces[-1].seconds
    print(f"compile                  {compile_seconds:6.1f} s")
    print(f"boot to first token      {first:6.2f} s")
    if num_tokens > 1:
        print(f"decode                   {(num_tokens - 1) / (last - first):6.0f} tokens/s")
    print(f"package                  {PACKAGE}")
    print(f"serve it again           {PACKAGE}/serve --port 8000")
    return 0


def _ask(server: Server) -> list[Piece]:
    pieces = []
    for piece in server.chat(QUESTION):
        print(piece.text, end="", flush=True)
        pieces.append(piece)
    print("\n", flush=True)
    return pieces


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
