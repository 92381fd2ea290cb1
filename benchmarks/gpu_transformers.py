"""The same shape in transformers: static cache, torch.compile(mode="max-autotune"). Prints JSON.

python -m benchmarks.gpu_transformers DIRECTORY   (with a config.json)
"""

import argparse
import json
import statistics
import time

import torch
from transformers import AutoConfig, AutoModelForCausalLM, StaticCache

CONTEXT, STEPS = 1024, 20


def main() -> None:
    """Decode of one sequence at 1024 tokens of context, and its prefill."""
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    config = AutoConfig.from_pretrained(parser.parse_args().directory)
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    cache = StaticCache(config=model.config, max_cache_len=CONTEXT + 4 * STEPS)
    forward = torch.compile(model.forward, mode="max-autotune", fullgraph=True)
    tokens = torch.randint(3, 1000, (1, CONTEXT), device="cuda")
    positions = torch.arange(CONTEXT, device="cuda")
    with torch.inference_mode():
        begin = time.perf_counter()
        logits = model(tokens, past_key_values=cache, cache_position=positions, use_cache=True).logits
        torch.cuda.synchronize()
        prefill = time.perf_counter() - begin
        seconds = []
        compiled = time.perf_counter()
        for step in range(STEPS):
            token = logits[:, -1:].argmax(-1).clone()
            torch.cuda.synchronize()
            begin = time.perf_counter()
            place = torch.tensor([CONTEXT + step], device="cuda")
            logits = forward(token, past_key_values=cache, cache_position=place, use_cache=True).logits
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - begin)
            if step == 2:
                compiled = time.perf_counter() - compiled
    result = {
        "prefill_eager_s": prefill,
        "decode_step_s": statistics.median(seconds[5:]),
        "compile_s": compiled,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
