"""/v1/responses, as the chat request that it means; nothing is stored, so nothing earlier can be named."""

from typing import Any

import msgspec

from pagedc.runtime.server.json_body import quoted
from pagedc.runtime.server.protocol import (
    ChatCompletionRequest,
    ContentPart,
    Function,
    FunctionCall,
    FunctionName,
    JsonSchemaFormat,
    Message,
    NamedToolChoice,
    ResponseFormat,
    StreamOptions,
    Tool,
    ToolCall,
)
from pagedc.runtime.server.refusals import invalid, refuse_others, unsupported


class InputPart(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A part of an item: input_text, output_text, refusal, reasoning_text."""

    type: str
    text: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None  # what our own answers carry
    logprobs: list[Any] | None = None
    image_url: Any = None
    file_id: Any = None
    file_url: Any = None
    file_data: Any = None
    filename: Any = None
    detail: Any = None
    input_audio: Any = None


class InputItem(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A message, a function_call, a function_call_output or a reasoning."""

    type: str = "message"
    role: str | None = None
    content: str | list[InputPart] | None = None
    id: str | None = None
    status: str | None = None
    phase: str | None = None
    call_id: str | None = None
    name: str | None = None
    namespace: str | None = None
    caller: Any = None
    arguments: str | None = None
    output: str | list[InputPart] | None = None
    summary: list[Any] | None = None
    encrypted_content: str | None = None


class ResponseTool(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A function of the client; the hosted tools are refused."""

    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ResponseToolChoice(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The one function that must be called."""

    type: str
    name: str | None = None


class TextFormat(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """text, json_object or json_schema."""

    type: str
    name: str | None = None
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class TextOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The form of the text."""

    format: TextFormat | None = None
    verbosity: str | None = None


class ReasoningOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How much the model thinks aloud."""

    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None


class ResponsesRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """POST /v1/responses."""

    model: str
    input: str | list[InputItem]
    instructions: str | None = None
    max_output_tokens: int | None = None
    parallel_tool_calls: bool | None = None
    reasoning: ReasoningOptions | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    text: TextOptions | None = None
    tool_choice: str | ResponseToolChoice | None = None
    tools: list[ResponseTool] | None = None
    top_p: float | None = None
    truncation: str | None = None
    # Harmless: they do not change the answer.
    metadata: dict[str, str] | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    user: str | None = None
    include: list[str] | None = None
    store: bool | None = None
    # Known and refused by name.
    background: bool | None = None
    context_management: Any = None
    conversation: Any = None
    max_tool_calls: int | None = None
    moderation: Any = None
    previous_response_id: str | None = None
    prompt: Any = None
    prompt_cache_options: Any = None
    top_logprobs: int | None = None


# Of each item.
_FIELDS = {
    "message": ("role", "content", "phase"),
    "function_call": ("call_id", "name", "arguments"),
    "function_call_output": ("call_id", "output"),
    "reasoning": ("content", "summary", "encrypted_content"),
}


def chat_request(request: ResponsesRequest) -> ChatCompletionRequest:
    """The same as a chat request; raises RequestError for what it cannot mean."""
    _check(request)
    messages = [Message(role="system", content=request.instructions)] if request.instructions else []
    if isinstance(request.input, str):
        messages.append(Message(role="user", content=request.input))
    else:
        for i, item in enumerate(request.input):
            _add_item(messages, item, f"input[{i}]")
    return ChatCompletionRequest(
        model=request.model,
        messages=messages,
        max_completion_tokens=request.max_output_tokens,
        parallel_tool_calls=request.parallel_tool_calls,
        reasoning_effort=request.reasoning.effort if request.reasoning else None,
        response_format=_response_format(request.text),
        stream=request.stream,
        temperature=request.temperature,
        top_p=request.top_p,
        tools=[_tool(tool, f"tools[{i}]") for i, tool in enumerate(request.tools or [])] or None,
        tool_choice=_tool_choice(request.tool_choice),
        metadata=request.metadata,
    )


def _check(request: ResponsesRequest) -> None:
    stateless = "nothing is stored here: send the whole conversation as input"
    if request.store:
        raise unsupported("store", stateless)
    for name in ("previous_response_id", "conversation"):
        if getattr(request, name) is not None:
            raise unsupported(name, stateless)
    for name in (
        "background",
        "context_management",
        "max_tool_calls",
        "moderation",
        "prompt",
        "prompt_cache_options",
        "top_logprobs",
        "include",
    ):
        if getattr(request, name):
            raise unsupported(name)
    if request.truncation not in (None, "disabled"):
        raise unsupported("truncation", "it is 'disabled'")
    if request.text is not None and request.text.verbosity is not None:
        raise unsupported("text.verbosity")
    if request.stream_options is not None:
        if not request.stream:
            raise invalid("stream_options", "it needs stream to be true")
        if request.stream_options.include_obfuscation:
            raise unsupported("stream_options.include_obfuscation")
        if request.stream_options.include_usage is not None:
            raise unsupported("stream_options.include_usage", "the last event always has it")
    if request.reasoning is not None and (request.reasoning.summary or request.reasoning.generate_summary):
        raise unsupported("reasoning.summary", "reasoning is given as it is")


def _add_item(messages: list[Message], item: InputItem, where: str) -> None:
    if item.type in _FIELDS:
        refuse_others(item, ("type", "id", "status", *_FIELDS[item.type]), where)
    last = messages[-1] if messages else None
    if item.type == "message":
        if item.role is None or item.content is None:
            raise invalid(where, "a message has role and content")
        content = item.content if isinstance(item.content, str) else _parts(item.content, f"{where}.content")
        if last is not None and last.role == item.role == "assistant" and last.content is None:
            last.content = content  # its reasoning came before it
        else:
            messages.append(Message(role=item.role, content=content))
    elif item.type == "function_call":
        if item.call_id is None or item.name is None or item.arguments is None:
            raise invalid(where, "a function_call has call_id, name and arguments")
        if last is None or last.role != "assistant":
            messages.append(last := Message(role="assistant"))
        call = FunctionCall(name=item.name, arguments=item.arguments)
        last.tool_calls = [*(last.tool_calls or []), ToolCall(id=item.call_id, function=call)]
    elif item.type == "function_call_output":
        if item.call_id is None or item.output is None:
            raise invalid(where, "a function_call_output has call_id and output")
        output = item.output if isinstance(item.output, str) else _parts(item.output, f"{where}.output")
        messages.append(Message(role="tool", tool_call_id=item.call_id, content=output))
    elif item.type == "reasoning":
        if item.encrypted_content is not None or isinstance(item.content, str):
            raise unsupported(where, "reasoning comes as parts of plain text")
        if item.summary:
            raise unsupported(f"{where}.summary", "reasoning comes as content")
        text = "".join(part.text or "" for part in item.content or [])
        messages.append(Message(role="assistant", reasoning_content=text))
    else:
        raise unsupported(f"{where}.type", f"{quoted(item.type)} is no item that this server takes")


def _parts(parts: list[InputPart], where: str) -> list[ContentPart]:
    for i, part in enumerate(parts):
        if part.type not in ("input_text", "output_text"):
            raise unsupported(f"{where}[{i}].type", f"{quoted(part.type)} is no text")
        refuse_others(part, ("type", "text", "annotations", "logprobs"), f"{where}[{i}]")
    return [ContentPart(type="text", text=part.text) for part in parts]


def _response_format(text: TextOptions | None) -> ResponseFormat | None:
    if text is None or text.format is None:
        return None
    form = text.format
    if form.type != "json_schema":
        refuse_others(form, ("type",), "text.format")
        return ResponseFormat(type=form.type)
    schema = JsonSchemaFormat(
        name=form.name or "", description=form.description, schema=form.schema, strict=form.strict
    )
    return ResponseFormat(type=form.type, json_schema=schema)


def _tool(tool: ResponseTool, where: str) -> Tool:
    if tool.type != "function" or tool.name is None:
        raise unsupported(f"{where}.type", "a tool is a function with a name")
    function = Function(
        name=tool.name, description=tool.description, parameters=tool.parameters, strict=tool.strict
    )
    return Tool(type="function", function=function)


def _tool_choice(choice: str | ResponseToolChoice | None) -> str | NamedToolChoice | None:
    if not isinstance(choice, ResponseToolChoice):
        return choice
    if choice.type != "function" or choice.name is None:
        raise unsupported("tool_choice", "it names a function")
    return NamedToolChoice(type="function", function=FunctionName(name=choice.name))
