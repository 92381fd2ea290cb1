"""Parts of a GPU benchmark: processes of their own within one budget, some of them side by side."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

LINES_KEPT = 12  # of what a part that failed said last


class Budget:
    """Seconds that are left; a part that does not fit is not begun."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds."""
        return self._end - time.monotonic()


class Part:
    """A process at work, whose output goes to a file."""

    def __init__(self, command: list[str], log: Path) -> None:
        print("$", " ".join(command), flush=True)
        self.begin = time.time()
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def result(self, seconds: float) -> dict[str, Any]:
        """`exit_code`, `seconds` and `said`; killed with its children once `seconds` have passed."""
        try:
            code: int | None = self._process.wait(max(seconds, 0.1))
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            code = None
        lines = self._log.read_text(errors="replace").strip().splitlines()
        found = {"exit_code": code, "seconds": round(time.time() - self.begin, 1), "said": lines}
        return found if code == 0 else found | {"failed": failure(code, lines)}


def failure(code: int | None, lines: list[str]) -> str:
    """Why a part has no result."""
    if code is None:
        return "its time ended"
    return " | ".join(lines[-LINES_KEPT:])[-1500:] or f"it ended with {code} and said nothing"


def run_json(
    module: str, arguments: list[str], budget: Budget, log: Path, *, least: float, most: float = 600
) -> dict[str, Any]:
    """The JSON that `python -m MODULE` prints last, `exit_code` and `seconds`; `failed` or `left_out`."""
    if budget.left < least:
        return {"left_out": f"{budget.left:.0f} s left, and it wants {least:.0f}"}
    part = Part([sys.executable, "-m", module, *arguments], log)
    done = part.result(min(budget.left, most))
    said = done.pop("said")
    printed = next((line for line in reversed(said) if line.startswith("{")), None)
    if printed is not None:
        return json.loads(printed) | done  # of a part that failed: what it had by then
    return {"failed": "it printed no JSON: " + failure(0, said)} | done
