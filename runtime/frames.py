"""Length-prefixed frames: what travels on the socket between the server's process and an engine's."""

from pagedc.runtime.errors import EngineError

# Bytes. The largest honest frame is the prompt_logprobs of a prompt of 128k tokens, some 40 MB.
MAX_FRAME_BYTES = 256 << 20
_PREFIX_BYTES = 4


class FrameError(EngineError):
    """What came is no frame: the other side is broken."""


def frame(data: bytes) -> bytes:
    """`data` with its length before it; raises FrameError for more than the other side takes."""
    if len(data) > MAX_FRAME_BYTES:
        raise FrameError(f"a message of {len(data)} bytes is larger than a frame may be, {MAX_FRAME_BYTES}")
    return len(data).to_bytes(_PREFIX_BYTES, "little") + data


class FrameReader:
    """Cuts a stream of bytes back into frames, in time linear in its length."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that `data` completes; raises FrameError for a length that no frame has."""
        buffer = self._buffer
        buffer += data
        frames = []
        begin = 0
        while len(buffer) - begin >= _PREFIX_BYTES:
            length = int.from_bytes(buffer[begin : begin + _PREFIX_BYTES], "little")
            if length > MAX_FRAME_BYTES:
                raise FrameError(f"a frame claims {length} bytes, above {MAX_FRAME_BYTES}")
            end = begin + _PREFIX_BYTES + length
            if len(buffer) < end:
                break
            frames.append(bytes(buffer[begin + _PREFIX_BYTES : end]))
            begin = end
        del buffer[:begin]
        return frames
