import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from pagedc.compiler.errors import InternalError
from pagedc.compiler.weights_file import ALIGNMENT, BLOCK_BYTES, WeightEntry, write_weights

ENTRIES = [
    WeightEntry("a.packed", "U8", (70,), 70),
    WeightEntry("b", "F32", (3, 5), 60),
    WeightEntry("c", "BF16", (0,), 0),
    WeightEntry("d", "BF16", (2, 32), 128),
    WeightEntry("größe", "I64", (1,), 8),
]
ARRAYS = [
    np.arange(70, dtype=np.uint8),
    np.arange(15, dtype=np.float32).reshape(3, 5),
    np.zeros(0, np.uint16),
    np.arange(64, dtype=np.uint16).reshape(32, 2).T,  # not contiguous
    np.array([-1], np.int64),
]


def test_safetensors_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_weights(path, ENTRIES, iter(ARRAYS))
    with safe_open(path, framework="np") as file:
        names = list(file.keys())
        assert {name for name in names if not name.startswith("_pad.")} == {entry.name for entry in ENTRIES}
        assert np.array_equal(file.get_tensor("a.packed"), ARRAYS[0])
        assert np.array_equal(file.get_tensor("b"), ARRAYS[1])
        assert file.get_tensor("größe").tolist() == [-1]
        assert file.get_slice("d").get_shape() == [2, 32]


def test_every_tensor_is_aligned(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_weights(path, ENTRIES, ARRAYS)
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    assert (8 + size) % ALIGNMENT == 0
    table = json.loads(data[8 : 8 + size])
    for entry, array in zip(ENTRIES, ARRAYS, strict=True):
        begin, end = table[entry.name]["data_offsets"]
        assert begin % ALIGNMENT == 0
        assert data[8 + size + begin : 8 + size + end] == np.ascontiguousarray(array).tobytes()


def test_same_input_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_weights(tmp_path / name, ENTRIES, ARRAYS)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_no_tensors(tmp_path: Path) -> None:
    write_weights(tmp_path / "empty", [], [])
    with safe_open(tmp_path / "empty", framework="np") as file:
        assert list(file.keys()) == []


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ([ARRAYS[1]], "60 bytes packed, 70 planned"),
        (ARRAYS[:2], "2 arrays for 5 entries"),
        ([*ARRAYS, ARRAYS[0]], "more than 5 arrays"),
    ],
)
def test_what_was_not_planned_is_a_mistake(tmp_path: Path, arrays: list[np.ndarray], message: str) -> None:
    with pytest.raises(InternalError, match=message):
        write_weights(tmp_path / "bad", ENTRIES, arrays)


@pytest.mark.parametrize("name", ["a.packed", "_pad.0", "__metadata__"])
def test_names_are_used_once(tmp_path: Path, name: str) -> None:
    with pytest.raises(InternalError, match="its name is taken"):
        write_weights(tmp_path / "bad", [ENTRIES[0], WeightEntry(name, "U8", (70,), 70)], [ARRAYS[0]] * 2)


@pytest.mark.parametrize("size", [BLOCK_BYTES - 1, BLOCK_BYTES, 2 * BLOCK_BYTES + 1000])
def test_a_tensor_may_cross_blocks(tmp_path: Path, size: int) -> None:
    array = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    entries = [WeightEntry(name, "U8", (size,), size) for name in ("a", "b")]
    path = tmp_path / "model.safetensors"
    write_weights(path, entries, [array, array[::-1]])
    with safe_open(path, framework="np") as file:
        assert np.array_equal(file.get_tensor("a"), array)
        assert np.array_equal(file.get_tensor("b"), array[::-1])
