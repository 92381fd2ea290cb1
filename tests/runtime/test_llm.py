import asyncio
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.patience import PATIENCE
from tests.runtime.mock_executor import MockExecutor
from tests.runtime.packages import make_package, seal
from tests.runtime.test_chat_template import CHATML
from tests.runtime.tokenizers_of_all_kinds import write_tokenizer

import pagedc
from pagedc.runtime import async_llm, llm
from pagedc.runtime.async_engine import AsyncEngine
from pagedc.runtime.async_llm import AsyncLLM
from pagedc.runtime.config import EngineOptions
from pagedc.runtime.errors import ContextLengthError, PackageError, RequestError, UsageError
from pagedc.runtime.llm import LLM
from pagedc.runtime.manifest import Model
from pagedc.runtime.sampling_params import SamplingParams

MOCK_ENGINE = (sys.executable, str(Path(__file__).with_name("mock_package_engine.py")))
VOCAB_SIZE = 300
EOS = 5
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    package = make_package(tmp_path / "tiny.pagedc")
    write_tokenizer(package / "tokenizer", "byte_level")
    (package / "tokenizer" / "chat_template.jinja").write_text(CHATML)
    seal(package, model=Model("tiny", "llama", 68, 1, VOCAB_SIZE, 128, eos_token_ids=[EOS]))
    return package


@pytest.fixture
def model(package: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LLM]:
    monkeypatch.setattr(llm, "open_executor", lambda package, config: MockExecutor(config))
    with LLM(package, max_num_seqs=3) as model:
        yield model


def greedy(**changes: Any) -> SamplingParams:
    return SamplingParams(**({"temperature": 0, "max_tokens": 10, "ignore_eos": True} | changes))


@pytest.mark.parametrize(("prompt", "params"), [(5, None), ("hi", {"max_tokens": 3}), ("hi", ["max_tokens"])])
def test_what_is_no_prompt_and_no_params(model: LLM, prompt: Any, params: Any) -> None:
    with pytest.raises(RequestError, match=r"^a prompt is|^params are"):
        model.generate(prompt, params)


def test_texts_and_token_ids_alike(model: LLM) -> None:
    token_ids = model.tokenizer.encode("the and")
    (text,), (ids,) = model.generate("the and", greedy()), model.generate(token_ids, greedy())
    assert text.token_ids == ids.token_ids
    assert text.text == model.tokenizer.decode(text.token_ids)
    assert text.finish_reason == "length"
    first, second = model.generate([token_ids, "the"], greedy())
    assert first.prompt_token_ids == token_ids
    assert second.prompt_token_ids == model.tokenizer.encode("the")
    assert model.generate([]) == []


def test_many_prompts_with_params_of_their_own(model: LLM) -> None:
    prompts = [f"prompt {i}" for i in range(8)]
    outputs = model.generate(prompts, [greedy(max_tokens=i + 1) for i in range(8)])
    assert [len(output.token_ids) for output in outputs] == list(range(1, 9))
    for prompt, output in zip(prompts, outputs, strict=True):
        assert (
            output.token_ids == model.generate(prompt, greedy(max_tokens=len(output.token_ids)))[0].token_ids
        )
    with pytest.raises(ValueError, match="2 prompts, but 1 SamplingParams"):
        model.generate(["a", "b"], [greedy()])


def test_n_sequences_and_logprobs(model: LLM) -> None:
    (output,) = model.generate(
        "the", SamplingParams(n=3, seed=1, max_tokens=4, logprobs=2, prompt_logprobs=1)
    )
    assert [each.index for each in output.outputs] == [0, 1, 2]
    assert all(len(each.logprobs) == len(each.token_ids) > 0 for each in output.outputs)
    assert output.prompt_logprobs is not None
    assert len(output.prompt_logprobs) == len(output.prompt_token_ids)


def test_stop_strings_and_stop_tokens(model: LLM) -> None:
    (whole,) = model.generate("the", greedy(max_tokens=40))
    stop = whole.text[5:7]
    (cut,) = model.generate("the", greedy(max_tokens=40, stop=[stop]))
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert (cut.finish_reason, cut.outputs[0].stop_reason) == ("stop", stop)
    token_id = whole.token_ids[3]
    (ended,) = model.generate("the", greedy(stop_token_ids=[token_id]))
    assert (ended.finish_reason, ended.outputs[0].stop_reason) == ("stop", token_id)
    assert ended.token_ids[-1] == token_id
    assert ended.text == model.tokenizer.decode(ended.token_ids[:-1])


