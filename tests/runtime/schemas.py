"""Random JSON schemas within the subset that structured output follows."""

from typing import Any

from hypothesis import strategies as st

NAMES = st.sampled_from(["name", "age", "a b", "é", "x_1", "nullable", "type"])
JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-1000, 1000)
    | st.sampled_from([0.5, -2.25])
    | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=2),
    max_leaves=4,
)
FORMATS = ("date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
PATTERNS = (r"^[a-z]{1,4}$", r"^\d{2}-\d{3}$", "a|b", r"^(x|yy)+z?$", r"^[A-Z][^0-9]{0,3}$")


def schemas() -> st.SearchStrategy[Any]:
    """A schema whose values are of bounded size, most of them small."""
    nested = st.recursive(_leaves(), _nested, max_leaves=5)
    return nested | nested.map(_with_reference)


def _leaves() -> st.SearchStrategy[dict[str, Any]]:
    return st.one_of(
        st.just({"type": "null"}),
        st.just({"type": "boolean"}),
        _bounded("integer", st.integers(-200, 200)),
        _bounded("number", st.integers(-200, 200)),
        st.integers(1, 20).map(
            lambda step: {"type": "integer", "multipleOf": step, "minimum": 0, "maximum": 500}
        ),
        st.tuples(st.integers(0, 3), st.integers(0, 5)).map(
            lambda pair: {"type": "string", "minLength": pair[0], "maxLength": sum(pair)}
        ),
        st.sampled_from(PATTERNS).map(
            lambda pattern: {"type": "string", "pattern": pattern, "maxLength": 12}
        ),
        st.sampled_from(FORMATS).map(lambda name: {"type": "string", "format": name}),
        st.lists(JSON_VALUES, min_size=1, max_size=4).map(lambda values: {"enum": values}),
        JSON_VALUES.map(lambda value: {"const": value}),
    )


def _bounded(kind: str, numbers: st.SearchStrategy[int]) -> st.SearchStrategy[dict[str, Any]]:
    def make(low: int, high: int, is_open: bool) -> dict[str, Any]:
        low, high = min(low, high), max(low, high) + 2
        names = ("exclusiveMinimum", "exclusiveMaximum") if is_open else ("minimum", "maximum")
        return {"type": kind, names[0]: low, names[1]: high}

    return st.builds(make, numbers, numbers, st.booleans())


def _nested(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.one_of(
        st.builds(_array, inner, st.integers(0, 2), st.integers(0, 2)),
        st.lists(inner, min_size=1, max_size=3).map(
            lambda items: {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}
        ),
        st.builds(_object, st.dictionaries(NAMES, inner, min_size=1, max_size=3), st.data()),
        st.lists(inner, min_size=1, max_size=3).map(lambda options: {"anyOf": options}),
        inner.map(
            lambda each: {
                "type": "object",
                "patternProperties": {"^k[0-9]$": each},
                "additionalProperties": False,
                "maxProperties": 2,
            }
        ),
    )  # fmt: skip


def _with_reference(schema: dict[str, Any]) -> dict[str, Any]:
    """Itself, or a list of up to two that may nest once more."""
    reference = {"$ref": "#/$defs/it"}
    return {
        "$defs": {"it": schema, "pair": {"type": "array", "items": reference, "maxItems": 2}},
        "anyOf": [reference, {"$ref": "#/$defs/pair"}],
    }


def _array(items: dict[str, Any], low: int, more: int) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": low, "maxItems": low + more}


def _object(properties: dict[str, Any], data: st.DataObject) -> dict[str, Any]:
    required = data.draw(st.lists(st.sampled_from(sorted(properties)), unique=True))
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": data.draw(
            st.sampled_from([False, {"type": "integer", "minimum": 0, "maximum": 9}])
        ),
    }
