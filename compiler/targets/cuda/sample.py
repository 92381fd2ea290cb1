"""The launches that choose the next tokens."""

from math import prod
from typing import Any

from pagedc.compiler.targets.cuda.configs import Configs, triton_module
from pagedc.compiler.targets.cuda.launch_table import Arguments

MAX_LOGPROBS = 20
ALIGNMENT = 64  # bytes, of each part of the scratch
SAMPLING_CELLS = 20  # int32 of a row of the sampling table


def sample(vocab_size: int, configs: Configs, arguments: Arguments, size: int, pdl: bool) -> Any:
    """logits [R, vocab_size] and the step's sampling arrays → token ids and logprobs."""
    sampling = triton_module("sampling")
    spec = sampling.SamplingSpec(vocab_size=vocab_size, max_logprobs=MAX_LOGPROBS)
    config = configs.of("sampling", spec, size)
    chunks = -(-vocab_size // config["CHUNK"])
    start = 0

    def given(name: str, shape: tuple[int, ...], dtype: str = "int32") -> Any:
        return arguments.tensor(name, shape, dtype)

    def scratch(shape: tuple[int, ...], dtype: str) -> Any:
        nonlocal start
        tensor = arguments.tensor("scratch", shape, dtype, start=start)
        start += -(-4 * prod(shape) // ALIGNMENT) * ALIGNMENT
        return tensor

    return sampling.launch_sampling(
        spec,
        config,
        given("logits", (size, vocab_size), "float32"),
        sampling.SamplingInputs(
            table=given("sampling", (size, SAMPLING_CELLS)),
            history_tokens=given("history_tokens", (1,)),
            bias_tokens=given("bias_tokens", (1,)),
            bias_values=given("bias_values", (1,), "float32"),
            allowed_tokens=given("allowed_tokens", (1, -(-vocab_size // 32))),
        ),
        sampling.SamplingScratch(
            processed=scratch((size, vocab_size), "float32"),
            counts=given("counters", (size, vocab_size)),
            measures=scratch((size, chunks, 4), "float32"),
            places=scratch((size, chunks), "int32"),
        ),
        sampling.SamplingOutputs(
            token_ids=given("token_ids_out", (size,)),
            logprobs=given("logprobs_out", (size,), "float32"),
            top_ids=given("top_ids_out", (size, MAX_LOGPROBS)),
            top_logprobs=given("top_logprobs_out", (size, MAX_LOGPROBS), "float32"),
        ),
        pdl=pdl,
    )
