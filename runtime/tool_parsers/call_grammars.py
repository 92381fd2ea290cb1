"""What a model may write where it must call a tool, or where its calls must follow a schema."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pagedc.runtime.grammars import inline_schema, literal
from pagedc.runtime.tool_parsers.formats import ToolFormat
from pagedc.runtime.tool_parsers.harmony import MARKERS

NO_ARGUMENTS: Mapping[str, Any] = {"properties": {}, "additionalProperties": False}


def calls_grammar(
    form: ToolFormat,
    functions: Sequence[tuple[str, Mapping[str, Any] | None]],  # names, and the schemas of their arguments
    control_tokens: Mapping[str, int],
    *,
    is_single: bool,
) -> str:
    """A Lark grammar of one call or more; ValueError names a keyword of a schema that is not supported."""
    if form.has_channels:
        return _channels(form, functions, control_tokens, may_answer=False)
    return _lark(form, functions, control_tokens, is_single=is_single, trigger="")


def optional_calls_grammar(
    form: ToolFormat,
    functions: Sequence[tuple[str, Mapping[str, Any] | None]],  # None = arguments of any form
    control_tokens: Mapping[str, int],
    *,
    is_single: bool,
) -> str:
    """A Lark grammar of any text, in which what begins a call must go on as one."""
    if form.has_channels:
        return _channels(form, functions, control_tokens, may_answer=True)
    first = form.opening or form.begin.partition("NAME")[0]
    trigger = next((marker for marker in form.markers if first.startswith(marker)), "{")
    calls = _lark(form, functions, control_tokens, is_single=is_single, trigger=trigger)
    if trigger == "{":
        return f"start: TEXT | calls_only\nTEXT: /([^{{\\s](.|\\n)*)?/\n{calls}"
    if trigger in control_tokens:
        return f"start: TEXT (<[{control_tokens[trigger]}]> calls_only)?\nTEXT: /(.|\\n)*/\n{calls}"
    words = re.escape(trigger).replace("/", "\\/")
    return (
        f"start: TEXT | before calls_only\nTEXT: /(.|\\n)*/ & ~/(.|\\n)*{words}(.|\\n)*/\n"
        f"before[lazy]: /(.|\\n)*{words}/\n{calls}"
    )


def _lark(
    form: ToolFormat,
    functions: Sequence[tuple[str, Mapping[str, Any] | None]],
    control_tokens: Mapping[str, int],
    *,
    is_single: bool,
    trigger: str,  # where it stands already: then the first call is without it, and `start` is the caller's
) -> str:

    def text(value: str) -> str:
        return with_control_tokens(value, control_tokens)

    cut = trigger if trigger != "{" else ""
    rules = [
        f"first: {' | '.join(f'first_{i}' for i in range(len(functions)))}",
        f"calls: {' | '.join(f'call_{i}' for i in range(len(functions)))}",
    ]
    more = "" if is_single or form.is_single else f"({text(form.separator)} calls)*"
    opening = text(form.opening.removeprefix(cut))
    start = f"{'calls_only' if trigger else 'start'}: {opening} first {more} {text(form.closing)}"
    for i, (name, schema) in enumerate(functions):
        arguments = _arguments(schema)
        begin, end = form.begin.replace("NAME", name), text(form.end)
        first = begin if form.opening else begin.removeprefix(cut)
        rules.append(f"first_{i}: {text(first)} arguments_{i} {end}")
        rules.append(f"call_{i}: {text(begin)} arguments_{i} {end}\narguments_{i}: {arguments}")
    return "\n".join([start, *rules]) + "\n"


def _channels(
    form: ToolFormat,
    functions: Sequence[tuple[str, Mapping[str, Any] | None]],
    control_tokens: Mapping[str, int],
    *,
    may_answer: bool,
) -> str:
    """Harmony: messages aloud, then a call, or a final one."""
    names = {marker.strip("<|>").upper(): with_control_tokens(marker, control_tokens) for marker in MARKERS}
    start, channel, message, end = (names[name] for name in ("START", "CHANNEL", "MESSAGE", "END"))
    final = f' | {channel} "final" {message} TEXT' if may_answer else ""
    rules = [
        f"start: aloud* (call{final})",
        f'aloud: {channel} ("analysis" | "commentary") {message} TEXT {end} {start} "assistant"',
        f"call: {' | '.join(f'call_{i}' for i in range(len(functions)))}",
        r"TEXT: /(.|\n)*/",
    ]
    for i, (name, schema) in enumerate(functions):
        begin, last = (
            with_control_tokens(text, control_tokens) for text in (form.begin.replace("NAME", name), form.end)
        )
        rules.append(f"call_{i}: {begin} arguments_{i} {last}\narguments_{i}: {_arguments(schema)}")
    return "\n".join(rules) + "\n"


def _arguments(schema: Mapping[str, Any] | None) -> str:
    return inline_schema({**(NO_ARGUMENTS if schema is None else schema), "type": "object"})


def with_control_tokens(value: str, control_tokens: Mapping[str, int]) -> str:
    """A text in Lark, in which control tokens stand as themselves."""
    for word, token_id in control_tokens.items():
        if word in value:
            before, _, after = value.partition(word)
            parts = [
                with_control_tokens(before, control_tokens),
                f"<[{token_id}]>",
                with_control_tokens(after, control_tokens),
            ]
            return " ".join(part for part in parts if part)
    return literal(value) if value else ""
