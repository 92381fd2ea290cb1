"""Render a package's chat template with the semantics of Hugging Face, and with limits.

A template is a program of whoever made the package. It runs in Jinja2's immutable sandbox, in a process of
its own with limits on memory and time. Nothing less stops every template: a loop can be counted from inside,
but not `'a' * 10**10`, a regular expression or what the optimiser computes while it compiles.
"""

import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from pagedc.runtime.errors import PackageError, RequestError
from pagedc.runtime.frames import FrameError
from pagedc.runtime.rendering import Render, Rendered
from pagedc.runtime.worker import Worker

_MODULE = "pagedc.runtime.template_process"
_CONTINUE_TAG = "CONTINUE_FINAL_MESSAGE_TAG "
_REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")


class ChatTemplate:
    """The chat template of a package; the process starts with the first rendering, or with `warm_up`.

    >>> template = ChatTemplate.open(package.tokenizer_path)   # None if the package has no chat template
    >>> template.render([{"role": "user", "content": "Hello"}])
    """

    def __init__(
        self,
        templates: Mapping[str, str],  # "default", and perhaps "tool_use"
        variables: Mapping[str, Any],  # of every rendering: bos_token, eos_token, …
        *,
        time_limit: float = 2.0,  # seconds of processor time
        max_output: int = 4 << 20,  # characters
    ) -> None:
        self.templates = dict(templates)
        self._variables = dict(variables)
        self._time_limit = time_limit
        self._max_output = max_output
        self._lock = threading.Lock()
        self._worker: Worker | None = None

    @classmethod
    def open(
        cls, directory: Path, *, time_limit: float = 2.0, max_output: int = 4 << 20
    ) -> "ChatTemplate | None":
        """Of a package's tokenizer directory; `time_limit` in seconds, `max_output` in characters."""
        config = _read_json(directory / "tokenizer_config.json")
        templates = _read_templates(directory, config)
        if not templates:
            return None
        return cls(templates, _special_tokens(config), time_limit=time_limit, max_output=max_output)

    def mentions(self, name: str) -> bool:
        """Whether a variable of this name is read by any of the templates."""
        return any(re.search(rf"\b{re.escape(name)}\b", text) for text in self.templates.values())

    def warm_up(self) -> None:
        """Start the process without waiting for it."""
        with self._lock:
            if self._worker is not None and not self._worker.is_alive:
                self._drop()
            if self._worker is None:
                self._worker = Worker(_MODULE, self._time_limit)

    def render(
        self,
        messages: Sequence[dict[str, Any]],
        *,
        tools: Sequence[dict[str, Any]] | None = None,
        documents: Sequence[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        **variables: Any,
    ) -> str:
        """The prompt as text. Blocks and is thread-safe.

        With `continue_final_message` it ends within the last message, for the model to go on. Raises
        RequestError: raise_exception of the template, an error in it, or a limit exceeded. Most callers want
        Tokenizer.encode_chat, which also keeps messages from forging control tokens.
        """
        name = "tool_use" if tools is not None and "tool_use" in self.templates else "default"
        prepared = [_with_reasoning_fields(message) for message in messages]
        if continue_final_message:
            _tag_final_message(prepared)
        arguments = {
            **self._variables,
            **variables,
            "messages": prepared,
            "tools": tools,
            "documents": documents,
            "add_generation_prompt": add_generation_prompt,
        }
        text = self._ask(Render(self.templates[name], arguments, self._max_output))
        return _cut_at_tag(text) if continue_final_message else text

    def close(self) -> None:
        """End the process; safe to call twice."""
        with self._lock:
            if self._worker is not None:
                self._worker.kill()
                self._worker = None

    def _ask(self, request: Render) -> str:
        try:
            data = msgspec.json.encode(request)
        except (OverflowError, TypeError, UnicodeEncodeError, RecursionError) as error:
            raise _refusal(f"the messages cannot be given to it: {error}") from None
        with self._lock:
            if self._worker is not None and not self._worker.is_alive:
                self._drop()
            if self._worker is None:
                self._worker = Worker(_MODULE, self._time_limit)
            try:
                answer = self._worker.ask(data)
                rendered = msgspec.json.decode(answer, type=Rendered)
            except TimeoutError:
                self._drop()
                raise _refusal(f"it takes longer than {self._time_limit:g} s") from None
            except (OSError, FrameError, msgspec.MsgspecError) as error:
                self._drop()
                raise _refusal(f"its process died: {error}") from None
            except BaseException:
                self._drop()  # its answer would be taken for the next one's
                raise
        if rendered.text is None:
            raise _refusal(rendered.error)
        return rendered.text

    def _drop(self) -> None:
        if self._worker is not None:
            self._worker.kill()
            self._worker = None


def _refusal(reason: str) -> RequestError:
    return RequestError(f"the chat template refuses these messages: {reason}", code="chat_template_error")


def _read_templates(directory: Path, config: dict[str, Any]) -> dict[str, str]:
    path = directory / "chat_template.jinja"
    if path.exists():
        templates = {"default": path.read_text()}
        for extra in sorted((directory / "additional_chat_templates").glob("*.jinja")):
            templates[extra.stem] = extra.read_text()
        return templates
    template = config.get("chat_template")
    if isinstance(template, str):
        return {"default": template}
    if isinstance(template, list):
        named = {entry["name"]: entry["template"] for entry in template}
        return named if "default" in named else {}
    return {}


def _special_tokens(config: dict[str, Any]) -> dict[str, Any]:
    """bos_token and its like, as Hugging Face gives them to a template."""
    tokens: dict[str, Any] = {}
    for name, value in config.items():
        if not name.endswith("_token") or name.startswith(("add_", "use_")):
            continue
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str):
            tokens[name] = text
    return tokens


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PackageError(f"{path}: not JSON: {error}; compile the package again") from None


def _with_reasoning_fields(message: dict[str, Any]) -> dict[str, Any]:
    """Reasoning goes by several names; templates read the first, gpt-oss's the second."""
    reasoning = next((message[name] for name in _REASONING_FIELDS if message.get(name) is not None), None)
    if reasoning is None:
        return message
    return {"thinking": reasoning, **message, "reasoning_content": reasoning}


def _tag_final_message(messages: list[dict[str, Any]]) -> None:
    content = messages[-1].get("content") if messages else None
    if isinstance(content, str):
        messages[-1] = {**messages[-1], "content": content + _CONTINUE_TAG}
        return
    parts = list(content) if isinstance(content, list) else []
    for i in reversed(range(len(parts))):
        if isinstance(parts[i], dict) and isinstance(parts[i].get("text"), str):
            parts[i] = {**parts[i], "text": parts[i]["text"] + _CONTINUE_TAG}
            messages[-1] = {**messages[-1], "content": parts}
            return
    raise _refusal("the last message has no text that could be continued")


def _cut_at_tag(text: str) -> str:
    position = text.rfind(_CONTINUE_TAG.strip())
    if position < 0:
        raise _refusal("it leaves out the last message, which so cannot be continued")
    cut = text[:position]
    # Where the template trimmed the tag's space it trimmed the message's too.
    return cut if text.startswith(_CONTINUE_TAG, position) else cut.rstrip()
