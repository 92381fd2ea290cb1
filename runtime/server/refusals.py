"""The ways in which a field of a request is refused."""

from collections.abc import Collection

import msgspec

from pagedc.runtime.errors import RequestError


def invalid(param: str, why: str) -> RequestError:
    """A field whose value may not be."""
    return RequestError(f"Invalid value for '{param}': {why}.", param=param, code="invalid_value")


def unsupported(param: str, why: str = "") -> RequestError:
    """A field that is known and not served."""
    detail = f": {why}" if why else ""
    return RequestError(f"'{param}' is not supported{detail}.", param=param, code="unsupported_parameter")


def refuse_others(value: msgspec.Struct, used: Collection[str], where: str) -> None:
    """Raise for a field that this kind of value has no use for: else it would be ignored silently."""
    for name in value.__struct_fields__:
        if name not in used and getattr(value, name) is not None:
            raise unsupported(f"{where}.{name}", "it does not belong to this type")
