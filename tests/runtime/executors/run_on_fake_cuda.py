"""Decode on the fake driver library: `python run_on_fake_cuda.py PACKAGE`; prints ids and imports."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

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
    token_ids: list[int] = []
    while engine.has_work:  # each step in another thread, as whoever calls LLM may do
        with ThreadPoolExecutor(1) as pool:
            events = pool.submit(engine.step).result()
        token_ids += [token for event in events for token in event.token_ids]
    num_prepared = 0
    while engine.prepare():
        num_prepared += 1
    executor.close()
    heavy = [name for name in ("torch", "triton") if name in sys.modules]
    found = {"imported": heavy, "num_prepared": num_prepared, "phases": list(engine.boot_seconds)}
    print(json.dumps({"token_ids": token_ids, "num_blocks": config.num_blocks, **found}))


if __name__ == "__main__":
    main()
