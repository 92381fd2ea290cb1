"""A model of the Hugging Face hub, by its id: only what a compile reads is downloaded."""

from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from pagedc.compiler.checkpoint.hf import HFCheckpoint
from pagedc.compiler.checkpoint.shards import first_line
from pagedc.compiler.errors import CheckpointError

# Neither pickles nor code; `original/` and the like hold the same weights again.
CONFIG_FILES = ["*.json", "*.jinja", "tokenizer.model", "spiece.model", "vocab.txt", "merges.txt"]
WEIGHT_FILES = ["*.safetensors"]
# Of folders only 1_Pooling/: how sentence-transformers makes embeddings.
UNWANTED = ["[!1]*/*", "1[!_]*/*", "consolidated*.safetensors"]
TIMEOUT = 10  # seconds for the hub's first answer


def open_hub(model: str) -> HFCheckpoint:
    """Download what is not in the hub's cache yet, and open it."""
    directory = _snapshot(model, CONFIG_FILES + WEIGHT_FILES)
    # In the hub's cache a snapshot's folder is named by its revision.
    return HFCheckpoint(directory, name=model.partition("/")[2], source=f"{model}@{directory.name}")


def fetch_config(model: str) -> Path:
    """A folder with the model's config and tokenizer but not its weights."""
    return _snapshot(model, CONFIG_FILES)


def _snapshot(model: str, wanted: list[str]) -> Path:
    try:
        return Path(
            snapshot_download(
                model, allow_patterns=wanted, ignore_patterns=UNWANTED, etag_timeout=TIMEOUT, max_workers=4
            )
        )
    except GatedRepoError as error:
        raise CheckpointError(
            f"{model}: its owner asks for consent; "
            f"accept the terms on {constants.ENDPOINT}/{model} and run `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{model}: not a folder here and not a model of the hub; if it is private, run `hf auth login`"
        ) from error
    except LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"{model}: not a folder here nor in the hub's cache, and {constants.ENDPOINT} cannot be reached; "
            "give a local directory, a .gguf file, or smollm2-135m"
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise CheckpointError(f"{model}: cannot be downloaded: {first_line(error)}") from error
