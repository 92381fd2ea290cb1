"""One measurement of one library, in a process of its own and with that library's own Python.

    python peer_child.py PROGRAM MODEL FIGURE THREADS INPUT_TOKENS OUTPUT_TOKENS SEQUENCES

Prints a line "first" when the first token is there, and at the end one of JSON: tokens a second, peak memory
in bytes. Needs nothing but the library: it runs where pagedc is not installed.
"""

import json
import random
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

SEED = 7


def main() -> None:
    """Measure what the words ask for."""
    program, model, figure = sys.argv[1:4]
    threads, num_input, num_output, num_sequences = map(int, sys.argv[4:8])
    random.seed(SEED)
    prompts = [[random.randint(100, 999) for _ in range(num_input)] for _ in range(num_sequences)]
    run = PROGRAMS[program](model, threads, num_input + num_output, num_sequences)
    if figure == "first_token":
        run(prompts, 1)
        print("first", flush=True)
        rate = 0.0
    elif figure == "prefill":
        run([prompts[0][::-1]], 2)  # the warm-up has the same shape and another prefix
        rate = num_input / run(prompts, 2)[0]
    elif figure == "decode":
        run([prompts[0][::-1]], 8)
        first, last = run(prompts, num_output)
        rate = (num_output - 1) / (last - first)
    else:
        run([prompt[::-1] for prompt in prompts], 2)
        rate = num_sequences * num_output / run(prompts, num_output)[1]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    print(json.dumps({"value": rate, "peak_memory": peak}), flush=True)


# A run takes prompts and the number of tokens after each, and returns the seconds to the first token of all
# and to the last.
Run = Callable[[list[list[int]], int], tuple[float, float]]


def pagedc(model: str, threads: int, max_tokens: int, sequences: int) -> Run:
    """The engine without a server."""
    from pathlib import Path

    from pagedc.runtime.config import EngineOptions, resolve
    from pagedc.runtime.engine import Engine
    from pagedc.runtime.executors import open_executor
    from pagedc.runtime.messages import AddRequest
    from pagedc.runtime.package import Package
    from pagedc.runtime.sampling_params import SamplingParams

    package = Package.open(Path(model))
    options = EngineOptions(
        max_num_seqs=sequences, num_threads=threads, prefix_cache=False, max_model_len=max_tokens + 16
    )
    config = resolve(package.manifest, options)
    engine = Engine(open_executor(package, config), config, [])

    def run(prompts: list[list[int]], num_output: int) -> tuple[float, float]:
        begin = time.perf_counter()
        params = SamplingParams(temperature=0, max_tokens=num_output, ignore_eos=True)
        for i, prompt in enumerate(prompts):
            engine.add_request(AddRequest(str(i), prompt, params))
        started: set[str] = set()
        first = 0.0
        while engine.has_work:
            started.update(event.request_id for event in engine.step())
            if not first and len(started) == len(prompts):
                first = time.perf_counter() - begin
        return first, time.perf_counter() - begin

    return run


def openvino(model: str, threads: int, max_tokens: int, sequences: int) -> Run:
    """OpenVINO GenAI: its stateful pipeline for one sequence, its continuous batching for several."""
    import numpy as np
    import openvino as ov
    import openvino_genai as genai

    properties = {"INFERENCE_NUM_THREADS": threads}
    config = genai.GenerationConfig()
    config.ignore_eos = True
    config.do_sample = False
    if sequences == 1:
        pipeline: Any = genai.LLMPipeline(model, "CPU", **properties)
    else:
        scheduler = genai.SchedulerConfig()
        scheduler.cache_size = 1
        scheduler.max_num_seqs = sequences
        scheduler.enable_prefix_caching = False
        pipeline = genai.ContinuousBatchingPipeline(model, scheduler, "CPU", properties)

    def run(prompts: list[list[int]], num_output: int) -> tuple[float, float]:
        config.max_new_tokens = num_output
        ids = [ov.Tensor(np.array([prompt], np.int64)) for prompt in prompts]
        times: list[float] = []
        begin = time.perf_counter()
        if sequences > 1:
            pipeline.generate(ids, [config] * len(ids))
            return 0.0, time.perf_counter() - begin
        result = pipeline.generate(ids[0], config, lambda text: times.append(time.perf_counter()) and None)
        end = time.perf_counter() - begin
        metrics = result.perf_metrics
        if metrics.get_num_generated_tokens() != num_output:
            raise RuntimeError(f"{metrics.get_num_generated_tokens()} tokens came, not {num_output}")
        first = metrics.get_ttft().mean / 1e3
        return first, first + (num_output - 1) * metrics.get_tpot().mean / 1e3 if num_output > 1 else end

    return run


def onnxruntime(model: str, threads: int, max_tokens: int, sequences: int) -> Run:
    """ONNX Runtime GenAI: a generator over a batch of equal lengths."""
    import numpy as np
    import onnxruntime_genai as genai

    config = genai.Config(model)
    options = {"session_options": {"intra_op_num_threads": threads}}
    config.overlay(json.dumps({"model": {"decoder": options}}))
    loaded = genai.Model(config)

    def run(prompts: list[list[int]], num_output: int) -> tuple[float, float]:
        length = len(prompts[0]) + num_output
        parameters = genai.GeneratorParams(loaded)
        parameters.set_search_options(
            max_length=length, min_length=length, batch_size=len(prompts), do_sample=False
        )
        begin = time.perf_counter()
        generator = genai.Generator(loaded, parameters)
        generator.append_tokens(np.array(prompts, np.int32))
        first = 0.0
        for i in range(num_output):
            generator.generate_next_token()
            if i == 0:
                first = time.perf_counter() - begin
        return first, time.perf_counter() - begin

    return run


def transformers(model: str, threads: int, max_tokens: int, sequences: int) -> Run:
    """transformers on torch, eager, in the checkpoint's type."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype="auto").eval()

    @torch.inference_mode()
    def run(prompts: list[list[int]], num_output: int) -> tuple[float, float]:
        begin, first, cache = time.perf_counter(), 0.0, None
        ids = torch.tensor(prompts)
        for i in range(num_output):
            out = loaded(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache, ids = out.past_key_values, out.logits[:, -1:].argmax(-1)
            if i == 0:
                first = time.perf_counter() - begin
        return first, time.perf_counter() - begin

    return run


PROGRAMS: dict[str, Callable[[str, int, int, int], Run]] = {
    "pagedc": pagedc,
    "openvino": openvino,
    "onnxruntime": onnxruntime,
    "transformers": transformers,
}

if __name__ == "__main__":
    main()
