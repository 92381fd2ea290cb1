"""Every bound of the HTTP side, in one place: what a request may hold, and how many may run."""

from dataclasses import dataclass

from pagedc.runtime.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds in bytes, seconds or counts; `pagedc serve` sets those that have an option."""

    max_body_bytes: int = 4 << 20
    max_header_bytes: int = 16 << 10
    max_connections: int = 1024
    max_waiting: int = 256  # sequences beyond those that the engine runs at once
    keep_alive_timeout: float = 75.0  # seconds a connection may idle, and a request's head may take
    body_timeout: float = 30.0  # seconds a request's body may take
    write_timeout: float = 60.0  # seconds a client may leave a stream unread
    drain_timeout: float = 30.0  # seconds that running requests get after SIGTERM

    max_prompts: int = 128
    max_sequences: int = 256  # prompts times n of one request
    max_messages: int = 2048
    max_content_parts: int = 1024
    max_stop: int = 16
    max_stop_len: int = 1024  # characters
    max_stop_token_ids: int = 256
    max_salt_len: int = 1024
    max_template_kwargs: int = 32
    max_metadata: int = 16
    max_tools: int = 128
    max_grammar_len: int = 128 << 10  # characters

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if value < 0 or (value == 0 and name not in ("max_waiting", "drain_timeout")):
                raise UsageError(f"{name} is {value}, which is too small")
