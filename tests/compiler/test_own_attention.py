"""Attention that a module computes itself becomes the anchor that the interface gives."""

from typing import Any

import numpy as np
import pytest
import torch
from tests.compiler.families import make_config
from tests.conformance.check import logits_of, random_model
from tests.conformance.shrink import small_config
from transformers import AutoConfig
from transformers.models.doge.modeling_doge import DogeAttention
from transformers.models.inkling.modeling_inkling import InklingRelativeLogits

from pagedc.compiler.errors import UnsupportedError
from pagedc.compiler.graph import Graph
from pagedc.compiler.interpret import run
from pagedc.compiler.trace import trace

TOKEN_IDS = np.random.default_rng(1).integers(3, 200, 20)


def difference(graph: Graph, model: torch.nn.Module) -> float:
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    found = run(graph, state.__getitem__, TOKEN_IDS)
    expected = logits_of(model, TOKEN_IDS.tolist())
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("gptj", {"window": [0, 0, 0]}),  # rotary rows looked up by position
        ("gpt_neo", {"window": [0, 8, 0, 8]}),  # a window kept as a table of T × T
        ("bloom", {"slopes": [True] * 3}),
        ("falcon", {"window": [0, 0, 0]}),
    ],
)
def test_is_followed(name: str, facts: dict[str, list[Any]]) -> None:
    config = small_config(name)
    graph = trace(config)
    for key, values in facts.items():
        found = [node.attrs[key] for node in graph.anchors("attention")]
        assert found == values[: len(found)]
        assert len(found) > 1
    assert difference(graph, random_model(config)) < 1e-4


@pytest.mark.parametrize("further", [0, 1])
def test_a_bias_is_of_the_distance_to_a_key(further: int, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config("inkling_text")
    own = InklingRelativeLogits.forward
    monkeypatch.setattr(InklingRelativeLogits, "forward", lambda self, x, q, k: own(self, x, q + further, k))
    if further:
        with pytest.raises(UnsupportedError, match="more than the distance to a key"):
            trace(config)
    else:
        assert [node.attrs["extent"] for node in trace(config).anchors("attention")] == [8, 20]


def test_a_large_window_is_read_exactly() -> None:
    config = AutoConfig.for_model(
        "mistral",
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=211,
        sliding_window=4096,
    )
    (attention,) = trace(config).anchors("attention")
    assert attention.attrs["window"] == 4096


def test_a_number_of_each_key_is_an_element_of_it() -> None:
    config = AutoConfig.for_model(
        "doge",
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=211,
        keep_window_size=50,
    )
    graph = trace(config)
    assert [node.inputs[1].shape for node in graph.anchors("attention")] == [(2, 17)] * 2
    assert graph.max_tokens == 50
    assert difference(graph, random_model(config)) < 1e-4


def _squared(self: Any, hidden_states: Any, dt_states: torch.Tensor, attention_mask: Any, **_: Any) -> Any:
    return attention_mask + dt_states[:, :, None].expand(-1, -1, hidden_states.shape[1], -1) ** 2


def test_a_mask_made_of_other_values_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DogeAttention, "prepare_dynamic_mask", _squared)
    message = r"^doge: .* at model\.layers\.0\.self_attn: a mask that changes with more than"
    with pytest.raises(UnsupportedError, match=message):
        trace(small_config("doge"))
