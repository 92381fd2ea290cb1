"""Each pass on the smallest graph that shows it; the interpreter says that nothing changed but the form."""

import numpy as np
import pytest
from tests.compiler.families import VOCAB_SIZE, make_config, make_model
from tests.compiler.small_graphs import Builder, count, meaning

from pagedc.compiler.graph import Graph, Node
from pagedc.compiler.passes import run_passes
from pagedc.compiler.passes.assign_formats import assign_formats
from pagedc.compiler.passes.fold_constants import fold_constants
from pagedc.compiler.passes.merge_linears import merge_linears
from pagedc.compiler.passes.round_inputs import round_inputs
from pagedc.compiler.passes.select_logits_rows import select_logits_rows
from pagedc.compiler.passes.simplify import simplify
from pagedc.compiler.trace import trace

TOKEN_IDS = np.array([3, 1, 2, 0, 1])


def same_meaning(build: Builder, graph: Graph, before: np.ndarray, atol: float = 1e-5) -> None:
    graph.verify()
    np.testing.assert_allclose(meaning(graph, build.state, TOKEN_IDS), before, atol=atol)


def two_linears(format_: str) -> tuple[Builder, Graph, np.ndarray]:
    """out(relu(gate(x)) · up(x))"""
    build = Builder()
    x = build.embedded(8)
    gate, up = build.linear(x, 12), build.linear(x, 12)
    gate = build.add("maximum", (gate, build.scalar(0.0)), (12,))
    graph = build.done(build.linear(build.add("mul", (gate, up), (12,)), 5))
    assign_formats(graph, lambda node: format_)
    return build, graph, meaning(graph, build.state, TOKEN_IDS)


def test_simplify_removes_identities_and_duplicates() -> None:
    build = Builder()
    x = build.embedded(8)
    same = build.add("mul", (x, build.scalar(1.0)), (8,))
    same = build.add("add", (same, build.scalar(0.0)), (8,))
    there = build.add("reshape", (same,), (2, 4))
    back = build.add("reshape", (there,), (8,))
    first, second = (build.add("exp", (value,), (8,)) for value in (x, back))
    graph = build.done(build.add("add", (first, second), (8,)))
    before = meaning(graph, build.state, TOKEN_IDS)
    assert simplify(graph) > 0
    assert [node.op for node in graph.nodes] == ["input", "parameter", "embedding", "exp", "add"]
    assert simplify(graph) == 0
    same_meaning(build, graph, before, atol=0)


def test_simplify_keeps_what_looks_alike() -> None:
    build = Builder()
    x = build.embedded(4)
    build.add("mul", (x, build.scalar(2.0)), (4,))
    graph = build.done(
        build.add("sub", (build.add("mul", (x, build.scalar(2.0)), (4,)), build.scalar(1.0)), (4,))
    )
    before = meaning(graph, build.state, TOKEN_IDS)
    simplify(graph)
    assert count(graph, "mul") == count(graph, "sub") == 1
    same_meaning(build, graph, before, atol=0)


def test_fold_constants_leaves_no_op_on_constants() -> None:
    build = Builder()
    x = build.embedded(6)
    known = build.add("constant", (), (6,), value=np.arange(6, dtype=np.float32))
    known = build.add("sin", (known,), (6,))
    unknown = build.add("add", (build.parameter(6), build.scalar(1.0)), (6,))
    graph = build.done(
        build.add("mul", (build.add("add", (x, known), (6,)), unknown), (6,)),
    )
    before = meaning(graph, build.state, TOKEN_IDS)
    assert fold_constants(graph) == 2
    assert count(graph, "sin") == 0
    assert {node.op for node in graph.nodes if node.domain == "const"} == {"constant", "parameter"}
    assert fold_constants(graph) == 0
    same_meaning(build, graph, before)


def test_merge_linears_of_one_input() -> None:
    build, graph, before = two_linears("f32")
    assert merge_linears(graph) == 1
    assert count(graph, "linear") == count(graph, "slice") == 2
    assert sorted(node.shape[-1] for node in graph.anchors("linear")) == [5, 24]
    assert merge_linears(graph) == 0
    same_meaning(build, graph, before)


def test_merge_linears_keeps_formats_apart() -> None:
    build, graph, before = two_linears("f32")
    next(graph.anchors("linear")).inputs[1].attrs["format"] = "bf16"
    assert merge_linears(graph) == 0
    same_meaning(build, graph, before, atol=0)


def test_round_inputs_of_all_but_float32() -> None:
    _, graph, _ = two_linears("f32")
    assert round_inputs(graph) == 0
    build, graph, before = two_linears("bf16")
    assert round_inputs(graph) == 2  # x once for both linears, and the product
    assert all(node.inputs[0].dtype == "bfloat16" for node in graph.anchors("linear"))
    same_meaning(build, graph, before, atol=2**-6 * np.abs(before).max())


def test_select_logits_rows_moves_the_head() -> None:
    build, graph, before = two_linears("f32")
    tail = build.add("tanh", (graph.logits,), (5,))
    graph.output = tail
    assert select_logits_rows(graph) == 1
    *body, head = graph.anchors("linear")
    assert {node.domain for node in body} == {"token"}
    assert head.domain == graph.logits.domain == "row"
    same_meaning(build, graph, np.tanh(before))


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_neox", "mixtral", "gpt_oss"])
def test_all_passes_keep_what_a_model_means(name: str) -> None:
    graph = trace(make_config(name))
    state = {name: tensor.numpy() for name, tensor in make_model(name).state_dict().items()}
    token_ids = np.random.default_rng(1).integers(3, VOCAB_SIZE, 20)
    before = meaning(graph, state, token_ids)
    run_passes(graph, lambda node: "f32")
    after = meaning(graph, state, token_ids)
    np.testing.assert_allclose(after, before, atol=1e-5 * np.abs(before).max())


def test_queries_keys_and_values_become_one_linear() -> None:
    graph = trace(make_config("llama"))
    changes = run_passes(graph, lambda node: "f32")
    assert changes["merge_linears"] == 3 * (2 + 1)  # of each layer: k, v, and one of gate and up
    assert [node.shape[-1] for node in graph.anchors("linear")][:2] == [64 + 32 + 32, 64]


def test_embeddings_and_heads_are_marked_as_vocabulary() -> None:
    build = Builder()
    x = build.embedded(8)
    inner = build.linear(x, 8)
    graph = build.done(build.add("tanh", (build.linear(inner, 5),), (5,)))
    seen: list[bool] = []

    def format_of(node: Node) -> str:
        seen.append(node.attrs.get("vocabulary", False))
        return "f32"

    assert assign_formats(graph, format_of) == 3
    assert seen == [True, False, True]


def test_a_layer_that_runs_twice_has_one_merged_weight() -> None:
    build = Builder()
    x = build.embedded(8)
    gate, up = build.linear(x, 8), build.linear(x, 8)
    again = build.add("add", (gate, up), (8,))
    both = [build.add("linear", (again, node.inputs[1]), (8,)) for node in (gate, up)]
    graph = build.done(build.add("add", (both[0], both[1]), (8,)))
    assign_formats(graph, lambda node: "f32")
    before = meaning(graph, build.state, TOKEN_IDS)
    assert merge_linears(graph) == 2
    first, second = graph.anchors("linear")
    assert first.inputs[1] is second.inputs[1]
    same_meaning(build, graph, before)
