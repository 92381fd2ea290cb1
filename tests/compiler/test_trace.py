"""A traced graph means what the module computes, and its constants are those of the module."""

from functools import partial

import numpy as np
import pytest
import torch
from tests.compiler.families import VOCAB_SIZE, make_config, make_model
from tests.compiler.state_families import STATE_CONFIGS

from pagedc.compiler.graph import Graph
from pagedc.compiler.interpret import run
from pagedc.compiler.trace import trace

TOKEN_IDS = np.random.default_rng(1).integers(3, VOCAB_SIZE, 20)


def interpreted(graph: Graph, model: torch.nn.Module) -> np.ndarray:
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    return run(graph, state.__getitem__, TOKEN_IDS)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "gpt_oss", "cohere", *STATE_CONFIGS])
def test_means_what_the_module_computes(name: str) -> None:
    graph, model = trace(make_config(name)), make_model(name)
    with torch.inference_mode():
        expected = model(torch.from_numpy(TOKEN_IDS)[None], use_cache=False).logits[0].numpy()
    np.testing.assert_allclose(interpreted(graph, model), expected, atol=1e-4 * np.abs(expected).max())


def test_anchors_of_a_llama() -> None:
    graph = trace(make_config("llama"))
    num_layers = 3
    assert sum(1 for _ in graph.anchors("embedding")) == 1
    assert sum(1 for _ in graph.anchors("linear")) == 7 * num_layers + 1
    attentions = list(graph.anchors("attention"))
    assert [node.attrs["layer"] for node in attentions] == list(range(num_layers))
    assert [value.shape for value in attentions[0].inputs] == [(4, 16), (2, 16), (2, 16)]
    assert graph.logits.shape == (VOCAB_SIZE,)


def test_the_order_of_a_python_set_is_not_in_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    # Its forward makes rotary embeddings for each of set(layer_types): another order in each process.
    from transformers.models.gemma3 import modeling_gemma3

    config = make_config("gemma3_text", num_hidden_layers=2)
    config.layer_types = ["sliding_attention", "full_attention"]
    walked: list[list[str]] = []

    def ordered(items: list[str], *, backwards: bool) -> list[str]:
        walked.append(sorted(frozenset(items), reverse=backwards))
        return walked[-1]

    dumps = []
    for backwards in (False, True):
        monkeypatch.setattr(modeling_gemma3, "set", partial(ordered, backwards=backwards), raising=False)
        dumps.append(trace(config).dump())
    assert walked[0] == walked[-1][::-1]
    assert dumps[0] == dumps[1]


def test_tied_weights_are_one_parameter() -> None:
    graph = trace(make_config("llama"))
    (embedding,) = graph.anchors("embedding")
    *_, head = graph.anchors("linear")
    assert head.inputs[1].attrs["name"] == embedding.inputs[1].attrs["name"] == "model.embed_tokens.weight"


def test_windows_and_softcaps_are_of_the_config() -> None:
    attentions = list(trace(make_config("gemma2")).anchors("attention"))
    assert [node.attrs["window"] for node in attentions] == [8, 0, 8, 0]
    assert {node.attrs["softcap"] for node in attentions} == {50.0}
