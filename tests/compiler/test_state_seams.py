"""While a module is traced, and only then, its recurrences are pagedc's."""

import sys
from typing import Any

import pytest
import torch
from tests.compiler.families import make_config
from torch import nn

from pagedc.compiler.errors import UnsupportedError
from pagedc.compiler.installed_seams import installed
from pagedc.compiler.trace import build, trace


class Unit(nn.Module):
    """A method of a seam's name, with its parameters and without."""

    def _rnn_scan(self, hidden_states, recurrent_gate, reset, recurrent_states=None):  # type: ignore[no-untyped-def]
        return None


class Other(nn.Module):
    def _rnn_scan(self, hidden_states):  # type: ignore[no-untyped-def]
        return None


def test_functions_of_the_files_are_replaced_and_come_back() -> None:
    model = build(make_config("mamba2"))
    file: Any = sys.modules[type(model).__module__]
    own = file.mamba2_chunk_scan
    with installed(model):
        assert file.mamba2_chunk_scan is not own
    assert file.mamba2_chunk_scan is own


def test_a_method_is_replaced_where_it_takes_the_same() -> None:
    own, other = Unit._rnn_scan, Other._rnn_scan
    with installed(nn.ModuleList([Unit(), Other()])):
        assert Unit._rnn_scan is not own
        assert Other._rnn_scan is other
    assert Unit._rnn_scan is own


class Indexer(nn.Module):
    """Picks keys, of at most a number of tokens."""

    def __init__(self, token_budget: int | None) -> None:
        super().__init__()
        if token_budget is not None:
            self.token_budget = token_budget

    def forward(self, hidden_states, position_embeddings, attention_mask, past_key_values):  # type: ignore[no-untyped-def]
        raise NotImplementedError


def test_within_its_budget_an_indexer_picks_all_keys() -> None:
    mask = torch.tensor([[[[0.0, -1e9], [0.0, 0.0]]]])
    indexer = Indexer(2)
    with installed(indexer):
        assert (indexer(torch.zeros(1, 2, 8), None, mask, None) == (mask == 0)).all()
        with pytest.raises(RuntimeError):
            indexer(torch.zeros(1, 3, 8), None, mask, None)
    with installed(Indexer(None)), pytest.raises(NotImplementedError):
        Indexer(None)(None, None, None, None)


def test_a_state_of_the_models_own_is_refused() -> None:
    model = build(make_config("qwen3_5_text"))
    file: Any = sys.modules[type(model).__module__]
    with installed(model), pytest.raises(UnsupportedError, match="a state that the model itself provides"):
        file.torch_chunk_gated_delta_rule(initial_state=torch.zeros(1))


def test_states_are_numbered_and_shaped() -> None:
    graph = trace(make_config("qwen3_5_text"))
    convolutions, recurrences = (list(graph.anchors(op)) for op in ("causal_conv", "linear_recurrence"))
    assert sorted(node.attrs["layer"] for node in convolutions + recurrences) == list(range(6))
    shapes = [value.shape for value in recurrences[0].inputs]
    assert shapes == [(2, 12), (2, 12), (4, 16), (4, 1, 1), (4,)]
    assert convolutions[0].inputs[1].shape == (4, 2 * 24 + 64)
