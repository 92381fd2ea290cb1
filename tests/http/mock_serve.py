"""`pagedc serve …` whose engine's process runs the mock executor: all else is what a user runs."""

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from pagedc.runtime import engine_spawn, serve
from pagedc.runtime.async_engine import AsyncEngine
from pagedc.runtime.cli import main
from pagedc.runtime.config import EngineOptions
from pagedc.runtime.engine_spawn import SpawnedEngine

COMMAND = (sys.executable, str(Path(__file__).parents[1] / "runtime" / "mock_engine.py"))


def mocked(
    package: Path,
    options: EngineOptions,
    *,
    step_timeout: float | None = None,
    spawned: SpawnedEngine | None = None,
) -> AsyncEngine:
    """An engine of the mock executor."""
    return AsyncEngine(package, options, step_timeout=step_timeout, command=COMMAND, spawned=spawned)


if __name__ == "__main__":
    engine_spawn.spawn_engine = partial(engine_spawn.spawn_engine, command=COMMAND)
    serve.AsyncEngine = mocked  # type: ignore[assignment, misc]
    sys.exit(main(["serve", *sys.argv[1:]]))
