"""The loop of one model: schedule, build the batch, run it, take up what came out. `look_ahead.py` says how
the next step is prepared meanwhile.

The engine sees numpy arrays and token ids; it knows neither tensors nor text nor sockets.
"""

import time
from collections.abc import Iterable

from pagedc.runtime.batch import Executor, Float32, StepResult
from pagedc.runtime.batch_builder import BatchBuilder, PreparedBatch
from pagedc.runtime.block_manager import BlockManager
from pagedc.runtime.config import EngineConfig
from pagedc.runtime.errors import RequestError
from pagedc.runtime.intake import check_request, make_sequences
from pagedc.runtime.look_ahead import Step, StepQueue
from pagedc.runtime.messages import AddRequest, EngineStats, Logprob, TokenEvent
from pagedc.runtime.messages import RequestError as Refusal
from pagedc.runtime.new_tokens import put_token
from pagedc.runtime.pooler import Pooler
from pagedc.runtime.scheduler import Scheduler
from pagedc.runtime.sequence import Sequence, Status
from pagedc.runtime.structured_output import GrammarCompiler

GRAMMAR_WAIT = 0.02  # seconds that a step waits for a grammar when there is nothing else to do


class Engine:
    """Owns the sequences; the executor stays the caller's to close."""

    def __init__(
        self,
        executor: Executor,
        config: EngineConfig,
        eos_token_ids: Iterable[int],
        grammars: GrammarCompiler | None = None,  # None = requests with a grammar are refused
    ) -> None:
        self.config = config
        self._grammars = grammars
        self._compiling: set[str] = set()  # requests whose grammar is not there yet
        self._refusals: list[Refusal] = []
        self.eos_token_ids = frozenset(eos_token_ids)
        block_manager = BlockManager(config.num_blocks, config.block_size, prefix_cache=config.prefix_cache)
        self.scheduler = Scheduler(
            block_manager, config.max_num_seqs, config.max_num_batched_tokens, config.max_num_rows
        )
        self._steps = StepQueue(executor)
        self._builder = BatchBuilder(config)
        self._sequences: dict[str, list[Sequence]] = {}  # of each open request, those that have not ended
        self._siblings: dict[int, list[Sequence]] = {}  # held until the prompt they share is computed
        self._prompt_logprobs: dict[int, list[Logprob | None]] = {}
        self._poolers: dict[int, Pooler] = {}
        self._num_added = 0
        self._num_prompt_tokens = 0
        self._num_generation_tokens = 0
        self._num_steps = 0

    @property
    def boot_seconds(self) -> dict[str, float]:
        """What the executor took to open, by phase, where it says so."""
        return self._steps.boot_seconds

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self.scheduler.running or self.scheduler.waiting or self._compiling or self._steps)

    def add_request(self, request: AddRequest) -> None:
        """Queue a request; raises RequestError for one that cannot be served."""
        if request.request_id in self._sequences:
            raise RequestError(f"request_id {request.request_id} is in use")
        params = request.params
        if params.grammar and self._grammars is None:
            raise RequestError("this engine has no tokenizer to follow a grammar with", param="grammar")
        check_request(request, self.config)
        sequences = make_sequences(request, self.config, self._num_added, self.eos_token_ids)
        self._num_added += params.n
        self._sequences[request.request_id] = sequences
        if params.grammar and self._grammars is not None:
            self._compiling.add(request.request_id)
            self._grammars.submit(request.request_id, params.grammar)
        else:
            self._queue(sequences)

    def _queue(self, sequences: list[Sequence]) -> None:
        first, *others = sequences
        self.scheduler.add(first)
        if self.config.prefix_cache and others:
            self._siblings[first.seq_id] = others
        else:
            for sequence in others:
                self.scheduler.add(sequence)

    def prepare(self) -> bool:
        """Do some of what later requests would wait for; False once nothing is left."""
        if self._grammars is not None:
            self._grammars.prepare()
        return self._steps.warm_up()

    def prepare_grammars(self) -> None:
        """Read what grammars need, for one that is about to come."""
        if self._grammars is not None:
            self._grammars.announce()

    def abort(self, request_id: str, index: int | None = None) -> None:
        """Forget a request, or its `index`-th sequence; unknown ids are ignored."""
        for sequence in list(self._sequences.get(request_id, ())):
            if index is None or sequence.index == index:
                self._finish(sequence)

    def step(self) -> list[TokenEvent]:
        """End one step and return what it brought; raises ExecutorError when the device failed."""
        if self._compiling:
            self._take_grammars()
        if not self._steps:
            self._submit(may_preempt=True)
        if self._steps.may_look_ahead:
            self._submit(may_preempt=False)
        return self._take_up(*self._steps.wait()) if self._steps else []

    def _submit(self, *, may_preempt: bool) -> None:
        schedule = self.scheduler.schedule(may_preempt=may_preempt)
        if not schedule.sequences:
            return
        for sequence in schedule.sequences:
            if sequence.queue_seconds is None:
                sequence.queue_seconds = time.monotonic() - sequence.arrived
        self._steps.submit(schedule, self._builder.build(schedule))

    def take_refusals(self) -> list[Refusal]:
        """Requests that ended in an error since this was last asked."""
        refusals, self._refusals = self._refusals, []
        return refusals

    def stats(self) -> EngineStats:
        """State now, and counters since the start."""
        scheduler = self.scheduler
        return EngineStats(
            num_running=len(scheduler.running),
            num_waiting=len(scheduler.waiting)
            + sum(map(len, self._siblings.values()))
            + sum(len(self._sequences[request_id]) for request_id in self._compiling),
            kv_cache_usage=scheduler.block_manager.usage,
            num_preemptions=scheduler.num_preemptions,
            prefix_cache_queries=scheduler.prefix_cache_queries,
            prefix_cache_hits=scheduler.prefix_cache_hits,
            num_prompt_tokens=self._num_prompt_tokens,
            num_generation_tokens=self._num_generation_tokens,
            num_steps=self._num_steps,
        )

    def _take_up(self, step: Step, result: StepResult) -> list[TokenEvent]:
        block_manager, prepared = self.scheduler.block_manager, step.prepared
        for sequence, num_tokens in zip(step.sequences, prepared.context_lens, strict=True):
            if sequence.status is not Status.FINISHED:
                block_manager.commit(sequence, num_tokens)
        if result.hidden is not None:
            return self._pool(prepared, result.hidden) + self._take_tokens(prepared, result)
        return self._take_tokens(prepared, result)

    def _pool(self, prepared: PreparedBatch, hidden: Float32) -> list[TokenEvent]:
        """Take up hidden states; the sequences whose last one came end with their embedding."""
        for sequence, first_row, position, num_rows in prepared.prompt_rows:
            if sequence.pooling and sequence.status is not Status.FINISHED:
                if position == 0:  # also when it starts again after a preemption
                    self._poolers[sequence.seq_id] = Pooler(sequence.pooling)
                self._poolers[sequence.seq_id].add(hidden[first_row : first_row + num_rows])
        events = []
        for row, sequence in enumerate(prepared.sampled):
            if sequence.pooling and sequence.status is not Status.FINISHED:
                pooler = self._poolers.get(sequence.seq_id) or Pooler(sequence.pooling)
                pooler.add(hidden[row : row + 1])
                events.append(
                    TokenEvent(
                        sequence.request_id,
                        sequence.index,
                        [],
                        finish_reason="stop",
                        num_cached_tokens=sequence.num_cached_tokens,
                        embedding=pooler.embedding(),
                    )
                )
                self._num_prompt_tokens += sequence.num_prompt_tokens
                self._finish(sequence)
        return events

    def _take_tokens(self, prepared: PreparedBatch, result: StepResult) -> list[TokenEvent]:
        for sequence, first_row, position, num_rows in prepared.prompt_rows:
            if sequence.pooling or sequence.status is Status.FINISHED:
                continue
            if position == 0:  # also when it starts again after a preemption
                self._prompt_logprobs[sequence.seq_id] = [None]
            num_logprobs = sequence.params.prompt_logprobs or 0
            for i in range(num_rows):
                token_id = sequence.token_ids[position + 1 + i]
                self._prompt_logprobs[sequence.seq_id].append(
                    _logprob(token_id, result, first_row + i, num_logprobs)
                )
        events = []
        token_ids = result.token_ids.tolist()
        for row, (sequence, length) in enumerate(zip(prepared.sampled, prepared.lengths, strict=True)):
            if sequence.status is Status.FINISHED:  # meanwhile, or with a sibling that was refused
                continue
            grammar = sequence.grammar
            if grammar is not None and (grammar.error or not grammar.accepts(token_ids[row])):
                why = f"the grammar cannot be followed any further: {grammar.error}"
                self._refuse(sequence.request_id, why)
            else:
                events.append(self._take_token(sequence, length, token_ids[row], result, row))
        self._num_generation_tokens += sum(len(event.token_ids) for event in events)
        self._num_steps += 1
        return events

    def _take_token(
        self, sequence: Sequence, position: int, token_id: int, result: StepResult, row: int
    ) -> TokenEvent:
        is_first = position == sequence.num_prompt_tokens
        taken = put_token(sequence, position, token_id, self.eos_token_ids)
        num_logprobs = sequence.row_template.num_logprobs
        event = TokenEvent(
            request_id=sequence.request_id,
            index=sequence.index,
            token_ids=taken.token_ids,
            logprobs=[_logprob(token_id, result, row, num_logprobs)] if num_logprobs >= 0 else [],
            finish_reason=taken.finish_reason,
            stop_token_id=taken.stop_token_id,
            num_cached_tokens=sequence.num_cached_tokens if is_first else 0,
            prompt_logprobs=self._pop_prompt_logprobs(sequence) if is_first else None,
            queue_seconds=sequence.queue_seconds or 0.0 if is_first else 0.0,
        )
        if is_first:
            self._num_prompt_tokens += sequence.num_prompt_tokens if sequence.index == 0 else 0
            self._release_siblings(sequence)
        if event.finish_reason is not None:
            self._finish(sequence)
        return event

    def _take_grammars(self) -> None:
        """Queue the requests whose grammar is there."""
        assert self._grammars is not None
        is_idle = not (self.scheduler.running or self.scheduler.waiting)
        for compiled in self._grammars.take(GRAMMAR_WAIT if is_idle else 0.0):
            if compiled.request_id not in self._compiling:
                continue  # aborted meanwhile
            if compiled.state is None:
                self._refuse(compiled.request_id, f"the grammar cannot be compiled: {compiled.error}")
                continue
            self._compiling.remove(compiled.request_id)
            sequences = self._sequences[compiled.request_id]
            for sequence in sequences:
                sequence.grammar = compiled.state.copy()
            self._queue(sequences)

    def _refuse(self, request_id: str, message: str) -> None:
        if request_id in self._sequences:
            self.abort(request_id)
            self._refusals.append(Refusal(request_id, message, code="invalid_grammar"))

    def _pop_prompt_logprobs(self, sequence: Sequence) -> list[Logprob | None] | None:
        if not sequence.wants_prompt_logprobs:
            return None
        sequence.wants_prompt_logprobs = False  # done: after a preemption it may use the prefix cache
        return self._prompt_logprobs.pop(sequence.seq_id, [None])

    def _release_siblings(self, sequence: Sequence) -> None:
        for sibling in self._siblings.pop(sequence.seq_id, ()):
            self.scheduler.add(sibling)

    def _finish(self, sequence: Sequence) -> None:
        self._prompt_logprobs.pop(sequence.seq_id, None)
        self._poolers.pop(sequence.seq_id, None)
        open_sequences = self._sequences[sequence.request_id]
        open_sequences.remove(sequence)
        if not open_sequences:
            del self._sequences[sequence.request_id]
        if sequence.request_id in self._compiling:
            sequence.status = Status.FINISHED
            if not open_sequences:
                self._compiling.remove(sequence.request_id)
            return
        held = next((held for held in self._siblings.values() if sequence in held), None)
        if held is not None:
            held.remove(sequence)
            return
        self.scheduler.finish(sequence)
        self._release_siblings(sequence)


def _logprob(token_id: int, result: StepResult, row: int, num_logprobs: int) -> Logprob:
    top: list[tuple[int, float]] = []
    if num_logprobs > 0:
        ids, logprobs = (
            result.top_ids[row, :num_logprobs].tolist(),
            result.top_logprobs[row, :num_logprobs].tolist(),
        )
        top = list(zip(ids, logprobs, strict=True))
    return Logprob(token_id, float(result.logprobs[row]), top)
