from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagedc.runtime.frames import MAX_FRAME_BYTES, FrameError, FrameReader, frame


@given(st.lists(st.binary(max_size=40)), st.lists(st.integers(0, 400)))
def test_frames_survive_any_cut(contents: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(map(frame, contents))
    bounds = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    reader = FrameReader()
    found: list[bytes] = []
    for begin, end in pairwise(bounds):
        found += reader.feed(stream[begin:end])
    assert found == contents


def test_a_length_that_no_frame_has() -> None:
    with pytest.raises(FrameError, match="a frame claims 4294967295 bytes"):
        FrameReader().feed(b"\xff" * 8)
    assert FrameReader().feed(MAX_FRAME_BYTES.to_bytes(4, "little")) == []
