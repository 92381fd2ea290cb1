"""POST /v1/messages in Anthropic's form, as the chat request that it means."""

import json
from typing import Any

import msgspec

from pagedc.runtime.server.json_body import quoted
from pagedc.runtime.server.protocol import (
    ChatCompletionRequest,
    ContentPart,
    Function,
    FunctionCall,
    FunctionName,
    Message,
    NamedToolChoice,
    Tool,
    ToolCall,
)
from pagedc.runtime.server.refusals import invalid, refuse_others, unsupported


class Block(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A part of a message: text, tool_use, tool_result or thinking."""

    type: str
    text: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: "str | list[Block] | None" = None
    is_error: bool | None = None
    thinking: str | None = None
    signature: str | None = None
    cache_control: Any = None  # harmless: equal prefixes are found by themselves
    citations: Any = None
    source: Any = None
    caller: Any = None


class Turn(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One message."""

    role: str
    content: str | list[Block]


class MessageTool(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A tool of the client."""

    name: str
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    type: str | None = None
    strict: bool | None = None
    cache_control: Any = None


class MessageToolChoice(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """auto, any, tool or none."""

    type: str
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Whether the model thinks aloud first."""

    type: str
    budget_tokens: int | None = None
    display: str | None = None


class MessageMetadata(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Harmless."""

    user_id: str | None = None


class CountTokensRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """POST /v1/messages/count_tokens."""

    model: str
    messages: list[Turn]
    system: str | list[Block] | None = None
    tools: list[MessageTool] | None = None
    tool_choice: MessageToolChoice | None = None
    thinking: Thinking | None = None


class MessagesRequest(CountTokensRequest, kw_only=True, forbid_unknown_fields=True):
    """POST /v1/messages."""

    max_tokens: int
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop_sequences: list[str] | None = None
    metadata: MessageMetadata | None = None
    service_tier: str | None = None


# Of each block.
_FIELDS = {
    "text": ("text", "citations"),
    "tool_use": ("id", "name", "input"),
    "tool_result": ("tool_use_id", "content", "is_error"),
    "thinking": ("thinking", "signature"),
}


def chat_request(request: CountTokensRequest) -> ChatCompletionRequest:
    """The same as a chat request; raises RequestError for what it cannot mean."""
    messages = _system(request.system)
    for i, turn in enumerate(request.messages):
        messages += _turn(turn, f"messages[{i}]")
    chat = ChatCompletionRequest(model=request.model, messages=messages)
    chat.tools = [_tool(tool, f"tools[{i}]") for i, tool in enumerate(request.tools or [])] or None
    if request.tool_choice is not None:
        chat.tool_choice = _tool_choice(request.tool_choice)
        if request.tool_choice.disable_parallel_tool_use:
            chat.parallel_tool_calls = False
    if request.thinking is not None:
        if request.thinking.type != "disabled":
            raise unsupported("thinking", "a model thinks as its template has it; it is 'disabled'")
        refuse_others(request.thinking, ("type",), "thinking")
        chat.chat_template_kwargs = {"enable_thinking": False}
    if isinstance(request, MessagesRequest):
        chat.max_tokens = request.max_tokens
        chat.stream = request.stream
        chat.temperature, chat.top_p, chat.top_k = request.temperature, request.top_p, request.top_k
        chat.stop = request.stop_sequences or None
    return chat


def _system(system: str | list[Block] | None) -> list[Message]:
    if not system:
        return []
    content = system if isinstance(system, str) else _texts(system, "system")
    return [Message(role="system", content=content)]


def _turn(turn: Turn, where: str) -> list[Message]:
    if turn.role not in ("user", "assistant"):
        raise invalid(f"{where}.role", f"{quoted(turn.role)} is neither user nor assistant")
    if isinstance(turn.content, str):
        return [Message(role=turn.role, content=turn.content)]
    results: list[Message] = []
    message = Message(role=turn.role)
    texts: list[Block] = []
    for i, block in enumerate(turn.content):
        place = f"{where}.content[{i}]"
        if block.type in _FIELDS:
            refuse_others(block, ("type", "cache_control", *_FIELDS[block.type]), place)
        if block.type == "text":
            texts.append(block)
        elif block.type == "tool_result" and turn.role == "user":
            results.append(_tool_result(block, place))
        elif block.type == "tool_use" and turn.role == "assistant":
            message.tool_calls = [*(message.tool_calls or []), _tool_use(block, place)]
        elif block.type == "thinking" and turn.role == "assistant":
            message.reasoning_content = (message.reasoning_content or "") + (block.thinking or "")
        else:
            raise unsupported(f"{place}.type", f"{quoted(block.type)} in a message of the {turn.role}")
    if texts or not (results or message.tool_calls):
        message.content = _texts(texts, f"{where}.content")
    elif not message.tool_calls:
        return results
    return [*results, message]


def _texts(blocks: list[Block], where: str) -> list[ContentPart]:
    parts = []
    for i, block in enumerate(blocks):
        if block.type != "text":
            raise unsupported(f"{where}[{i}].type", f"{quoted(block.type)} is not 'text'")
        refuse_others(block, ("type", "text", "cache_control", "citations"), f"{where}[{i}]")
        if block.citations:
            raise unsupported(f"{where}[{i}].citations")
        parts.append(ContentPart(type="text", text=block.text))
    return parts


def _tool_use(block: Block, where: str) -> ToolCall:
    if block.id is None or block.name is None or block.input is None:
        raise invalid(where, "a tool_use has id, name and input")
    return ToolCall(id=block.id, function=FunctionCall(name=block.name, arguments=json.dumps(block.input)))


def _tool_result(block: Block, where: str) -> Message:
    if block.tool_use_id is None:
        raise invalid(f"{where}.tool_use_id", "it is missing")
    content = block.content or ""
    if not isinstance(content, str):
        content = "\n".join(part.text or "" for part in _texts(content, f"{where}.content"))
    if block.is_error:
        content = f"Error: {content}"
    return Message(role="tool", tool_call_id=block.tool_use_id, content=content)


def _tool(tool: MessageTool, where: str) -> Tool:
    if tool.type not in (None, "custom"):
        raise unsupported(f"{where}.type", f"{quoted(tool.type)} is a tool of another server")
    function = Function(
        name=tool.name, description=tool.description, parameters=tool.input_schema, strict=tool.strict
    )
    return Tool(type="function", function=function)


def _tool_choice(choice: MessageToolChoice) -> str | NamedToolChoice:
    if choice.type == "tool":
        if choice.name is None:
            raise invalid("tool_choice.name", "it is missing")
        return NamedToolChoice(type="function", function=FunctionName(name=choice.name))
    names = {"auto": "auto", "any": "required", "none": "none"}
    if choice.type not in names:
        raise invalid("tool_choice.type", f"{quoted(choice.type)} is none of auto, any, tool, none")
    return names[choice.type]
