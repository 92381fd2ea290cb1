"""What MODEL may be, told by its form and by what lies on the disk: torch is not needed to refuse a typo."""

import os
import re
from pathlib import Path

from pagedc.compiler.errors import CheckpointError

DEMO = "smollm2-135m"
FORMS = f"a Hugging Face directory, a hub id, a .gguf file, or {DEMO}"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
CONFIG, ADAPTER = "config.json", "adapter_config.json"
MAGIC = b"GGUF"


def is_hub_id(model: str) -> bool:
    """Whether MODEL has the form `owner/name`."""
    return HUB_ID.fullmatch(model) is not None


def model_path(model: str, *, random_weights: bool = False) -> Path | None:
    """Where it lies; None for the demo model and for one of the hub. Raises CheckpointError for what is
    neither, and for a path that holds no model.
    """
    if not model:
        raise CheckpointError(f"MODEL is empty; it is {FORMS}")
    if model == DEMO and random_weights:
        raise CheckpointError(f"{DEMO}: it has its weights; --random-weights is for a config alone")
    path = Path(os.path.expanduser(model))
    try:
        if path.exists() and model != DEMO:
            _check(path, random_weights)
            return path
    except OSError as error:
        raise CheckpointError(f"{model}: cannot be read: {error.strerror}") from error
    if model == DEMO or (is_hub_id(model) and path.suffix != ".gguf"):
        return None
    raise CheckpointError(f"{model}: not found; MODEL is {FORMS}")


def _check(path: Path, random_weights: bool) -> None:
    if path.is_dir():
        require_config(path)
    elif random_weights:
        if path.suffix != ".json":
            raise CheckpointError(f"{path}: --random-weights needs a directory with {CONFIG}, or such a file")
    elif path.suffix == ".gguf":
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise CheckpointError(f"{path}: not a whole GGUF file: it does not begin with GGUF")
    else:
        alone = "; with --random-weights a config alone" if path.suffix == ".json" else ""
        raise CheckpointError(f"{path}: MODEL is {FORMS}{alone}")


def require_config(directory: Path) -> None:
    """Raises CheckpointError where a directory is not one of Hugging Face's."""
    if (directory / CONFIG).is_file():
        return
    if files := sorted(directory.glob("*.gguf")):
        raise CheckpointError(f"{directory}: no {CONFIG} in it; give the path of a file, such as {files[0]}")
    if (directory / ADAPTER).is_file():
        raise CheckpointError(
            f"{directory}: an adapter; give its base model as MODEL, and --lora {directory}"
        )
    raise CheckpointError(f"{directory}: no {CONFIG} in it; MODEL is {FORMS}")
