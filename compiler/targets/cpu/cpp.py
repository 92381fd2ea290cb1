"""Words and literals of C++."""

from pagedc.compiler.targets.expressions import decimal

TYPES = {"float32": "float", "bfloat16": "bf16", "int32": "int32_t", "bool": "int32_t"}
# fmt: off
KEYWORDS = frozenset({
    "alignas", "auto", "bool", "case", "catch", "char", "const", "default", "delete", "do",
    "double", "enum", "explicit", "export", "extern", "float", "friend", "goto", "inline", "int",
    "long", "mutable", "namespace", "new", "operator", "override", "private", "protected",
    "public", "register", "requires", "return", "short", "signed", "sizeof", "static", "struct",
    "switch", "template", "this", "throw", "typedef", "typename", "union", "unsigned", "using",
    "virtual", "void", "volatile", "xor",
})
# fmt: on


def float_literal(number: float) -> str:
    """A float; what is beyond float32 is its largest number."""
    if number != number:
        return "NAN"
    if number in (float("inf"), float("-inf")):
        return "INFINITY" if number > 0 else "(-INFINITY)"
    text = decimal(max(min(number, 3.4028235e38), -3.4028235e38)) + "f"
    return text if number >= 0 else f"({text})"
