import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pagedc.runtime.chat_template import ChatTemplate
from pagedc.runtime.errors import PackageError, RequestError

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# What of Hugging Face's environment templates rely on, all in one.
EVERYTHING = """\
{{ bos_token }}
{%- set state = namespace(count=0) %}
{%- macro show(message, loop) %}
    {{- loop.index }}: {{ message.content | trim }}
    {%- if message.tool_calls is defined %}{{ message.tool_calls | tojson }}{% endif %}
{% endmacro %}
{%- for message in messages %}
    {%- if message.role == 'system' %}
        {%- continue %}
    {%- endif %}
    {%- if message.role == 'end' %}
        {%- break %}
    {%- endif %}
    {%- set state.count = state.count + 1 %}
    {%- generation %}
    {{- show(message, loop) }}
    {%- endgeneration %}
{%- endfor %}
{% if tools %}
  {% for tool in tools %}
    {{ tool | tojson(indent=2) }}
  {% endfor %}
{% endif %}
{{ state.count }} {{ dict(a=1).items() | list }} {{ missing }}
{{ strftime_now('%Y') | length }} {{ thinking }}
"""
MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "ignored"},
    {"role": "user", "content": "  <b>Grüße</b> & 'quotes' \U0001f600 "},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"name": "ä<", "arguments": {"x": [1, 2.5, None, True]}}],
    },
    {"role": "end", "content": "never seen"},
]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]


@pytest.fixture
def make() -> Iterator[Any]:
    made: list[ChatTemplate] = []

    def make(template: str, **limits: Any) -> ChatTemplate:
        made.append(ChatTemplate({"default": template}, {"bos_token": "<s>"}, **limits))
        return made[-1]

    yield make
    for template in made:
        template.close()


def refusal(template: ChatTemplate, **variables: Any) -> str:
    with pytest.raises(RequestError) as caught:
        template.render([{"role": "user", "content": "Hello"}], **variables)
    assert caught.value.code == "chat_template_error"
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_chatml(make: Any) -> None:
    template = make(CHATML)
    messages = [{"role": "user", "content": "Hello"}]
    assert template.render(messages) == "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    assert template.render(messages, add_generation_prompt=False) == "<|im_start|>user\nHello<|im_end|>\n"


@pytest.mark.parametrize("tools", [None, TOOLS])
@pytest.mark.parametrize("template", [CHATML, EVERYTHING])
def test_renders_what_hugging_face_renders(make: Any, template: str, tools: Any) -> None:
    reference = pytest.importorskip("transformers.utils.chat_template_utils")
    for variables in ({}, {"thinking": True}, {"add_generation_prompt": False}):
        given = {"bos_token": "<s>", "add_generation_prompt": True} | variables
        (expected,), _ = reference.render_jinja_template(
            [MESSAGES], tools=tools, chat_template=template, **given
        )
        assert make(template).render(MESSAGES, tools=tools, **variables) == expected


@pytest.mark.parametrize("last", ["Sure, ", "Sure", [{"type": "text", "text": "Sure,  "}]])
@pytest.mark.parametrize(
    "template", [CHATML, CHATML.replace("message['content']", "(message['content'] | trim)")]
)
def test_continues_the_final_message_as_hugging_face_does(make: Any, template: str, last: Any) -> None:
    reference = pytest.importorskip("transformers.utils.chat_template_utils")
    if not isinstance(last, str):
        template = "{{ messages[-1].content[0].text }}<end>"
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": last}]
    given = {"continue_final_message": True, "add_generation_prompt": False}
    (expected,), _ = reference.render_jinja_template(
        [json.loads(json.dumps(messages))], chat_template=template + "{# content #}", **given
    )
    assert make(template).render(messages, **given) == expected
    assert messages[-1]["content"] == last


def test_a_final_message_that_cannot_be_continued(make: Any) -> None:
    assert "leaves out the last message" in refusal(make("{{ 1 }}"), continue_final_message=True)
    with pytest.raises(RequestError, match="no text that could be continued"):
        make(CHATML).render([{"role": "assistant", "content": None}], continue_final_message=True)


def test_what_the_template_says_reaches_the_client(make: Any) -> None:
    assert "roles must alternate" in refusal(make("{{ raise_exception('roles must\n alternate') }}"))


