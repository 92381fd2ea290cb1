"""Every error of the runtime, one tree:

PagedcError                exit_code 1
├── UsageError             exit_code 2   a wrong option or argument
├── PackageError           exit_code 4   cannot be opened: corrupt, tampered, of another schema or machine
├── OutputError            exit_code 1   a file that cannot be written: the disk is full
├── EngineError            exit_code 1   the engine's process failed
│   ├── EngineDeadError                  it died; it is being restarted
│   ├── EngineClosedError  HTTP 503      it was closed: the server is shutting down
│   └── ExecutorError                    a step failed
├── RequestError           HTTP 400      a request that cannot be served as it stands
│   ├── ContextLengthError               prompt and max_tokens exceed max_model_len
│   ├── NotFoundError      HTTP 404
│   └── AuthenticationError HTTP 401
└── OverloadedError        HTTP 429/503  no room now; try again after `retry_after` seconds

Each message is one line, names the offending value, and says what to do where there is something to do.
`server/app.py` turns them into HTTP bodies and `cli.py` into exit codes, nowhere else.
"""


class PagedcError(Exception):
    """Root of what the runtime raises on purpose."""

    exit_code = 1
    status = 500
    type = "server_error"
    code: str | None = None
    param: str | None = None


class UsageError(PagedcError):
    """A wrong option or argument."""

    exit_code = 2


class PackageError(PagedcError):
    """A package that cannot be opened."""

    exit_code = 4


class OutputError(PagedcError):
    """A file that cannot be written."""


class EngineError(PagedcError):
    """The engine's process failed."""


class EngineDeadError(EngineError):
    """The engine died; it is being restarted."""

    status = 500
    code = "engine_dead"


class EngineClosedError(EngineError):
    """The engine was closed while the request was open."""

    status = 503
    code = "shutting_down"


class ExecutorError(EngineError):
    """A step failed on the device."""


class RequestError(PagedcError):
    """A request that cannot be served as it stands."""

    status = 400
    type = "invalid_request_error"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code if code is not None else type(self).code


class ContextLengthError(RequestError):
    """Prompt and max_tokens exceed max_model_len."""

    code = "context_length_exceeded"


class NotFoundError(RequestError):
    """No such route or model."""

    status = 404


class AuthenticationError(RequestError):
    """A missing or wrong API key."""

    status = 401
    code = "invalid_api_key"


class OverloadedError(PagedcError):
    """No room now."""

    status = 503
    type = "server_error"
    code = "overloaded"

    def __init__(self, message: str, *, retry_after: int = 1, status: int = 503) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.status = status
