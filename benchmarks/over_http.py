"""What the server costs: 16 streams of 128 tokens in and 128 out through HTTP, and in the engine alone.

The two take turns; each has run once before it is timed. The client shares the cores with the server.

python -m benchmarks.over_http [PACKAGE] [--rounds N]
"""

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

from benchmarks import record
from benchmarks.peer_programs import SEED, Sizes, Tools, measure
from pagedc.runtime.bench.workload import Lengths, drawn
from pagedc.runtime.config import EngineOptions, resolve
from pagedc.runtime.engine import Engine
from pagedc.runtime.executors import open_executor
from pagedc.runtime.messages import AddRequest
from pagedc.runtime.package import Package
from pagedc.runtime.sampling_params import SamplingParams

STREAMS, INPUT, OUTPUT = 16, 128, 128


def engine_alone(path: Path, num_threads: int) -> float:
    """Output tokens a second."""
    package = Package.open(path)
    config = resolve(package.manifest, EngineOptions(num_threads=num_threads, prefix_cache=False))
    asks = drawn(STREAMS, Lengths(INPUT, INPUT), Lengths(OUTPUT, OUTPUT), SEED)
    params = SamplingParams(temperature=0, max_tokens=OUTPUT, ignore_eos=True)
    executor = open_executor(package, config)
    try:
        engine = Engine(executor, config, [])
        for _ in ("first touch", "timed"):
            begin = time.perf_counter()
            for i, ask in enumerate(asks):
                engine.add_request(AddRequest(str(i), [int(token) for token in ask.prompt], params))
            while engine.has_work:
                engine.step()
        return STREAMS * OUTPUT / (time.perf_counter() - begin)
    finally:
        executor.close()


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package", type=Path, nargs="?", default=Path("build/smollm2-135m.pagedc"))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    num_threads = len(os.sched_getaffinity(0))
    tools = Tools(None, None, {"pagedc": Path(sys.executable)})
    sizes = Sizes(num_threads, 1024, 128, STREAMS, INPUT, OUTPUT)
    alone, served = [], []
    for _ in range(options.rounds):
        alone.append(engine_alone(options.package, num_threads))
        served.append(measure("pagedc", "streams", options.package, tools, sizes, 120)["value"])
    ratio = statistics.median(b / a for a, b in zip(alone, served, strict=True))
    print(f"engine alone   {statistics.median(alone):7.0f} tokens/s")
    print(f"through HTTP   {statistics.median(served):7.0f} tokens/s, {ratio:.0%} of it")
    figures = {"engine": record.summary(alone), "http": record.summary(served), "ratio": ratio}
    record.write("over-http", {"package": options.package.name, **figures})


if __name__ == "__main__":
    main()
