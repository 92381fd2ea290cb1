"""Which form a request wants its answer in: every field that says so, one of them at a time."""

import json
import re
from collections.abc import Sequence

from pagedc.runtime.errors import RequestError
from pagedc.runtime.grammars import GrammarSource, inline_schema, reasoning_rules
from pagedc.runtime.server.json_body import quoted
from pagedc.runtime.server.protocol import (
    ChatCompletionRequest,
    Function,
    GenerationRequest,
    ResponseFormat,
)
from pagedc.runtime.server.reading import Reading
from pagedc.runtime.server.refusals import invalid
from pagedc.runtime.server.tools import offered, required
from pagedc.runtime.tool_parsers.call_grammars import (
    calls_grammar,
    optional_calls_grammar,
    with_control_tokens,
)
from pagedc.runtime.tool_parsers.formats import REASONING_FORMATS

MAX_CHOICES = 1024
FORMATS = ("text", "json_object", "json_schema")
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def grammar_source(request: GenerationRequest) -> GrammarSource | None:
    """The one form that is asked for; raises RequestError for two, or for one that is no form."""
    found = [*_guided(request), *_structured_outputs(request)]
    if isinstance(request, ChatCompletionRequest) and request.response_format is not None:
        found += _response_format(request.response_format)
    if len(found) > 1:
        raise invalid(found[1].param, f"{found[0].param} says already what the answer must look like")
    if found and request.ignore_eos:
        raise invalid("ignore_eos", f"{found[0].param} says where the answer ends")
    return found[0] if found else None


def chat_grammar_source(
    request: ChatCompletionRequest, reading: Reading, prompt_token_ids: Sequence[int]
) -> GrammarSource | None:
    """That of its calls where it must make one; reasoning may come before what is asked for."""
    source = grammar_source(request)
    functions = required(request)
    if functions and source is not None:
        raise invalid(source.param, "tool_choice says already that the answer is a call")
    if functions:
        if request.ignore_eos:
            raise invalid("ignore_eos", "tool_choice says where the answer ends")
        source = _calls(request, reading, functions)
    strict = [function for function in offered(request) if function.strict]
    if source is None and strict and not request.ignore_eos:
        source = _optional_calls(request, reading)
    if source is None or not reading.reasoning:
        return source
    assert reading.tokenizer is not None
    control = reading.tokenizer.special_tokens
    begin, end = (with_control_tokens(word, control) for word in REASONING_FORMATS[reading.reasoning])
    is_open = reading.opens_reasoning(prompt_token_ids)
    return source._replace(before=reasoning_rules(begin, end, is_open=is_open))


def _optional_calls(request: ChatCompletionRequest, reading: Reading) -> GrammarSource:
    """Where some tools are strict and none must be called: a call of one of those follows its schema."""
    assert reading.tokenizer is not None
    assert reading.tools is not None
    functions = offered(request)
    _check_schemas(request, [function for function in functions if function.strict])
    text = optional_calls_grammar(
        reading.tools,
        [(f.name, (f.parameters if f.strict else {})) for f in functions],
        reading.tokenizer.special_tokens,
        is_single=reading.is_single_call,
    )
    return GrammarSource("tools", "lark", text)


def _check_schemas(request: ChatCompletionRequest, functions: list[Function]) -> None:
    names = [tool.function.name for tool in request.tools or () if tool.function is not None]
    for function in functions:
        try:
            inline_schema(function.parameters or {})
        except ValueError as error:
            where = f"tools[{names.index(function.name)}].function.parameters"
            raise RequestError(
                f"Invalid value for '{where}': {error}.", param=where, code="invalid_grammar"
            ) from None


def _calls(request: ChatCompletionRequest, reading: Reading, functions: list[Function]) -> GrammarSource:
    assert reading.tokenizer is not None
    assert reading.tools is not None
    _check_schemas(request, functions)
    text = calls_grammar(
        reading.tools,
        [(function.name, function.parameters) for function in functions],
        reading.tokenizer.special_tokens,
        is_single=reading.is_single_call or not isinstance(request.tool_choice, str),
    )
    return GrammarSource("tools", "lark", text)


def _response_format(form: ResponseFormat) -> list[GrammarSource]:
    if form.type not in FORMATS:
        raise invalid("response_format.type", f"{quoted(form.type)} is none of {', '.join(FORMATS)}")
    schema = form.json_schema
    if (form.type == "json_schema") != (schema is not None):
        raise invalid("response_format.json_schema", "it belongs to the type 'json_schema', and only to it")
    if form.type == "json_object":
        return [GrammarSource("response_format", "json_object", "")]
    if schema is None:
        return []
    if not _NAME.fullmatch(schema.name):
        raise invalid(
            "response_format.json_schema.name", "it must be 1 to 64 letters, digits, underscores or dashes"
        )
    text = json.dumps(schema.schema if schema.schema is not None else {}, ensure_ascii=False)
    return [GrammarSource("response_format.json_schema.schema", "json_schema", text)]


def _guided(request: GenerationRequest) -> list[GrammarSource]:
    return _given(
        "guided_", request.guided_json, request.guided_regex, request.guided_choice, request.guided_grammar
    )


def _structured_outputs(request: GenerationRequest) -> list[GrammarSource]:
    outputs = request.structured_outputs
    if outputs is None:
        return []
    found = _given("structured_outputs.", outputs.json, outputs.regex, outputs.choice, outputs.grammar)
    if outputs.json_object:
        found.append(GrammarSource("structured_outputs.json_object", "json_object", ""))
    if not found:
        raise invalid(
            "structured_outputs", "it says nothing: give json, regex, choice, grammar or json_object"
        )
    return found


def _given(
    prefix: str, schema: object, regex: str | None, choice: list[str] | None, grammar: str | None
) -> list[GrammarSource]:
    found = []
    if schema is not None:
        found.append(_json(f"{prefix}json", schema))
    if regex is not None:
        found.append(GrammarSource(f"{prefix}regex", "regex", regex))
    if choice is not None:
        found.append(_choice(f"{prefix}choice", choice))
    if grammar is not None:
        found.append(GrammarSource(f"{prefix}grammar", "grammar", grammar))
    return found


def _json(param: str, value: object) -> GrammarSource:
    if isinstance(value, str):
        try:
            json.loads(value)
        except (ValueError, RecursionError) as error:
            raise RequestError(
                f"Invalid value for '{param}': it is a string, but no JSON: {str(error)[:100]}.",
                param=param,
                code="invalid_value",
            ) from None
        return GrammarSource(param, "json_schema", value)
    return GrammarSource(param, "json_schema", json.dumps(value, ensure_ascii=False))


def _choice(param: str, texts: list[str]) -> GrammarSource:
    if not 0 < len(texts) <= MAX_CHOICES:
        raise invalid(param, f"it has {len(texts)} entries, not 1 to {MAX_CHOICES}")
    return GrammarSource(param, "choice", json.dumps(texts, ensure_ascii=False))
