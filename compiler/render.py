"""The Jinja2 environment of everything that is emitted."""

from jinja2 import Environment, PackageLoader, StrictUndefined


def environment() -> Environment:
    """Templates of `pagedc.templates`; an undefined name is an error and output is deterministic."""
    return Environment(
        loader=PackageLoader("pagedc.templates", ""),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # what is printed is source code and Markdown, never HTML of a stranger's text
    )
