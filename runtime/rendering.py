"""What is said to the process that renders chat templates, as JSON: it imports nothing to read that."""

from typing import Any, NamedTuple


class Render(NamedTuple):
    """Render a chat template with these variables."""

    template: str
    variables: dict[str, Any]
    max_output: int  # characters


class Rendered(NamedTuple):
    """The text, or one line that says why there is none."""

    text: str | None
    error: str = ""
