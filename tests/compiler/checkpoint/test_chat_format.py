import pytest

from pagedc.compiler.checkpoint.chat_format import reasoning_parser, tool_parser
from pagedc.runtime.tool_parsers.formats import REASONING_FORMATS, TOOL_FORMATS

# Lines out of the families' own templates.
TEMPLATES = [
    ('{{- \'\\n<tool_call>\\n{"name": "\' }}', "hermes", ""),
    ("{%- if '</think>' in content %}{{ '<tool_call>' }}", "hermes", "think"),
    ("{{- '<|start_header_id|>assistant<|end_header_id|>' }}{{- '<|python_tag|>' }}", "llama3", ""),
    ("{{- '[TOOL_CALLS] [' }}", "mistral", ""),
    ("{{- '[TOOL_CALLS]' + name + '[ARGS]' + arguments }}{{ '[/THINK]' }}", "mistral_args", "mistral"),
    ("{{'<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + tool['type']}}{{'</think>'}}", "deepseek", "think"),
    ("{{- '<|start|>assistant<|channel|>final<|message|>' }}", "harmony", ""),
    ("{{ '<start_function_call>call:' + name }}", "gemma", ""),
    ("{%- if tools %}{{ '<|start_of_role|>' + '<|tool_call|>' }}", "granite", ""),
    ("{{ '<|tool|>' + message['tools'] + '<|/tool|>' }}", "phi", ""),
    ("{% if tools %}{{ tools | tojson }}{% endif %}", "json", ""),
    ("{{ message['content'] }}", "", ""),
]


@pytest.mark.parametrize(("template", "tools", "reasoning"), TEMPLATES)
def test_a_template_shows_its_formats(template: str, tools: str, reasoning: str) -> None:
    files = {"chat_template.jinja": template.encode()}
    assert (tool_parser(files), reasoning_parser(files)) == (tools, reasoning)
    assert tools in {"", *TOOL_FORMATS}
    assert reasoning in {"", *REASONING_FORMATS}


def test_without_a_template_there_is_none() -> None:
    assert tool_parser({}) == reasoning_parser({}) == ""
