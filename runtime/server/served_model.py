"""The model that is served, as the HTTP side needs it: names, sizes, tokenizer, chat template, defaults."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from pagedc.runtime.chat_template import ChatTemplate
from pagedc.runtime.errors import PackageError, UsageError
from pagedc.runtime.inspect_package import package_facts
from pagedc.runtime.manifest import Embedding, manifest_path
from pagedc.runtime.package import Package
from pagedc.runtime.tokenizer import Tokenizer
from pagedc.runtime.tool_parsers.formats import REASONING_FORMATS, TOOL_FORMATS

# What of generation_config.json a request's own fields override.
_DEFAULTS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


@dataclass(slots=True, kw_only=True)
class ServedModel:
    """One opened package as the server sees it."""

    names: tuple[str, ...]  # the first stands in answers
    max_model_len: int
    vocab_size: int
    fingerprint: str
    created: int  # Unix seconds
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    path: Path  # of the package
    weights_bytes: int = 0  # in this machine's memory; 0 = on a device
    hidden_size: int = 0  # of an embedding; 0 = the package gives none
    embedding: Embedding = field(default_factory=Embedding)
    facts: dict[str, str] = field(default_factory=dict)  # of the package, for people
    tool_parser: str = ""  # of tool_parsers/formats.py: how it calls tools; "" = as JSON, if at all
    reasoning_parser: str = ""  # how it thinks aloud; "" = it does not
    default_sampling: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What answers call the model."""
        return self.names[0]


def choose_names(packages: Sequence[Package], given: Sequence[str]) -> list[tuple[str, ...]]:
    """The names of each package: those that `--served-model-name` gives, else its own.

    With one package each is a name; with several each is MODEL=NAME, MODEL being a package's own name or its
    directory's. Raises UsageError for a name that none or two of them would have.
    """
    if len(packages) == 1:
        return [tuple(given) or (packages[0].manifest.model.name,)]
    names: list[list[str]] = [[] for _ in packages]
    for text in given:
        own, equals, name = text.partition("=")
        matches = [i for i, package in enumerate(packages) if own in _own_names(package)]
        if not equals or not name or len(matches) != 1:
            raise UsageError(
                f"--served-model-name {text}: with several packages it is MODEL=NAME, and MODEL the name of "
                "one of them or of its directory"
            )
        names[matches[0]].append(name)
    for package, own_names in zip(packages, names, strict=True):
        if not own_names:
            own_names.append(package.manifest.model.name)
    flat = [name for own_names in names for name in own_names]
    twice = sorted({name for name in flat if flat.count(name) > 1})
    if twice:
        raise UsageError(f"two packages would be called {twice[0]}: give --served-model-name DIRECTORY=NAME")
    return [tuple(own_names) for own_names in names]


def _own_names(package: Package) -> tuple[str, ...]:
    return (package.manifest.model.name, package.path.name, package.path.name.removesuffix(".pagedc"))


def choose_parser(option: str, formats: Iterable[str], own: str, given: str | None) -> str:
    """The format that is asked for, else the package's; one that this runtime does not know is none.

    Raises UsageError for an option that names no format.
    """
    if given is None:
        return own if own in formats else ""
    if given != "none" and given not in formats:
        raise UsageError(f"{option} {given}: give one of {', '.join(sorted(formats))}, or none")
    return "" if given == "none" else given


def open_served_model(
    package: Package,
    names: tuple[str, ...],
    max_model_len: int | None,
    tool_parser: str | None = None,  # None = as the manifest says, "none" = none
    reasoning_parser: str | None = None,
) -> ServedModel:
    """Read what the HTTP side needs of a package."""
    chat_template = ChatTemplate.open(package.tokenizer_path)
    if chat_template is not None:
        chat_template.warm_up()  # its process starts while the tokenizer is read
    path = manifest_path(package.path)
    model = package.manifest.model
    limit = package.manifest.limits.max_model_len
    return ServedModel(
        names=names or (model.name,),
        max_model_len=min(limit, max_model_len or limit),
        vocab_size=model.vocab_size,
        fingerprint="fp_" + hashlib.sha256(path.read_bytes()).hexdigest()[:12],
        created=int(path.stat().st_mtime),
        tokenizer=Tokenizer(package.tokenizer_path),
        chat_template=chat_template,
        path=package.path,
        weights_bytes=package.manifest.memory.weights_bytes if package.manifest.target.kind == "cpu" else 0,
        hidden_size=model.hidden_size,
        embedding=model.embedding,
        facts=package_facts(package),
        tool_parser=choose_parser("--tool-parser", TOOL_FORMATS, model.tool_parser, tool_parser),
        reasoning_parser=choose_parser(
            "--reasoning-parser", REASONING_FORMATS, model.reasoning_parser, reasoning_parser
        ),
        default_sampling=_default_sampling(package.tokenizer_path),
    )


def _default_sampling(directory: Path) -> dict[str, float]:
    path = directory / "generation_config.json"
    if not path.exists():
        return {}
    try:
        config: dict[str, Any] = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise PackageError(f"{path.name} of the package is not JSON; compile the package again") from None
    return {name: config[name] for name in _DEFAULTS if isinstance(config.get(name), int | float)}
