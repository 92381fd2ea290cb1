"""Decode on the fake driver library: `python run_on_fake_cuda.py PACKAGE`; prints ids and imports."""

import json
import sys

from pagedc.runtime.config import EngineOptions, resolve
from pagedc.runtime.engine import Engine
from pagedc.runtime.errors import PagedcError
from pagedc.runtime.executors import open_executor
from pagedc.runtime.messages import AddRequest
from pagedc.runtime.package import Package
from pagedc.runtime.sampling_params import SamplingParams


def main() -> None:
    package = Package.open(sys.argv[1])
    config = resolve(package.manifest, EngineOptions())
    try:
        executor = open_executor(package, config)
    except PagedcError as error:
        print(json.dumps({"error": str(error)}))
        return
    engine = Engine(executor, config, [])
    for request_id, prompt in {"a": [5, 6, 7, 8, 9], "b": [5, 6]}.items():
        engine.add_request(AddRequest(request_id, prompt, SamplingParams(max_tokens=3, ignore_eos=True)))
    token_ids = []
    while engine.has_work:
        token_ids += [token for event in engine.step() for token in event.token_ids]
    executor.close()
    heavy = [name for name in ("torch", "triton") if name in sys.modules]
    print(json.dumps({"token_ids": token_ids, "imported": heavy, "num_blocks": config.num_blocks}))


if __name__ == "__main__":
    main()
