"""An engine's process that opens a real package, but runs the mock executor."""

import socket
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.runtime.mock_executor import MockExecutor

from pagedc.runtime import executors
from pagedc.runtime.engine_process import open_engine, serve

executors.open_executor = lambda package, config: MockExecutor(config)

if __name__ == "__main__":
    sys.exit(serve(socket.socket(fileno=int(sys.argv[-1])), open_engine))
