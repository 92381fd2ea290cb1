"""The safetensors files of a directory as one table of tensors, memory-mapped and read when asked for."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from pagedc.compiler.errors import CheckpointError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


class TensorInfo(NamedTuple):
    """What a header says of one tensor."""

    shape: tuple[int, ...]
    dtype: str  # safetensors' own word: "F32", "BF16", …


class TensorFile:
    """The tensors of one safetensors file, or of several as one table."""

    def __init__(self, path: Path) -> None:
        self.infos: dict[str, TensorInfo] = {}
        self._files: dict[str, Any] = {}  # tensor → open file
        self._open(path, set())

    def read(self, key: str) -> torch.Tensor:
        """A tensor; on the CPU it is a view of the mapped file."""
        return self._files[key].get_tensor(key)  # type: ignore[no-any-return]

    def _open(self, path: Path, expected: set[str]) -> None:
        file: Any
        try:
            file = safe_open(path, framework="pt", device="cpu")
            keys = list(file.keys())
            infos = {key: file.get_slice(key) for key in keys}
        except (SafetensorError, OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path}: not a whole safetensors file: {first_line(error)}") from error
        if missing := sorted(expected - set(keys)):
            raise CheckpointError(f"{path}: holds no {missing[0]}, which {INDEX} places there")
        for key, info in infos.items():
            if key in self._files:
                raise CheckpointError(f"{path}: {key} is already in another file")
            self.infos[key] = TensorInfo(tuple(info.get_shape()), str(info.get_dtype()))
            self._files[key] = file


class Shards(TensorFile):
    """Every tensor of a model's safetensors files, under the names that the files use."""

    def __init__(self, directory: Path) -> None:
        self.infos = {}
        self._files = {}
        for path, expected in _shard_paths(directory).items():
            self._open(path, expected)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises CheckpointError, one line, for anything else."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read: {first_line(error)}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds a {type(value).__name__}, not an object")
    return value


def first_line(error: BaseException) -> str:
    """An error of another library in at most one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    headed = len(lines) > 1 and lines[0].endswith(":")  # the first line only says what the second is about
    return " ".join(lines[: 1 + headed])[:300] or type(error).__name__


def _shard_paths(directory: Path) -> dict[Path, set[str]]:
    """Each file and the tensors that the index places in it."""
    if (directory / INDEX).is_file():
        paths: dict[Path, set[str]] = {}
        for key, name in _weight_map(directory / INDEX).items():
            paths.setdefault(directory / name, set()).add(key)
        if missing := sorted(path.name for path in paths if not path.is_file()):
            raise CheckpointError(
                f"{directory}: {len(missing)} of {len(paths)} shards missing, first {missing[0]}; "
                "download the model again"
            )
        return paths
    if (directory / SINGLE).is_file():
        return {directory / SINGLE: set()}
    if others := sorted(directory.glob("*.safetensors")):
        if len(others) == 1:
            return {others[0]: set()}
        raise CheckpointError(
            f"{directory}: {len(others)} safetensors files but no {INDEX} that says what they hold"
        )
    if pickles := sorted(path.name for pattern in PICKLES for path in directory.glob(pattern)):
        raise CheckpointError(
            f"{directory}: weights are in a pickle file ({pickles[0]}), which can run code when read; "
            "convert them to safetensors with save_pretrained(..., safe_serialization=True)"
        )
    raise CheckpointError(
        f"{directory}: no {SINGLE} in it; give a directory with weights, or --random-weights"
    )


def _weight_map(path: Path) -> dict[str, str]:
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path}: no weight_map in it")
    for key, name in weight_map.items():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise CheckpointError(
                f"{path}: {key} is placed in {name!r}, which is not the name of a safetensors file"
            )
    return weight_map
