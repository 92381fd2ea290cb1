"""The two ways in which a field of a request is refused."""

from pagedc.runtime.errors import RequestError


def invalid(param: str, why: str) -> RequestError:
    """A field whose value may not be."""
    return RequestError(f"Invalid value for '{param}': {why}.", param=param, code="invalid_value")


def unsupported(param: str, why: str = "") -> RequestError:
    """A field that is known and not served."""
    detail = f": {why}" if why else ""
    return RequestError(f"'{param}' is not supported{detail}.", param=param, code="unsupported_parameter")
