"""What a request's tools may be, and which of them the model may or must call."""

import re

from pagedc.runtime.server.json_body import quoted
from pagedc.runtime.server.limits import Limits
from pagedc.runtime.server.protocol import ChatCompletionRequest, Function, NamedToolChoice, Tool
from pagedc.runtime.server.refusals import invalid, refuse_others, unsupported

CHOICES = ("none", "auto", "required")
_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,64}")


def check_tools(request: ChatCompletionRequest, limits: Limits) -> None:
    """Refuse tools that cannot be offered, and a choice that is not among them."""
    tools, choice = request.tools, request.tool_choice
    if tools is not None:
        check_tool_list(tools, limits)
    if isinstance(choice, str) and choice not in CHOICES:
        raise invalid("tool_choice", f"{quoted(choice)} is none of {', '.join(CHOICES)}")
    if choice is not None and choice != "none" and not tools:
        raise invalid("tool_choice", "there are no tools to choose from")
    if isinstance(choice, NamedToolChoice):
        if choice.type != "function" or choice.function is None:
            raise unsupported("tool_choice.type", "the only type is 'function'")
        refuse_others(choice, ("type", "function"), "tool_choice")
        if choice.function.name not in [tool.function.name for tool in tools or () if tool.function]:
            raise invalid(
                "tool_choice.function.name", f"{quoted(choice.function.name)} is not among the tools"
            )


def check_tool_list(tools: list[Tool], limits: Limits) -> None:
    """Refuse tools of another type, too many of them, and names that no format could carry."""
    if not tools:
        raise invalid("tools", "it is empty")
    if len(tools) > limits.max_tools:
        raise invalid("tools", f"it has {len(tools)} entries, above {limits.max_tools}")
    names = set()
    for i, tool in enumerate(tools):
        if tool.type != "function" or tool.function is None:
            raise unsupported(f"tools[{i}].type", "the only type is 'function', with a function")
        refuse_others(tool, ("type", "function"), f"tools[{i}]")
        if not _NAME.fullmatch(tool.function.name):
            raise invalid(
                f"tools[{i}].function.name", "it must be 1 to 64 letters, digits, underscores, dots or dashes"
            )
        if tool.function.name in names:
            raise invalid(f"tools[{i}].function.name", f"{quoted(tool.function.name)} stands twice")
        names.add(tool.function.name)


def offered(request: ChatCompletionRequest) -> list[Function]:
    """The functions that the model is told of: none where none may be called."""
    if request.tools is None or request.tool_choice == "none":
        return []
    return [tool.function for tool in request.tools if tool.function is not None]


def required(request: ChatCompletionRequest) -> list[Function]:
    """The functions of which one must be called; empty where the model may just as well answer."""
    choice, functions = request.tool_choice, offered(request)
    if isinstance(choice, NamedToolChoice) and choice.function is not None:
        return [function for function in functions if function.name == choice.function.name]
    return functions if choice == "required" else []
