"""Messages and tools as a chat template wants them, and what else a request gives to it."""

import json
from typing import Any

import msgspec

from pagedc.runtime.chat_template import ChatTemplate
from pagedc.runtime.server.json_body import quoted
from pagedc.runtime.server.limits import Limits
from pagedc.runtime.server.protocol import ChatTemplateFields, ContentPart, Message, ToolCall
from pagedc.runtime.server.refusals import invalid, refuse_others, unsupported

ROLES = ("system", "developer", "user", "assistant", "tool")
MAX_INT32 = 2**31 - 1
# What only the server gives to a template, or to whoever renders it.
RESERVED_VARIABLES = (
    "add_generation_prompt",
    "bos_token",
    "chat_template",
    "continue_final_message",
    "documents",
    "eos_token",
    "messages",
    "self",
    "template",
    "tokenize",
    "tools",
)
TOOLS_PROMPT = (
    'You may call functions. To call one, answer with nothing but {"name": ..., "arguments": {...}}. '
    "These are the functions:\n"
)
_REFUSED = ("function_call", "refusal", "audio", "annotations")


def check_template_fields(request: ChatTemplateFields, messages: list[Message], limits: Limits) -> bool:
    """Check how messages are to be rendered; returns whether the template opens the assistant's turn."""
    opens = request.add_generation_prompt
    if request.continue_final_message:
        if opens:
            raise invalid("continue_final_message", "it excludes add_generation_prompt")
        if messages[-1].role != "assistant":
            raise invalid("continue_final_message", "the last message must be the assistant's")
        opens = False
    kwargs = request.chat_template_kwargs or {}
    if len(kwargs) > limits.max_template_kwargs:
        raise invalid(
            "chat_template_kwargs", f"it has {len(kwargs)} entries, above {limits.max_template_kwargs}"
        )
    for name, value in kwargs.items():
        if not name.isidentifier() or name.startswith("_") or len(name) > 64 or name in RESERVED_VARIABLES:
            raise invalid("chat_template_kwargs", f"{quoted(name)} is not a name that may be given")
        if not isinstance(value, str | int | float | bool | None):
            raise invalid(
                f"chat_template_kwargs.{name}", "it must be a string, a number, true, false or null"
            )
        if isinstance(value, str) and len(value) > 1024:
            raise invalid(f"chat_template_kwargs.{name}", "it is longer than 1024 characters")
        if isinstance(value, int | float) and abs(value) > MAX_INT32:
            raise invalid(f"chat_template_kwargs.{name}", "it is out of range")
    return True if opens is None else opens


def template_tools(request: ChatTemplateFields) -> list[dict[str, Any]]:
    """The tools as a chat template wants them: none where none may be called."""
    if request.tools is None or getattr(request, "tool_choice", None) == "none":
        return []
    tools: list[dict[str, Any]] = msgspec.to_builtins(request.tools)
    return tools


def describe_tools(messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages with the tools described in the system's: for a template that knows of no tools."""
    lines = [json.dumps(tool["function"], ensure_ascii=False) for tool in tools]
    text = TOOLS_PROMPT + "\n".join(lines)
    if messages[0]["role"] == "system":
        return [{**messages[0], "content": f"{messages[0]['content']}\n\n{text}"}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]


def effort_variables(request: ChatTemplateFields, template: ChatTemplate) -> dict[str, Any]:
    """What `reasoning_effort` sets in a template; raises RequestError if it knows neither of two ways."""
    effort = getattr(request, "reasoning_effort", None)
    if effort is None:
        return {}
    if template.mentions("reasoning_effort"):
        return {"reasoning_effort": effort}
    for name in ("enable_thinking", "thinking"):
        if template.mentions(name):
            return {name: effort != "none"}
    raise unsupported("reasoning_effort", "this model's chat template has no use for it")


def template_messages(messages: list[Message], limits: Limits) -> list[dict[str, Any]]:
    """The messages as a chat template wants them: each content one string."""
    if not messages:
        raise invalid("messages", "it is empty")
    if len(messages) > limits.max_messages:
        raise invalid("messages", f"it has {len(messages)} entries, above {limits.max_messages}")
    rendered = [_template_message(message, f"messages[{i}]", limits) for i, message in enumerate(messages)]
    names: dict[
        str, str
    ] = {}  # of functions, by the id of their call: some templates want it beside a result
    for each in rendered:
        for call in each.get("tool_calls", ()):
            names[call["id"]] = call["function"]["name"]
        if each["role"] == "tool" and each["tool_call_id"] in names:
            each.setdefault("name", names[each["tool_call_id"]])
    return rendered


def _template_message(message: Message, where: str, limits: Limits) -> dict[str, Any]:
    if message.role not in ROLES:
        raise invalid(f"{where}.role", f"{quoted(message.role)} is none of {', '.join(ROLES)}")
    for name in _REFUSED:
        if getattr(message, name):
            raise unsupported(f"{where}.{name}")
    if message.tool_calls and message.role != "assistant":
        raise invalid(f"{where}.tool_calls", "only the assistant's messages may have it")
    if message.content is None and not message.tool_calls:
        raise invalid(f"{where}.content", "it is missing")
    if message.role == "tool" and message.tool_call_id is None:
        raise invalid(f"{where}.tool_call_id", "a tool's message needs it")
    content = message.content if message.content is not None else ""
    if not isinstance(content, str):
        content = _join_parts(content, f"{where}.content", limits)
    # Templates know the older name of the developer's role.
    rendered: dict[str, Any] = {
        "role": "system" if message.role == "developer" else message.role,
        "content": content,
    }
    for name in ("name", "tool_call_id", "reasoning_content"):
        if (value := getattr(message, name)) is not None:
            rendered[name] = value
    if message.reasoning is not None and message.reasoning_content is None:
        rendered["reasoning_content"] = message.reasoning
    if message.tool_calls:
        if len(message.tool_calls) > limits.max_tools:
            raise invalid(f"{where}.tool_calls", f"it has more than {limits.max_tools} entries")
        rendered["tool_calls"] = [
            _template_call(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(message.tool_calls)
        ]
    return rendered


def _template_call(call: ToolCall, where: str) -> dict[str, Any]:
    """A call with its arguments as an object: templates write them in their own way."""
    if call.type != "function" or call.function is None:
        raise unsupported(f"{where}.type", "the only type is 'function'")
    refuse_others(call, ("id", "type", "function", "index"), where)
    try:
        arguments = json.loads(call.function.arguments or "{}")
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise invalid(f"{where}.function.arguments", "it is not the text of a JSON object")
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.function.name, "arguments": arguments},
    }


def _join_parts(parts: list[ContentPart], where: str, limits: Limits) -> str:
    if not parts:
        raise invalid(where, "it is empty")
    if len(parts) > limits.max_content_parts:
        raise invalid(where, f"it has {len(parts)} parts, above {limits.max_content_parts}")
    for i, part in enumerate(parts):
        if part.type != "text":
            raise unsupported(f"{where}[{i}].type", f"{quoted(part.type)} is not 'text'")
        if part.text is None:
            raise invalid(f"{where}[{i}].text", "it is missing")
        refuse_others(part, ("type", "text"), f"{where}[{i}]")
    return "\n".join(part.text for part in parts if part.text is not None)
