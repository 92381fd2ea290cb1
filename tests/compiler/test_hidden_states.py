"""What embeddings are made of: the hidden states before the head, as Hugging Face has them."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.compiler.families import save_model

import pagedc
from pagedc.runtime.config import EngineOptions, resolve
from pagedc.runtime.engine import Engine
from pagedc.runtime.executors import open_executor
from pagedc.runtime.messages import AddRequest, TokenEvent
from pagedc.runtime.package import Package
from pagedc.runtime.pooling import Pooling
from pagedc.runtime.sampling_params import SamplingParams

POOLINGS: tuple[Pooling, ...] = ("mean", "last", "cls")
PARAMS = SamplingParams(max_tokens=1)


def run(package: Package, requests: list[AddRequest]) -> dict[str, list[TokenEvent]]:
    """Every event of requests that come together, by request."""
    options = EngineOptions(
        num_threads=1, max_num_batched_tokens=32, max_num_seqs=8, max_model_len=64, memory=64 << 20
    )
    config = resolve(package.manifest, options)
    executor = open_executor(package, config)
    try:
        engine = Engine(executor, config, [])
        for request in requests:
            engine.add_request(request)
        events: dict[str, list[TokenEvent]] = {request.request_id: [] for request in requests}
        while engine.has_work:
            for event in engine.step():
                events[event.request_id].append(event)
        return events
    finally:
        executor.close()


def test_embeddings_are_of_the_last_hidden_states_whatever_else_runs(tmp_path: Path) -> None:
    model = save_model("llama", tmp_path / "model")
    package = Package.open(pagedc.compile(tmp_path / "model", tmp_path / "x.pagedc", dtype="float32"))
    rng = random.Random(0)
    vocab_size = package.manifest.model.vocab_size
    prompts = [[rng.randrange(vocab_size) for _ in range(length)] for length in (1, 7, 40, 60)]
    asked = [
        AddRequest(f"{i}-{pooling}", prompt, PARAMS, pooling=pooling)
        for i, prompt in enumerate(prompts)
        for pooling in POOLINGS
    ]
    text = AddRequest("text", prompts[1], SamplingParams(max_tokens=9, temperature=0, ignore_eos=True))
    together = run(package, [text, *asked])
    assert len(together["text"]) == 9
    assert [event.token_ids for event in together["text"]] == [
        event.token_ids for event in run(package, [text])["text"]
    ]
    for request in asked:
        (event,) = together[request.request_id]
        assert event.finish_reason == "stop"
        assert event.embedding == run(package, [request])[request.request_id][0].embedding
        with torch.no_grad():
            hidden = model.model(torch.tensor([request.prompt_token_ids])).last_hidden_state[0].numpy()
        expected = {"mean": hidden.mean(0), "last": hidden[-1], "cls": hidden[0]}[request.pooling]
        np.testing.assert_allclose(np.frombuffer(event.embedding, np.float32), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_program_without_hidden_states_says_so(pooling: Pooling) -> None:
    from tests.runtime.mock_engine import CONFIG
    from tests.runtime.mock_executor import MockExecutor

    from pagedc.runtime.errors import RequestError

    engine = Engine(MockExecutor(CONFIG), CONFIG, [0])
    with pytest.raises(RequestError, match="no hidden states"):
        engine.add_request(AddRequest("a", [1], PARAMS, pooling=pooling))
