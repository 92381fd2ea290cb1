"""The launches that choose the next tokens."""

from typing import Any

from pagedc.compiler.targets.cuda.configs import Configs, triton_module
from pagedc.compiler.targets.cuda.launch_table import Arguments

MAX_LOGPROBS = 20
SAMPLING_CELLS = 20  # int32 of a row of the sampling table


def sample(vocab_size: int, configs: Configs, arguments: Arguments, size: int, pdl: bool) -> Any:
    """logits [R, vocab_size] and the step's sampling arrays → token ids and logprobs."""
    sampling = triton_module("sampling")
    spec = sampling.SamplingSpec(vocab_size=vocab_size, max_logprobs=MAX_LOGPROBS)
    config = configs.of("sampling", spec, size)
    scratch, counters = sampling.scratch_sizes(spec, config, size)

    def given(name: str, shape: tuple[int, ...], dtype: str = "int32") -> Any:
        return arguments.tensor(name, shape, dtype)

    return sampling.launch_sampling(
        spec,
        config,
        given("logits", (size, vocab_size), "float32"),
        given("sampling", (size, SAMPLING_CELLS)),
        given("history_tokens", (1,)),
        given("bias_tokens", (1,)),
        given("bias_values", (1,), "float32"),
        given("allowed_tokens", (1, -(-vocab_size // 32))),
        given("scratch", (scratch,), "float32"),
        given("counters", (counters,)),
        given("token_ids_out", (size,)),
        given("logprobs_out", (size,), "float32"),
        given("top_ids_out", (size, MAX_LOGPROBS)),
        given("top_logprobs_out", (size, MAX_LOGPROBS), "float32"),
        pdl=pdl,
    )
