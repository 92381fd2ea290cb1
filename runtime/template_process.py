"""The process that renders chat templates: `run_module pagedc.runtime.template_process FD SECONDS`.

It has limits on memory and time and writes no files. Nothing is imported here but Jinja2: a chat that waits
for a server's start waits for these imports.
"""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pagedc.runtime.rendering import Render, Rendered
from pagedc.runtime.worker_process import answer_all

MEMORY_BYTES = 512 << 20  # of address space, some 40 MiB of it Python and Jinja2


def main() -> int:
    """Answer until the parent hangs up; returns the exit code."""
    environment = make_environment()
    compiled: dict[str, jinja2.Template] = {}
    return answer_all(
        lambda content: json.dumps(render(environment, compiled, Render(*json.loads(content)))).encode(),
        MEMORY_BYTES,
    )


def render(
    environment: jinja2.Environment, compiled: dict[str, jinja2.Template], request: Render
) -> Rendered:
    """Render, keeping compiled templates in `compiled`; any error of the template becomes a Rendered."""
    try:
        template = compiled.get(request.template)
        if template is None:
            template = compiled[request.template] = environment.from_string(request.template)
        pieces, num_chars = [], 0
        for piece in template.generate(request.variables):
            pieces.append(piece)
            num_chars += len(piece)
            if num_chars > request.max_output:
                return Rendered(None, f"it makes more than {request.max_output} characters")
        return Rendered("".join(pieces))
    except MemoryError:
        return Rendered(None, f"it takes more than {MEMORY_BYTES >> 20} MiB of memory")
    except RecursionError:
        return Rendered(None, "it is nested too deeply")
    except jinja2.TemplateError as error:
        return Rendered(None, _one_line(error))
    except Exception as error:  # whatever a template brings about is its own fault
        return Rendered(None, f"{type(error).__name__}: {_one_line(error)}")


def make_environment() -> ImmutableSandboxedEnvironment:
    """What Hugging Face gives a chat template to work with, and nothing more."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda format: datetime.now().strftime(format)
    environment.globals["dict"] = _Dict()
    environment.globals["namespace"] = _Namespace
    return environment


class _GenerationTag(jinja2.ext.Extension):
    """`{% generation %}` marks what the assistant wrote, for training; here its body is just rendered."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: "jinja2.parser.Parser") -> jinja2.nodes.Node:
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_render"), [], [], body).set_lineno(lineno)

    def _render(self, caller: Callable[[], str]) -> str:
        return caller()


class _Dict:
    """`dict` for templates: an instance, so that no type can be reached through it."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Namespace(jinja2.utils.Namespace):
    """`namespace` for templates, which stores no name that Python uses for its own purposes."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        for name in dict(*args[1:], **kwargs):
            _check_name(name)
        jinja2.utils.Namespace.__init__(*args, **kwargs)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace holds no name like {name!r}")


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    # Jinja2's own escapes HTML.
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500]
