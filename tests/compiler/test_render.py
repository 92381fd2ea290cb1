import jinja2
import pytest

from pagedc.compiler.render import environment


def test_templates_are_found() -> None:
    assert {"package/serve.jinja", "package/README.md.jinja"} <= set(environment().list_templates())


def test_undefined_names_are_errors() -> None:
    with pytest.raises(jinja2.UndefinedError):
        environment().from_string("{{ missing }}").render()


def test_blocks_leave_no_lines_and_the_last_newline_stays() -> None:
    template = environment().from_string("a\n  {% if true %}\nb < c\n  {% endif %}\n")
    assert template.render() == "a\nb < c\n"
