"""One arena a domain, planned from lifetimes: a buffer takes the lowest place that is free while it lives."""

from pagedc.compiler.program import Buffer, Program

ALIGNMENT = 64  # bytes


def plan_memory(program: Program) -> None:
    """Set each buffer's offset and the arenas' sizes, in bytes a token or row."""
    for domain in ("token", "row"):
        placed: list[Buffer] = []
        size = 0
        for buffer in sorted((b for b in program.buffers if b.domain == domain), key=lambda b: b.first):
            alive = sorted((b for b in placed if b.last >= buffer.first), key=lambda b: b.offset)
            buffer.offset = _lowest_gap(alive, _aligned(buffer.row_bytes))
            placed.append(buffer)
            size = max(size, buffer.offset + _aligned(buffer.row_bytes))
        program.arena_bytes[domain] = size


def _lowest_gap(alive: list[Buffer], size: int) -> int:
    position = 0
    for other in alive:
        if other.offset - position >= size:
            break
        position = max(position, other.offset + _aligned(other.row_bytes))
    return position


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
