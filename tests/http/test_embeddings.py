"""/v1/embeddings with the real client."""

import math
from typing import Any

import openai
import pytest
from tests.http.server_process import ServerProcess


def test_one_and_several_inputs(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="fake", input="four")  # as base64: what the client asks for
    assert answer.data[0].embedding == pytest.approx([0.8, 0.6, 0, 0])
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 4
    answer = client.embeddings.create(model="alias", input=["four", "x"], encoding_format="float")
    assert [entry.index for entry in answer.data] == [0, 1]
    assert answer.data[0].embedding == pytest.approx([0.8, 0.6, 0, 0])
    assert answer.data[1].embedding[0] == pytest.approx(1 / math.sqrt(10))
    assert answer.model == "alias"


def test_token_ids_and_pooling(client: openai.OpenAI) -> None:
    extra = {"pooling": "last"}
    answer = client.embeddings.create(
        model="fake", input=[[1, 2], [3]], dimensions=4, encoding_format="float", extra_body=extra
    )
    assert answer.data[0].embedding == pytest.approx([part / math.sqrt(14) for part in (2, 3, 1, 0)])
    assert client.embeddings.create(model="fake", input=[1, 2, 3]).usage.prompt_tokens == 3


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": [[1], "a"]}, "input"),
        ({"input": [-1]}, "input"),
        ({"input": [258]}, "input"),
        ({"input": ["x"] * 129}, "input"),
        ({"dimensions": 2}, "dimensions"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"pooling": "max"}, "pooling"),
        ({"temperature": 1}, "temperature"),
    ],
)
def test_what_is_refused(server: ServerProcess, fields: dict[str, Any], param: str) -> None:
    answer = server.ask("POST", "/v1/embeddings", {"model": "fake", "input": "hi", **fields})
    assert answer.status == 400
    assert answer.error["param"] == param
