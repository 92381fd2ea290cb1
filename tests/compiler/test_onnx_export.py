"""The graph as ONNX, run by onnxruntime, which shares no code with pagedc."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tests.compiler.families import VOCAB_SIZE, make_config, make_model
from tests.compiler.small_graphs import Builder, meaning
from tests.compiler.test_families import logits_of

from pagedc.compiler import onnx_export
from pagedc.compiler.errors import UnsupportedError
from pagedc.compiler.graph import Graph, Node
from pagedc.compiler.interpret import evaluate
from pagedc.compiler.onnx_export import export_onnx
from pagedc.compiler.passes import run_passes
from pagedc.compiler.trace import trace

FAMILIES = ("llama", "gemma2", "phi3", "gpt2", "opt", "mixtral", "gpt_oss")
TOKEN_IDS = np.random.default_rng(0).integers(3, VOCAB_SIZE, 25)
ROWS = np.array([0, 7, 24])


def weight_of(state: dict[str, np.ndarray], node: Node) -> np.ndarray:
    if "parts" in node.attrs:
        return np.concatenate([weight_of(state, part) for part in node.attrs["parts"]])
    if "source" in node.attrs:
        return evaluate(node.attrs["source"], state.__getitem__)
    return state[node.attrs["name"]]


def run(data: bytes, **feed: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    inputs = {
        "token_ids": TOKEN_IDS[: len(TOKEN_IDS)],
        "positions": np.arange(len(TOKEN_IDS)),
        "rows": ROWS,
    } | feed
    wanted = {value.name for value in session.get_inputs()}
    (logits,) = session.run(["logits"], {name: value for name, value in inputs.items() if name in wanted})
    return np.asarray(logits)


def compiled(name: str, format_name: str = "f32") -> tuple[Graph, torch.nn.Module, dict[str, np.ndarray]]:
    model = make_model(name)
    graph = trace(make_config(name))
    run_passes(graph, lambda node: format_name)
    return graph, model, {key: tensor.numpy() for key, tensor in model.state_dict().items()}


def test_slopes_are_refused() -> None:
    graph, _, state = compiled("bloom")
    with pytest.raises(UnsupportedError, match="biases of the distance, as ONNX"):
        export_onnx(graph, lambda node: weight_of(state, node), "bloom")


@pytest.mark.parametrize("name", FAMILIES)
def test_onnxruntime_gives_the_same_logits(name: str) -> None:
    graph, model, state = compiled(name)
    data = export_onnx(graph, lambda node: weight_of(state, node), name)
    expected = logits_of(model, TOKEN_IDS.tolist())[ROWS]
    assert np.abs(run(data) - expected).max() <= 1e-4 * np.abs(expected).max()
    assert data == export_onnx(graph, lambda node: weight_of(state, node), name)


def test_large_weights_are_inputs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(onnx_export, "MAX_EMBEDDED", 1000)
    graph, model, state = compiled("llama")
    data = export_onnx(graph, lambda node: weight_of(state, node), "llama")
    parameters = {node.attrs["name"]: node for node in graph.nodes if node.op == "parameter"}
    assert len(data) < 4 * sum(node.size for node in parameters.values())
    weights = {name: weight_of(state, node) for name, node in parameters.items()}
    expected = logits_of(model, TOKEN_IDS.tolist())[ROWS]
    assert np.abs(run(data, **weights) - expected).max() <= 1e-4 * np.abs(expected).max()


def test_standard_operators_only_and_modules_by_name() -> None:
    graph, _, state = compiled("llama", "bf16")
    model = onnx.load_from_string(export_onnx(graph, lambda node: weight_of(state, node), "llama"))
    assert {node.domain for node in model.graph.node} == {""}
    assert [entry.version for entry in model.opset_import] == [23]
    assert sum(node.op_type == "Attention" for node in model.graph.node) == 3
    assert any(node.name.startswith("model.layers.1.mlp") for node in model.graph.node)


@pytest.mark.parametrize("op", ["mod", "floordiv", "maximum", "pow", "ne"])
@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_binary_ops_mean_what_the_interpreter_says(op: str, dtype: str) -> None:
    build = Builder()
    x = build.embedded(8)
    if dtype == "int32":
        x = build.add("cast", (build.add("mul", (x, build.scalar(9.0)), (8,)),), (8,), dtype="int32")
    divisor = build.scalar(3 if dtype == "int32" else 0.75)
    divisor.dtype = x.dtype
    out = build.add(op, (x, divisor), (8,), dtype="bool" if op == "ne" else dtype)
    if out.dtype != "float32":
        out = build.add("cast", (out,), (8,), dtype="float32")
    graph = build.done(out)
    ids = np.array([3, 1, 2, 0, 1])
    data = export_onnx(graph, lambda node: build.state[node.attrs["name"]], "small")
    expected = meaning(graph, build.state, ids)
    np.testing.assert_allclose(
        run(data, token_ids=ids, positions=np.arange(5)), expected, rtol=1e-6, atol=1e-6
    )
