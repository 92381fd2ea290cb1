"""A server process over the fake engine: `python fake_server.py TOKENIZER_DIR '{"delay": 0.01, …}'`."""

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.http.fake_engine import MAX_MODEL_LEN, VOCAB_SIZE, FakeEngine

from pagedc.runtime.async_engine import AsyncEngine
from pagedc.runtime.chat_template import ChatTemplate
from pagedc.runtime.errors import PagedcError
from pagedc.runtime.serve import set_up_logging
from pagedc.runtime.server.auth import ApiKeys, read_api_keys
from pagedc.runtime.server.hosted_model import Engine, HostedModel
from pagedc.runtime.server.launch import ListenOptions, run_server
from pagedc.runtime.server.limits import Limits
from pagedc.runtime.server.served_model import ServedModel
from pagedc.runtime.tokenizer import Tokenizer

WEIGHTS_BYTES = 1 << 20


def main(directory: Path, settings: dict[str, Any]) -> int:
    """Serve until a signal."""
    set_up_logging("debug", "text")
    model = ServedModel(
        names=("fake", "alias"),
        max_model_len=settings.get("engine", {}).get("max_model_len", MAX_MODEL_LEN),
        vocab_size=VOCAB_SIZE,
        fingerprint="fp_0123456789ab",
        created=1,
        tokenizer=Tokenizer(directory),
        chat_template=ChatTemplate.open(directory),
        path=directory.parent,
        weights_bytes=WEIGHTS_BYTES,
        hidden_size=4,
        facts={"model": "fake (none)"},
        tool_parser=settings.get("tool_parser", ""),
        reasoning_parser=settings.get("reasoning_parser", ""),
    )
    key_file = settings.get("key_file")
    options = ListenOptions(
        port=0,
        keys=read_api_keys(Path(key_file)) if key_file else ApiKeys([]),
        limits=Limits(**settings.get("limits", {})),
        allow_origin=settings.get("allow_origin", ""),
        has_page=settings.get("has_page", True),
        otlp_endpoint=settings.get("otlp_endpoint", ""),
    )
    engine: Engine = FakeEngine(**settings.get("engine", {}))
    if settings.get("mock_process"):
        command = (sys.executable, str(Path(__file__).parents[1] / "runtime" / "mock_engine.py"))
        engine = AsyncEngine(settings["mock_process"], command=command)
        model.vocab_size = 40
    if settings.get("random_engine"):
        command = (sys.executable, str(Path(__file__).parents[1] / "runtime" / "random_engine.py"))
        engine = AsyncEngine(directory, command=command)
    try:
        return run_server(
            lambda: [HostedModel(model, lambda: engine, options.limits, engine=engine)], options
        )
    except PagedcError as error:
        print(error, file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), json.loads(sys.argv[2])))
