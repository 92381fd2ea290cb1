"""Experts in each form that modules compute them, and what else of a trace only few types hold."""

import pytest
from tests.compiler.test_own_attention import difference
from tests.conformance.check import random_model, small_model
from tests.conformance.shrink import small_config

from pagedc.compiler.trace import trace


@pytest.mark.parametrize(
    ("name", "grouped"),
    [
        ("llama4_text", 2),  # all experts for every token, weighted by scores that are 0 but for the chosen
        ("longcat_flash", 2),  # a loop over those that some token chose; some of them change nothing
        ("dbrx", 3),  # matrices of all experts below each other
        # tokens sorted by expert; queries of experts, with the experts' outputs after attention
        ("jetmoe", 4),
    ],
)
def test_only_chosen_experts_are_computed(name: str, grouped: int) -> None:
    config, model, _ = small_model(name)
    graph = trace(config)
    found = list(graph.anchors("grouped_linear"))
    assert len(found) % grouped == 0
    assert {node.shape[0] for node in found} <= {1, 2}  # of 4 or 8
    assert difference(graph, model) < 1e-4


@pytest.mark.parametrize("name", ["gemma3", "cohere_compass_text", "zaya", "inkling2_text"])
def test_is_traced(name: str) -> None:
    """Ids put in place by a mask; rotations for each kind of layer; convolutions of padded tokens.

    Sinks of tokens, windows of tokens with weights of their own, and attention inside a token.
    """
    config, model, _ = small_model(name)
    assert difference(trace(config), model) < 1e-4


def test_keys_that_are_repeated_as_a_whole_are_stored_once() -> None:
    graph = trace(small_model("jetmoe")[0])
    (shapes,) = {tuple(value.shape for value in node.inputs) for node in graph.anchors("attention")}
    (heads, _), *others = shapes
    assert {count for count, _ in others} == {heads // 2}


def test_the_default_languages_adapters_alone_are_in_the_graph() -> None:
    config = small_config("xmod", fill=True)
    config.languages, config.default_language = ["en_XX", "de_DE", "fi_FI"], "de_DE"
    model, graph = random_model(config), trace(config)
    adapters = {node.attrs["name"] for node in graph.nodes if "adapter_modules" in node.attrs.get("name", "")}
    assert {name.split("adapter_modules.")[1].split(".")[0] for name in adapters} == {"de_DE"}
    assert difference(graph, model) < 1e-4
