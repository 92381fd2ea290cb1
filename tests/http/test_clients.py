"""Other clients than OpenAI's, unmodified."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.http.fake_engine import PANGRAM
from tests.http.server_process import ServerProcess, fake_server
from tests.http.test_tools import CALL, TOOL, Weather, say

# Their own: none of these warnings is about us.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def hermes(tokenizer_dir: Path) -> Iterator[ServerProcess]:
    with fake_server(tokenizer_dir, {"tool_parser": "hermes", "engine": {"max_model_len": 4096}}) as process:
        yield process


def test_litellm(hermes: ServerProcess) -> None:
    script = f"""
import json, litellm
ask = dict(model="openai/fake", api_base="{hermes.url}/v1", api_key="none")
user = [{{"role": "user", "content": "hi"}}]
print(litellm.completion(**ask, messages=user, max_tokens=9).choices[0].message.content)
chunks = litellm.completion(**ask, messages=user, max_tokens=9, stream=True)
print("".join(chunk.choices[0].delta.content or "" for chunk in chunks))
answer = litellm.completion(**ask, messages={say(CALL)!r}, tools=[{TOOL!r}])
print(answer.choices[0].message.tool_calls[0].function.arguments)
"""
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # else it asks the network
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-3:] == [PANGRAM[:9], PANGRAM[:9], '{"city": "Paris"}']


def test_langchain(hermes: ServerProcess) -> None:
    from langchain_openai import ChatOpenAI

    arguments: Any = {"model": "fake", "base_url": f"{hermes.url}/v1", "api_key": "none", "max_tokens": 200}
    chat: Any = ChatOpenAI(**arguments)
    assert chat.invoke("#eos 9").content == PANGRAM[:9]
    assert "".join(chunk.content for chunk in chat.stream("#eos 9")) == PANGRAM[:9]
    (call,) = chat.bind_tools([TOOL]).invoke(say(CALL)).tool_calls
    assert (call["name"], call["args"]) == ("weather", {"city": "Paris"})
    typed = chat.with_structured_output(Weather, method="json_schema")
    assert typed.invoke(say('{"city": "Oslo"}')) == Weather(city="Oslo")
    called = chat.with_structured_output(Weather, method="function_calling")
    assert called.invoke(say(CALL.replace('"weather"', '"Weather"'))) == Weather(city="Paris")


def test_llm(hermes: ServerProcess, tmp_path: Path) -> None:
    models = [
        {
            "model_id": "mine",
            "model_name": "fake",
            "api_base": f"{hermes.url}/v1",
            "supports_schema": True,
            "supports_tools": True,
        }
    ]
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps(models))  # JSON is YAML

    def run(*words: str) -> str:
        command = [sys.executable, "-W", "ignore", "-m", "llm", *words]
        environment = {**os.environ, "LLM_USER_PATH": str(tmp_path), "OPENAI_API_KEY": "none"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert run("-m", "mine", "#eos 9") == PANGRAM[:9].strip()
    schema = json.dumps(Weather.model_json_schema())
    assert run("-m", "mine", "--schema", schema, '#say {"city": "Oslo"}#end') == '{"city": "Oslo"}'
