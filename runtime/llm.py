"""The engine as a Python object, in the caller's own process.

>>> with LLM("smollm2-135m.pagedc") as llm:
...     print(llm.chat([{"role": "user", "content": "What is the capital of France?"}]).text)
...     for output in llm.generate(["Once upon a time", "The capital of"], SamplingParams(max_tokens=20)):
...         print(output.text)
...     red, blue = llm.embed(["red", "blue"])
"""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from pagedc.runtime.config import EngineOptions, resolve
from pagedc.runtime.engine import Engine
from pagedc.runtime.errors import RequestError
from pagedc.runtime.executors import open_executor
from pagedc.runtime.messages import AddRequest
from pagedc.runtime.outputs import OutputCollector, OutputDelta, RequestOutput
from pagedc.runtime.package import Package
from pagedc.runtime.pooling import Pooling, check_dimensions, choose_pooling, unit_embedding
from pagedc.runtime.prompting import Prompt, Prompter, checked_params, list_prompts
from pagedc.runtime.sampling_params import SamplingParams
from pagedc.runtime.structured_output import GrammarCompiler
from pagedc.runtime.tokenizer import Tokenizer

EMBEDDING = SamplingParams(max_tokens=1)  # of a request for one


class LLM:
    """A package, opened and ready. Methods may be called from any thread; they take turns."""

    def __init__(self, package: str | Path, **options: Any) -> None:
        """`options` are those of EngineOptions: memory, num_threads, max_num_seqs, max_model_len, ….

        Raises PackageError for a package that cannot be opened, UsageError for an option that cannot be met.
        """
        self.package = Package.open(package)
        self.config = resolve(self.package.manifest, EngineOptions(**options))
        self._prompter = Prompter(self.package.tokenizer_path)
        self._executor = open_executor(self.package, self.config)
        eos_token_ids = self.package.manifest.model.eos_token_ids
        tokenizer_file = self.package.tokenizer_path / "tokenizer.json"
        grammars = GrammarCompiler(tokenizer_file, self.config.vocab_size, eos_token_ids)
        self._engine = Engine(self._executor, self.config, eos_token_ids, grammars)
        self._lock = threading.Lock()
        self._collectors: dict[str, OutputCollector] = {}
        self._deltas: dict[str, list[OutputDelta]] = {}  # of each open request, not handed out yet
        self._num_requests = 0

    @property
    def tokenizer(self) -> Tokenizer:
        """The package's Tokenizer."""
        return self._prompter.tokenizer

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[RequestOutput]:
        """Continue one or many prompts, texts or token ids; the outputs are in their order.

        Raises RequestError for a prompt that cannot be served.
        """
        each = list_prompts(prompts)
        given = list(params) if isinstance(params, list | tuple) else [checked_params(params)] * len(each)
        if len(given) != len(each):
            raise ValueError(f"{len(each)} prompts, but {len(given)} SamplingParams")
        return self._finish([self._prompter.encode(prompt) for prompt in each], given)

    def chat(
        self,
        messages: Sequence[dict[str, Any]],
        params: SamplingParams | None = None,
        *,
        tools: Sequence[dict[str, Any]] | None = None,
        **variables: Any,  # of the chat template
    ) -> RequestOutput:
        """The model's answer to a conversation."""
        return self._finish([self._prompter.encode_chat(messages, tools=tools, **variables)], [params])[0]

    def stream(self, prompt: Prompt, params: SamplingParams | None = None) -> Iterator[OutputDelta]:
        """Continue a prompt and yield the text as it grows; closing the iterator aborts."""
        return self._stream(self._prompter.encode(prompt), params)

    def stream_chat(
        self,
        messages: Sequence[dict[str, Any]],
        params: SamplingParams | None = None,
        *,
        tools: Sequence[dict[str, Any]] | None = None,
        **variables: Any,
    ) -> Iterator[OutputDelta]:
        """Answer a conversation and yield the text as it grows; closing the iterator aborts."""
        return self._stream(self._prompter.encode_chat(messages, tools=tools, **variables), params)

    def embed(
        self,
        inputs: Prompt | Sequence[Prompt],
        *,
        pooling: Pooling = "",  # of the hidden states: "mean", "last" or "cls"; "" = as the model was trained
        dimensions: int | None = None,  # fewer than the model's own, where it was trained to be cut
    ) -> list[list[float]]:
        """Embeddings of unit length of one or many texts or token ids, in their order.

        Raises RequestError for an input that cannot be served, and for a package that gives no embeddings.
        """
        model = self.package.manifest.model
        check_dimensions(model.hidden_size, model.embedding, dimensions)
        each = [self._prompter.encode(prompt) for prompt in list_prompts(inputs)]
        found = self._run(each, [EMBEDDING] * len(each), choose_pooling(pooling, model.embedding))
        return [unit_embedding(collector.embedding, dimensions).tolist() for collector in found]

    def close(self) -> None:
        """Free the model; safe to call twice."""
        with self._lock:
            self._executor.close()
            self._prompter.close()

    def __enter__(self) -> "LLM":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _finish(
        self, prompts: list[list[int]], params: Sequence[SamplingParams | None]
    ) -> list[RequestOutput]:
        return [collector.output for collector in self._run(prompts, params)]

    def _run(
        self, prompts: list[list[int]], params: Sequence[SamplingParams | None], pooling: Pooling = ""
    ) -> list[OutputCollector]:
        added: list[OutputCollector] = []
        try:
            for prompt, each in zip(prompts, params, strict=True):
                added.append(self._add(prompt, each, pooling))
            while not all(collector.is_finished for collector in added):
                self._step()
            for collector in added:
                collector.check()
        finally:
            for collector in added:
                self._drop(collector)
        return added

    def _stream(self, prompt: list[int], params: SamplingParams | None) -> Iterator[OutputDelta]:
        collector = self._add(prompt, params)
        try:
            while True:
                is_finished = collector.is_finished  # looked at first: another thread may step in between
                deltas, self._deltas[collector.request_id] = self._deltas[collector.request_id], []
                yield from deltas
                if is_finished:
                    collector.check()
                    return
                self._step()
        finally:
            self._drop(collector)

    def _add(
        self, prompt: list[int], params: SamplingParams | None, pooling: Pooling = ""
    ) -> OutputCollector:
        params = checked_params(params)
        with self._lock:
            request_id = str(self._num_requests)
            self._num_requests += 1
            self._engine.add_request(AddRequest(request_id, prompt, params, pooling=pooling))
            collector = OutputCollector(request_id, self._prompter.tokenizer, prompt, params)
            self._collectors[request_id] = collector
            self._deltas[request_id] = []
        return collector

    def _step(self) -> None:
        """One step of the engine, whose events go to whom they belong."""
        with self._lock:
            events = self._engine.step()
            for refusal in self._engine.take_refusals():
                if (collector := self._collectors.get(refusal.request_id)) is not None:
                    collector.fail(RequestError(refusal.message, code=refusal.code, param=refusal.param))
            for event in events:
                collector = self._collectors.get(event.request_id)
                delta = collector.add(event) if collector is not None else None
                if delta is None:
                    continue
                self._deltas[event.request_id].append(delta)
                if delta.finish_reason is not None and event.finish_reason is None:
                    self._engine.abort(event.request_id, event.index)

    def _drop(self, collector: OutputCollector) -> None:
        with self._lock:
            self._engine.abort(collector.request_id)
            self._collectors.pop(collector.request_id, None)
            self._deltas.pop(collector.request_id, None)
