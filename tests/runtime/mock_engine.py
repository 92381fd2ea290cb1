"""An engine's process with the mock executor, whose package is the name of a misfortune or "well".

Run by tests in place of `pagedc.runtime.engine_process`. A prompt that begins with one of the tokens below
makes the process do what it says; SLOW ones wait after their first token while there is a file HOLD in the
package.
"""

import os
import signal
import socket
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.runtime.mock_executor import MockExecutor

from pagedc.runtime.batch import Batch, StepResult
from pagedc.runtime.config import EngineConfig
from pagedc.runtime.engine import Engine
from pagedc.runtime.engine_process import serve
from pagedc.runtime.errors import ExecutorError, PackageError
from pagedc.runtime.messages import Start

KILL, RAISE, GARBAGE, SLOW, HANG = 30, 31, 32, 33, 34
HOLD = "hold"

CONFIG = EngineConfig(
    block_size=4,
    num_blocks=64,
    max_model_len=64,
    max_num_seqs=8,
    max_num_batched_tokens=24,
    max_num_rows=12,
    vocab_size=40,
)


class FatefulExecutor(MockExecutor):
    def __init__(self, config: EngineConfig, hold: Path) -> None:
        super().__init__(config)
        self._hold = hold

    def step(self, batch: Batch, *, want_logits: bool = False) -> StepResult:
        firsts = set(batch.token_ids[batch.positions == 0].tolist())
        if KILL in firsts:
            os.kill(os.getpid(), signal.SIGKILL)
        if RAISE in firsts:
            raise ExecutorError("the device is gone")
        if GARBAGE in firsts:
            connection.sendall(b"\xff" * 100)
        if HANG in firsts:
            time.sleep(600)
        if SLOW in self._cache[::4] or SLOW in firsts:
            time.sleep(0.05)
            while SLOW not in firsts and self._hold.exists():
                time.sleep(0.01)
        return super().step(batch, want_logits=want_logits)


def open_engine(start: Start) -> Engine:
    name = Path(start.package).name
    if name == "unreadable":
        raise PackageError("unreadable: no such directory")
    if name == "crash":
        os._exit(3)
    if name == "slow crash":
        connection.close()
        time.sleep(0.2)
        os._exit(4)
    if name == "once" and not os.path.exists(start.package):  # starts the first time only
        Path(start.package).touch()
    elif name == "once":
        raise PackageError("once is enough")
    return Engine(FatefulExecutor(CONFIG, Path(start.package) / HOLD), CONFIG, [0])


if __name__ == "__main__":
    connection = socket.socket(fileno=int(sys.argv[-1]))
    sys.exit(serve(connection, open_engine))