def test_chat(model: LLM) -> None:
    output = model.chat(HELLO, greedy())
    expected = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    assert model.tokenizer.decode(output.prompt_token_ids, skip_special_tokens=False) == expected
    assert "".join(delta.text for delta in model.stream_chat(HELLO, greedy())) == output.text


def test_streams_may_be_interleaved_and_left(model: LLM) -> None:
    expected = [model.generate(prompt, greedy())[0].text for prompt in ("the", "and")]
    first, second = model.stream("the", greedy()), model.stream("and", greedy())
    texts = ["", ""]
    for one, other in zip(first, second, strict=True):
        texts[0] += one.text
        texts[1] += other.text
    assert texts == expected
    left = model.stream("the", greedy(max_tokens=100))
    next(left)
    left.close()  # type: ignore[attr-defined]
    assert not model._engine.has_work


def test_threads_take_turns(model: LLM) -> None:
    expected = model.generate("the", greedy())[0].text
    texts: list[str] = []
    threads = [
        threading.Thread(
            target=lambda: texts.append("".join(delta.text for delta in model.stream("the", greedy())))
        )
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == [expected] * 6


def test_one_bad_prompt_leaves_nothing_behind(model: LLM) -> None:
    with pytest.raises(ContextLengthError):
        model.generate(["the", [1] * 128], greedy())
    assert not model._engine.has_work
    assert model.generate("the", greedy())[0].finish_reason == "length"


@pytest.mark.parametrize("messages", [[], "Hello", ["Hello"]])
def test_what_is_no_conversation(model: LLM, messages: Any) -> None:
    with pytest.raises(RequestError, match="messages are a list of one or more"):
        model.chat(messages, greedy())


def test_without_a_chat_template(model: LLM) -> None:
    model._prompter.close()
    model._prompter.chat_template = None
    with pytest.raises(RequestError, match="no chat template"):
        model.chat(HELLO)


def test_what_cannot_be_opened(tmp_path: Path, package: Path) -> None:
    with pytest.raises(PackageError, match="no such directory"):
        LLM(tmp_path / "nothing")
    with pytest.raises(UsageError, match="max_num_seqs is 99"):
        LLM(package, max_num_seqs=99)
    with pytest.raises(TypeError, match="max_seqs"):
        LLM(package, max_seqs=1)


def test_the_public_names_are_these() -> None:
    assert pagedc.LLM is LLM
    assert pagedc.SamplingParams is SamplingParams


def test_the_asynchronous_one_says_the_same(
    model: LLM, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make_engine(path: Path, options: EngineOptions) -> AsyncEngine:
        return AsyncEngine(path, options, command=MOCK_ENGINE)

    async def main() -> None:
        async with asyncio.timeout(PATIENCE), AsyncLLM(package, max_num_seqs=3) as other:
            outputs = await asyncio.gather(*(other.generate(f"prompt {i}", greedy()) for i in range(5)))
            expected = model.generate([f"prompt {i}" for i in range(5)], greedy())
            assert [output.outputs for output in outputs] == [output.outputs for output in expected]
            assert (await other.chat(HELLO, greedy())).text == model.chat(HELLO, greedy()).text
            assert "".join([delta.text async for delta in other.stream("the", greedy())]) == text
            assert "".join([delta.text async for delta in other.stream_chat(HELLO, greedy())]) != ""
            assert (await other.generate("the", greedy(stop=[text[5:7]]))).finish_reason == "stop"
            with pytest.raises(RequestError):
                await other.generate([99999])

    monkeypatch.setattr(async_llm, "AsyncEngine", make_engine)
    text = model.generate("the", greedy())[0].text
    asyncio.run(main())


def test_a_package_for_a_machine_that_this_is_not_is_refused(package: Path) -> None:
    manifest = json.loads((package / "manifest.json").read_text())
    manifest["target"]["kind"] = "cuda"
    (package / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(PackageError, match=r"for a GPU|driver"):
        LLM(package)


def test_embeddings(model: LLM, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match="no hidden states"):
        model.embed("the")
    with pytest.raises(RequestError, match="pooling is 'max', not one of mean, last, cls"):
        model.embed("the", pooling="max")  # type: ignore[arg-type]
