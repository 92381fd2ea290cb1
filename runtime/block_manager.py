"""Who owns which block of the KV cache, and which blocks already hold a given prefix.

A full block is known by a hash chain: blake2b over the hash of the block before it and its own tokens, begun
with the request's `cache_salt`. A block that nobody uses any more keeps its content until it is needed: the
prefix cache is the set of such blocks (and of those in use), evicted least recently used first.
"""

from collections import OrderedDict
from collections.abc import Iterable
from hashlib import blake2b

from pagedc.runtime.sequence import Sequence

# 128 bits: two prefixes with the same hash would share keys and values, so a collision must not be findable.
DIGEST_SIZE = 16


class BlockManager:
    """Pure bookkeeping: it sees block ids and token ids, never a tensor."""

    def __init__(self, num_blocks: int, block_size: int, *, prefix_cache: bool = True) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.prefix_cache = prefix_cache
        self._ref_counts = [0] * num_blocks
        self._free: list[int] = list(range(num_blocks - 1, -1, -1))  # without content
        self._evictable: OrderedDict[int, None] = OrderedDict()  # unused, with content; the oldest first
        self._block_of: dict[bytes, int] = {}
        self._hash_of: dict[int, bytes] = {}

    @property
    def num_free_blocks(self) -> int:
        """Blocks that can be allocated, those with cached content included."""
        return len(self._free) + len(self._evictable)

    @property
    def usage(self) -> float:
        """Share of the blocks that sequences hold, 0–1."""
        return 1.0 - self.num_free_blocks / self.num_blocks

    def can_allocate(self, sequence: Sequence, *, reserve: int = 0) -> bool:
        """Whether the blocks of all its tokens can be had, leaving `reserve` blocks free."""
        cached = self._match(sequence)
        num_new = self._num_blocks_of(len(sequence.token_ids)) - len(cached)
        num_revived = sum(1 for block in cached if self._ref_counts[block] == 0)
        return num_new + num_revived + reserve <= self.num_free_blocks

    def allocate(self, sequence: Sequence) -> int:
        """Give it the blocks of all its tokens; returns how many tokens the prefix cache holds already.

        At least the last token is always left to compute. Call only if `can_allocate`.
        """
        assert not sequence.block_table
        cached = self._match(sequence)
        for block in cached:  # all of them before any new one: taking a new one may evict
            if self._ref_counts[block] == 0:
                del self._evictable[block]
            self._ref_counts[block] += 1
        sequence.block_table.extend(cached)
        for _ in range(self._num_blocks_of(len(sequence.token_ids)) - len(cached)):
            sequence.block_table.append(self._take())
        sequence.num_committed_blocks = len(cached)
        sequence.num_computed_tokens = len(cached) * self.block_size
        return sequence.num_computed_tokens

    def needs_block(self, sequence: Sequence) -> bool:
        """Whether a token of it has no slot yet."""
        return len(sequence.token_ids) > len(sequence.block_table) * self.block_size

    def can_append(self, sequence: Sequence) -> bool:
        """Whether its tokens have, or can get, a slot each."""
        return self._num_missing_blocks(sequence) <= self.num_free_blocks

    def append(self, sequence: Sequence) -> None:
        """Give it the blocks that its newest tokens need. Call only if `can_append`."""
        for _ in range(self._num_missing_blocks(sequence)):
            sequence.block_table.append(self._take())

    def commit(self, sequence: Sequence, num_tokens: int) -> None:
        """Tell the prefix cache of the blocks that its first `num_tokens` fill: known and computed."""
        num_full = num_tokens // self.block_size
        if not self.prefix_cache or sequence.num_committed_blocks == num_full:
            return
        self._hash(sequence, num_full)
        for i in range(sequence.num_committed_blocks, num_full):
            digest, block = sequence.block_hashes[i], sequence.block_table[i]
            if digest not in self._block_of:  # else another sequence computed the same at the same time
                self._block_of[digest] = block
                self._hash_of[block] = digest
        sequence.num_committed_blocks = num_full

    def free(self, sequence: Sequence) -> None:
        """Take back its blocks; their content stays findable until it is evicted."""
        # The last block first: the beginning of a prefix is worth more and is evicted later.
        for block in reversed(sequence.block_table):
            self._ref_counts[block] -= 1
            if self._ref_counts[block] == 0:
                if block in self._hash_of:
                    self._evictable[block] = None
                else:
                    self._free.append(block)
        del sequence.block_table[:]
        sequence.num_computed_tokens = 0
        sequence.num_committed_blocks = 0

    def check_integrity(self, sequences: Iterable[Sequence] | None = None) -> None:
        """Raise AssertionError if the books disagree, with each other or with the tables of `sequences`."""
        in_use = [block for block, count in enumerate(self._ref_counts) if count > 0]
        everywhere = sorted([*self._free, *self._evictable, *in_use])
        assert everywhere == list(range(self.num_blocks)), (
            "each block is free, evictable or in use, and only one of them"
        )
        assert all(count >= 0 for count in self._ref_counts), "a block was freed twice"
        assert {block: digest for digest, block in self._block_of.items()} == self._hash_of, (
            "hashes and blocks pair up"
        )
        assert not any(block in self._hash_of for block in self._free), "a free block has no content"
        assert all(block in self._hash_of for block in self._evictable), "an evictable block has content"
        if sequences is None:
            return
        counts = [0] * self.num_blocks
        for sequence in sequences:
            for block in sequence.block_table:
                counts[block] += 1
            assert sequence.num_computed_tokens <= len(sequence.block_table) * self.block_size
        assert counts == self._ref_counts, "reference counts are those of the block tables"

    def _num_missing_blocks(self, sequence: Sequence) -> int:
        return max(0, self._num_blocks_of(len(sequence.token_ids)) - len(sequence.block_table))

    def _num_blocks_of(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def _match(self, sequence: Sequence) -> list[int]:
        """The longest cached prefix, as blocks, short of the last token."""
        if (
            not self.prefix_cache or sequence.wants_prompt_logprobs
        ):  # each prompt token needs its row of logits
            return []
        num_blocks = (len(sequence.token_ids) - 1) // self.block_size
        self._hash(sequence, num_blocks)
        blocks = []
        for digest in sequence.block_hashes[:num_blocks]:
            block = self._block_of.get(digest)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def _hash(self, sequence: Sequence, num_blocks: int) -> None:
        """Extend its chain to `num_blocks` blocks."""
        hashes, size = sequence.block_hashes, self.block_size
        previous = (
            hashes[-1] if hashes else blake2b(sequence.cache_salt.encode(), digest_size=DIGEST_SIZE).digest()
        )
        for i in range(len(hashes), num_blocks):
            tokens = sequence.token_ids[i * size : (i + 1) * size].tobytes()
            previous = blake2b(previous + tokens, digest_size=DIGEST_SIZE).digest()
            hashes.append(previous)

    def _take(self) -> int:
        if self._free:
            block = self._free.pop()
        else:
            block, _ = self._evictable.popitem(last=False)
            del self._block_of[self._hash_of.pop(block)]
        self._ref_counts[block] = 1
        return block
