"""Tensors of a few tokens more or less than the sequence: on their way to become a convolution or a delay.

Zeros put before the tokens make T + n of them; convolutions that put nothing on either side take them away
again. The tokens without the last one are T - 1; what the first one has, joined in front, makes them T.
"""

from collections.abc import Sequence
from typing import Any

from torch.fx import Node as FxNode

from pagedc.compiler.aten.importer import Importer
from pagedc.compiler.aten.linear import by_block
from pagedc.compiler.aten.ranges import join
from pagedc.compiler.aten.state import along_tokens, causal_conv, delay
from pagedc.compiler.aten.table import SHIFTED, op
from pagedc.compiler.aten.values import TOKENS, Shifted, Value
from pagedc.compiler.aten.views import permute

JOINS = {"aten.cat", "aten.concat", "aten.concatenate"}


@op(SHIFTED)
def shifted_value(importer: Importer, name: str, *arguments: Any) -> Value | Shifted:
    """Any op of which an argument is shifted. Raises UnsupportedError."""
    if name == "aten.conv1d":
        return _convolved(importer, *arguments)
    if name == "aten.convolution":
        x, weight, bias, stride, padding, dilation, transposed, _, groups = arguments
        if not transposed:
            return _convolved(importer, x, weight, bias, stride, padding, dilation, groups)
    if name in JOINS:
        return _joined(importer, *arguments)
    if name == "aten.slice" and _is_whole(importer.current):
        whole: Shifted = arguments[0]
        return whole
    if name == "aten.unfold":
        return _windows(importer, *arguments)
    raise importer.unsupported("a few tokens more or less than the sequence")


def _joined(importer: Importer, values: Sequence[Any], dim: int = 0) -> Value:
    """What the first token has, and the others with what the token before had."""
    first, x = values
    if not isinstance(x, Shifted) or (x.added, x.removed) != (0, 1) or not isinstance(first, Value):
        raise importer.unsupported("tokens joined to tokens")
    dim %= len(first.shape)
    if dim != x.value.token_axis or first.shape[dim] != 1:
        raise importer.unsupported("tokens joined along another axis than theirs")
    return delay(importer, x.value, 1, first)


@op("aten.unfold")
def unfold(importer: Importer, *_: Any) -> Value:
    raise importer.unsupported("windows of tokens that nothing stands before")


def _windows(importer: Importer, x: Shifted, dim: int, size: int, step: int) -> Value:
    """x [.., T + size - 1] along its last axis as [.., T, size]: each token with those before it."""
    value = x.value
    if dim % len(value.shape) != len(value.shape) - 1 or value.token_axis != len(value.shape) - 1:
        raise importer.unsupported("windows along another axis than the tokens")
    if step != 1 or x.added != size - 1 or x.removed:
        raise importer.unsupported("windows that are not a token's own")
    tokens = [delay(importer, value, back, x.first) for back in range(size - 1, 0, -1)] + [value]
    parts = [importer.reshape(part, (*part.shape, 1)) for part in tokens]
    return join(importer, parts, len(value.shape), (*value.shape, size))


def _convolved(
    importer: Importer,
    x: Shifted,
    weight: Value,
    bias: Value | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Value | Shifted:
    """x [1, C, T + added], weight [N, C / groups, K] → [1, N, T + added - (K - 1)]."""
    channels, taps = x.value.shape[1], weight.shape[2]
    left = x.added - (taps - 1)
    is_plain = along_tokens(stride, padding, dilation) == [1, 0, 1]
    if x.value.shape != (1, channels, TOKENS) or x.removed or left < 0 or not is_plain:
        raise importer.unsupported("a convolution that is not causal")
    if x.first is None and groups == channels == weight.shape[0]:
        result = causal_conv(importer, x.value, importer.reshape(weight, (channels, taps)))
    elif x.first is None or not left:
        result = _by_group(importer, x, weight, groups)
    else:
        raise importer.unsupported("three convolutions of one padding")
    if bias is not None:
        bias = importer.reshape(bias, (1, *bias.shape, 1))
        result = importer.pointwise("add", result, bias)
    return Shifted(result, left, first=bias) if left else result


def _by_group(importer: Importer, x: Shifted, weight: Value, groups: int) -> Value:
    """A linear a group, of its channels at the token and at those before it."""
    rows, width, taps = weight.shape
    tokens = [delay(importer, x.value, back, x.first) for back in range(taps - 1, 0, -1)] + [x.value]
    parts = [importer.reshape(value, (groups, width, 1, TOKENS)) for value in tokens]
    wide = join(importer, parts, 2, (groups, width, taps, TOKENS)).node
    inputs = Value(importer.reshape_node(wide, (groups, width * taps)), (groups, TOKENS, width * taps))
    weights = permute(importer, importer.reshape(weight, (groups, rows // groups, width * taps)), (0, 2, 1))
    result = by_block(importer, inputs, weights)
    return Value(importer.reshape_node(result.node, (1, rows)), (1, rows, TOKENS))


def _is_whole(node: FxNode | None) -> bool:
    """Whether a slice is all of what it is cut from."""
    if node is None:
        return False
    sizes = [[str(size) for size in part.meta["val"].shape] for part in (node, node.all_input_nodes[0])]
    return sizes[0] == sizes[1]
