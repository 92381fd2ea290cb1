"""What MODEL may be, told by its form and by what lies on the disk: torch is not needed to refuse a typo."""

import re
from pathlib import Path

from pagedc.compiler.errors import CheckpointError

DEMO = "smollm2-135m"
FORMS = f"a Hugging Face directory, a hub id, a .gguf file, or {DEMO}"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


def is_hub_id(model: str) -> bool:
    """Whether MODEL has the form `owner/name`."""
    return HUB_ID.fullmatch(model) is not None


def model_path(model: str) -> Path | None:
    """Where it lies; None for the demo model and for one of the hub. Raises CheckpointError for neither."""
    if not model:
        raise CheckpointError(f"MODEL is empty; it is {FORMS}")
    path = Path(model).expanduser()
    if path.exists():
        return path
    if model == DEMO or (is_hub_id(model) and path.suffix != ".gguf"):
        return None
    raise CheckpointError(f"{model}: not found; MODEL is {FORMS}")
