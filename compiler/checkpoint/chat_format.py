"""How a model calls tools and thinks aloud, by the markers that its chat template writes."""

from collections.abc import Mapping

# The first format of which a marker stands in the template is the model's. Names are the runtime's.
_TOOL_MARKERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("harmony", ("<|channel|>",)),
    ("deepseek", ("<｜tool▁call▁begin｜>",)),
    ("mistral_args", ("[ARGS]",)),
    ("mistral", ("[TOOL_CALLS]",)),
    ("gemma", ("<start_function_call>", "<|tool_call>")),
    ("hermes", ("<tool_call>",)),
    ("phi", ("<|/tool_call|>", "<|/tool|>")),
    ("granite", ("<|tool_call|>", "<function_call>")),
    ("llama3", ("<|python_tag|>", "<|start_header_id|>")),
)
_REASONING_MARKERS: tuple[tuple[str, str], ...] = (
    ("think", "</think>"),
    ("mistral", "[/THINK]"),
    ("kimi", "◁/think▷"),
    ("seed", "</seed:think>"),
    ("reason", "</reasoning>"),
)


def tool_parser(tokenizer_files: Mapping[str, bytes]) -> str:
    """The format of its calls: "json" for a template that names tools in no known form, "" for one
    without.
    """
    template = _template(tokenizer_files)
    for name, markers in _TOOL_MARKERS:
        if any(marker in template for marker in markers):
            return name
    return "json" if "tools" in template else ""


def reasoning_parser(tokenizer_files: Mapping[str, bytes]) -> str:
    """The markers around its reasoning; "" if it has none."""
    template = _template(tokenizer_files)
    return next((name for name, marker in _REASONING_MARKERS if marker in template), "")


def _template(tokenizer_files: Mapping[str, bytes]) -> str:
    return tokenizer_files.get("chat_template.jinja", b"").decode(errors="replace")
