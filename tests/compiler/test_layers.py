"""Module by module: nothing departs in a right package, and a wrong weight is found where it is."""

import json
from pathlib import Path

import numpy as np
import pytest
from tests.compiler.families import VOCAB_SIZE, make_config, save_model

import pagedc
from pagedc.compiler.checkpoint import open_checkpoint
from pagedc.compiler.graph import Graph, Node
from pagedc.compiler.interpret import walk
from pagedc.compiler.layers import compare, compare_modules, last_nodes
from pagedc.compiler.reference import Reference, rounding_of
from pagedc.compiler.report import load_manifest
from pagedc.compiler.trace import trace

FAMILIES = ("llama", "gemma2", "phi3", "gpt2", "gpt_neox", "opt", "mixtral", "gpt_oss")
TOKEN_IDS = np.random.default_rng(0).integers(3, VOCAB_SIZE, 20)


@pytest.mark.parametrize("name", FAMILIES)
def test_no_module_departs_without_a_reason(name: str, tmp_path: Path) -> None:
    model = save_model(name, tmp_path)
    checkpoint = open_checkpoint(str(tmp_path))
    state = {key: tensor.numpy() for key, tensor in model.state_dict().items()}
    graph = trace(checkpoint.config)
    paths = last_nodes(graph)
    reference = Reference(checkpoint, lambda _, weight: weight)  # type: ignore[arg-type,return-value]
    expected = reference.outputs(TOKEN_IDS.tolist(), set(paths.values()))
    modules = compare(graph, state.__getitem__, expected, TOKEN_IDS)
    assert [module for module in modules if module.departs] == []
    compared = {module.path for module in modules}
    layers = [path for path in compared if path.rpartition(".")[2].isdigit()]
    assert len(layers) == make_config(name).get_text_config().num_hidden_layers
    assert "lm_head" in compared or "embed_out" in compared


def test_every_value_comes_in_order_while_others_are_dropped() -> None:
    x = Node("input", (), (1,), "int32", attrs={"name": "positions"})
    graph = Graph()
    nodes = [graph.add(x)]
    for _ in range(3):
        nodes.append(graph.add(Node("neg", (nodes[-1],), (1,), "int32")))
    graph.output = nodes[-1]
    steps = walk(graph, {}.__getitem__, np.array([5, 6]))
    assert [value.ravel().tolist() for _, value in steps] == [[0, 1], [0, -1], [0, 1], [0, -1]]


@pytest.mark.parametrize("quantize", ["none", "int4"])
def test_a_wrong_weight_is_found_where_it_is(quantize: str, tmp_path: Path) -> None:
    save_model("qwen3", tmp_path / "model")
    package = pagedc.compile(tmp_path / "model", tmp_path / "package", quantize=quantize, threads=1)
    checkpoint, manifest = open_checkpoint(str(tmp_path / "model")), load_manifest(package)
    reference = Reference(checkpoint, rounding_of(manifest))

    def departures() -> list[str]:
        modules = compare_modules(package, manifest, checkpoint, reference, TOKEN_IDS.tolist())
        assert len(modules) > 30
        return [module.path for module in modules if module.departs]

    assert departures() == []
    path = package / "weights" / "model.safetensors"
    data = bytearray(path.read_bytes())
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    name = next(name for name in header if "layers.1" in name and "up_proj" in name)
    start, end = (8 + int.from_bytes(data[:8], "little") + offset for offset in header[name]["data_offsets"])
    data[start:end] = bytes(end - start)
    path.write_bytes(data)
    wrong = departures()
    assert wrong[0] in ("model.layers.1.mlp.gate_proj", "model.layers.1.mlp.up_proj")
    assert "model.layers.2" in wrong
