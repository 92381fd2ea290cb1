"""What carries state from token to token: causal convolutions and linear recurrences."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node as FxNode

from pagedc.compiler.aten.importer import Importer
from pagedc.compiler.aten.table import op
from pagedc.compiler.aten.values import TOKENS, Shifted, Value
from pagedc.compiler.aten.views import permute


@op("aten.conv1d")
def conv1d(
    importer: Importer,
    x: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Value:
    """x [1, C, T], weight [C, 1, K]: causal where K - 1 inputs are put on both sides and the first T kept."""
    channels, width, taps = weight.shape
    if x.shape != (1, channels, TOKENS) or weight.token_axis is not None or width != 1 or groups != channels:
        raise importer.unsupported("a convolution that is not one of each channel along the tokens")
    is_padded = along_tokens(stride, padding, dilation) == [1, taps - 1, 1]
    if not is_padded or not _keeps_first_tokens(importer.current):
        raise importer.unsupported("a convolution that is not causal")
    node = causal_conv(importer, x, importer.reshape(weight, (channels, taps)))
    if bias is None:
        return node
    return importer.pointwise("add", node, importer.reshape(bias, (channels, 1)))


@op("aten.convolution")
def convolution(
    importer: Importer,
    x: Value,
    weight: Value,
    bias: Value | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> Value:
    if transposed or len(x.shape) != 3:
        raise importer.unsupported("a convolution that is not one of each channel along the tokens")
    return conv1d(importer, x, weight, bias, stride, padding, dilation, groups)


def along_tokens(*arguments: Any) -> list[Any]:
    """What each says of the one axis of a convolution: a number, or a list of one."""
    return [argument[0] if isinstance(argument, Sequence) else argument for argument in arguments]


def causal_conv(importer: Importer, x: Value, weight: Value) -> Value:
    """x [1, C, T] with weight [C, K] → [1, C, T]."""
    channels = x.shape[1]
    table = permute(importer, weight, (1, 0))
    inputs = (importer.reshape_node(x.node, (channels,)), table.node)
    node = importer.add("causal_conv", inputs, (channels,), layer=importer.next_state())
    return Value(importer.reshape_node(node, (1, channels)), x.shape)


def _keeps_first_tokens(node: FxNode | None) -> bool:
    """Whether all that reads a padded sequence is slices of its first T tokens."""
    return node is not None and all(
        str(user.target) == "aten.slice.Tensor"
        and user.args[1] in (-1, 2)
        and user.args[2] in (None, 0)
        and str(user.meta["val"].shape[2]) == str(node.all_input_nodes[0].meta["val"].shape[2])
        for user in node.users
    )


@op("aten.pad", "aten.constant_pad_nd")
def pad(importer: Importer, x: Value, pads: Sequence[int], *mode_and_value: Any) -> Value | Shifted:
    """n zeros in front of the tokens; with the last n cut off, it is the value of n tokens before."""
    if not any(pads):
        return x
    (before, after), *others = sorted(zip(pads[::2], pads[1::2], strict=True), reverse=True)
    axis = len(x.shape) - 1 - list(pads[::2]).index(before)
    values = [value for value in mode_and_value if value not in ("constant", None)]
    is_in_front = axis == x.token_axis and before > 0 and after in (0, -before)
    if not is_in_front or any(map(any, others)) or any(values):
        raise importer.unsupported("padding other than zeros in front of the tokens")
    return delay(importer, x, before) if after else Shifted(x, added=before)


def delay(importer: Importer, x: Value, count: int, first: Value | None = None) -> Value:
    """What the token `count` before had; at the first ones `first`, or 0."""
    if TOKENS not in x.shape:
        raise importer.unsupported("a delay of parts of tokens")
    weight = torch.zeros(count + 1, x.node.size)
    weight[0] = 1
    inputs = (importer.reshape_node(x.node, (x.node.size,)), importer.constant(weight).node)
    node = importer.add("causal_conv", inputs, (x.node.size,), layer=importer.next_state())
    value = Value(importer.reshape_node(node, x.node.shape), x.shape)
    if first is None:
        return value
    along = tuple(size if size == TOKENS else 1 for size in x.shape)
    begun = importer.pointwise("ge", importer.reshape(importer.positions(), along), count, dtype="bool")
    return importer.pointwise("where", begun, value, first, dtype=x.node.dtype, shape=x.shape)


@op("pagedc.running_max")
def running_max(importer: Importer, fade: Value, x: Value, initial: float) -> Value:
    """fade [1, T or 1, C], x [1, T, C]."""
    if x.token_axis != 1 or fade.token_axis not in (None, 1):
        raise importer.unsupported("a maximum along another axis than the tokens")
    shape = (x.shape[2],)
    inputs = [importer.reshape_node(value.node, shape) for value in (fade, x)]
    node = importer.add("running_max", inputs, shape, "float32", initial=initial, layer=importer.next_state())
    return Value(importer.reshape_node(node, (1, *shape)), x.shape)


@op("pagedc.linear_recurrence")
def linear_recurrence(
    importer: Importer, q: Value, k: Value, v: Value, decay: Value, rate: Value | None, beta: Value | None
) -> Value:
    """q, k [1, T, G, K], v [1, T, H, V], decay [1, T, H, 1 or K, 1 or V], rate [H, K, V], beta [1, T, H]."""
    if any(value.token_axis not in (None, 1) or value.shape[0] != 1 for value in (q, k, v, decay)):
        raise importer.unsupported("a recurrence along another axis than the tokens")
    inputs = [importer.reshape_node(value.node, value.shape[2:]) for value in (q, k, v, decay)]
    inputs += [] if rate is None else [rate.node]
    inputs += [] if beta is None else [importer.reshape_node(beta.node, beta.shape[2:])]
    attrs = {"has_rate": rate is not None, "is_delta": beta is not None, "layer": importer.next_state()}
    shape = v.shape[2:]
    node = importer.add("linear_recurrence", inputs, shape, "float32", **attrs)
    return Value(importer.reshape_node(node, (1, *shape)), (1, TOKENS, *shape))