@pytest.mark.parametrize(
    "source",
    [
        "{% for x in",
        "{{ messages[0].content + 1 }}",
        "{{ nothing.at.all }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ namespace(__class__=1) }}",
        "{% set n = namespace() %}{% set n.__init__ = 1 %}",
        "{{ cycler.__init__.__globals__ }}",
        "{% include 'x' %}",
        "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
        "{{ 1 // 0 }}",
    ],
)
def test_an_error_in_the_template_is_one_line(make: Any, source: str) -> None:
    template = make(source)
    refusal(template)
    refusal(template)


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(80) }}",
        "{{ 9 ** (9 ** 9) }}",
        "{{ messages[0].n ** messages[0].n ** messages[0].n }}",
    ],
)
def test_an_endless_template_is_stopped(make: Any, source: str) -> None:
    template = make(source, time_limit=0.2)
    with pytest.raises(RequestError, match=r"takes longer than 0\.2 s"):
        template.render([{"role": "user", "content": "Hello", "n": 99999}])
    good = ChatTemplate({"default": CHATML}, {})
    template.templates["default"] = CHATML  # a new process serves the next rendering
    messages = [{"role": "user", "content": "Hello"}]
    assert template.render(messages) == good.render(messages)
    good.close()


def test_time_that_a_busy_machine_takes_is_not_the_templates(make: Any) -> None:
    template = make(CHATML, time_limit=0.2)
    messages = [{"role": "user", "content": "Hello"}]
    expected = template.render(messages)
    pid = template._worker._process.pid
    os.kill(pid, signal.SIGSTOP)
    later = threading.Timer(0.5, os.kill, (pid, signal.SIGCONT))
    later.start()
    assert template.render(messages) == expected
    later.join()


@pytest.mark.parametrize(
    "source",
    [
        "{% set n = namespace(x='a' * 1024) %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "{{ messages[0].content * 10 ** 12 }}",
        "{{ '%1000000000000d' | format(1) }}",
    ],
)
def test_memory_is_limited(make: Any, source: str) -> None:
    reason = refusal(make(source, time_limit=20))
    assert "more than 512 MiB of memory" in reason or "OverflowError" in reason


def test_output_is_limited(make: Any) -> None:
    template = make("{% for i in range(200) %}{{ messages[0].content }}{% endfor %}", max_output=999)
    assert "makes more than 999 characters" in refusal(template)
    assert len(make(CHATML, max_output=999).render([{"role": "user", "content": "x" * 900}])) > 900


def test_what_cannot_be_sent_is_refused(make: Any) -> None:
    template = make(CHATML)
    for bad in ("\ud800", object()):
        with pytest.raises(RequestError, match="cannot be given to it"):
            template.render([{"role": "user", "content": bad}])
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(RequestError):
        template.render([{"role": "user", "content": nested}])


def test_many_threads_get_their_own_answers(make: Any) -> None:
    template = make(CHATML)
    template.warm_up()
    answers: dict[int, str] = {}

    def ask(i: int) -> None:
        answers[i] = template.render([{"role": "user", "content": str(i)}])

    threads = [threading.Thread(target=ask, args=[i]) for i in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(f"user\n{i}<|im_end|>" in answers[i] for i in range(20))


def write(directory: Path, name: str, content: Any) -> None:
    directory.mkdir(exist_ok=True)
    (directory / name).write_text(content if isinstance(content, str) else json.dumps(content))


def test_opens_what_a_package_holds(tmp_path: Path) -> None:
    assert ChatTemplate.open(tmp_path) is None
    config: dict[str, Any] = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "add_bos_token": True}
    write(
        tmp_path,
        "tokenizer_config.json",
        config | {"chat_template": "in config {{ bos_token }}{{ add_bos_token }}"},
    )
    template = ChatTemplate.open(tmp_path)
    assert template is not None
    assert template.render([]) == "in config <s>"
    template.close()
    write(tmp_path, "chat_template.jinja", "in file {{ eos_token }}")
    template = ChatTemplate.open(tmp_path)
    assert template is not None
    assert template.render([]) == "in file </s>"
    template.close()


def test_a_template_for_tools(tmp_path: Path) -> None:
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]
    write(tmp_path, "tokenizer_config.json", {"chat_template": named})
    template = ChatTemplate.open(tmp_path)
    assert template is not None
    assert (template.render([]), template.render([], tools=TOOLS)) == ("plain", "tools")
    template.close()


def test_a_broken_configuration(tmp_path: Path) -> None:
    write(tmp_path, "tokenizer_config.json", "{")
    with pytest.raises(PackageError, match="not JSON"):
        ChatTemplate.open(tmp_path)
