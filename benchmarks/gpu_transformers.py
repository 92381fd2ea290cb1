"""The same shape in transformers: static cache, torch.compile(mode="max-autotune"). Prints JSON.

python -m benchmarks.gpu_transformers DIRECTORY   (with a config.json)
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, StaticCache

CONTEXT, PROMPT, STEPS = 1024, 4096, 20


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds until the device is done, and the result."""
    torch.cuda.synchronize()
    begin = time.perf_counter()
    result = work()
    torch.cuda.synchronize()
    return time.perf_counter() - begin, result


def main() -> None:
    """Decode of one sequence at 1024 tokens of context, and a prefill of 4096."""
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    config = AutoConfig.from_pretrained(parser.parse_args().directory)
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    result: dict[str, Any] = {}
    cache = StaticCache(config=model.config, max_cache_len=PROMPT + 4 * STEPS)

    def step(forward: Any, tokens: torch.Tensor, first: int) -> Any:
        positions = torch.arange(first, first + tokens.shape[1], device="cuda")
        given = {"past_key_values": cache, "cache_position": positions, "use_cache": True}
        # Of a prompt's logits only the last row is wanted, as here.
        return forward(tokens, position_ids=positions[None], logits_to_keep=1, **given).logits

    with torch.inference_mode():
        tokens = torch.randint(3, 1000, (1, CONTEXT), device="cuda")
        logits = step(model, tokens, 0)
        decode = torch.compile(model.forward, mode="max-autotune", fullgraph=True)
        begin, seconds = time.perf_counter(), []
        for number in range(STEPS):
            token = logits[:, -1:].argmax(-1).clone()
            took, logits = timed(lambda token=token, number=number: step(decode, token, CONTEXT + number))
            seconds.append(took)
            if number == 2:
                result["compile_s"] = time.perf_counter() - begin
        result["decode_step_s"] = statistics.median(seconds[5:])
        print(json.dumps(result), flush=True)  # what there is, should the time end
        tokens = torch.randint(3, 1000, (1, PROMPT), device="cuda")

        def prefill(forward: Any) -> float:
            cache.reset()  # it counts what it holds itself
            return timed(lambda: step(forward, tokens, 0))[0]

        result["prefill_eager_s"] = min(prefill(model) for _ in range(3))
        print(json.dumps(result), flush=True)
        compiled = torch.compile(model.forward, mode="max-autotune-no-cudagraphs", dynamic=False)
        prefill(compiled)
        result["prefill_s"] = min(prefill(compiled) for _ in range(3))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
