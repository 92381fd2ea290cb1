"""An engine's process whose model is random, over the bytes of tests/http/tokenizer_files.py; its package is
the directory of that tokenizer.
"""

import socket
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.runtime.mock_executor import MockExecutor

from pagedc.runtime.config import EngineConfig
from pagedc.runtime.engine import Engine
from pagedc.runtime.engine_process import serve
from pagedc.runtime.messages import Start
from pagedc.runtime.structured_output import GrammarCompiler

EOS = 257
CONFIG = EngineConfig(
    block_size=16,
    num_blocks=512,
    max_model_len=2048,
    max_num_seqs=8,
    max_num_batched_tokens=256,
    max_num_rows=12,
    vocab_size=258,
)


def open_engine(start: Start) -> Engine:
    grammars = GrammarCompiler(Path(start.package) / "tokenizer.json", CONFIG.vocab_size, [EOS])
    return Engine(MockExecutor(CONFIG), CONFIG, [EOS], grammars)


if __name__ == "__main__":
    connection = socket.socket(fileno=int(sys.argv[-1]))
    sys.exit(serve(connection, open_engine))
