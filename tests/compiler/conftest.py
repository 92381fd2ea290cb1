"""What every test of the compiler may count on: a quick C++ compiler."""

from collections.abc import Iterator

import pytest
from tests.quick_compiler import quick_compiler


@pytest.fixture(autouse=True, scope="module")
def _quick_compiler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXX", quick_compiler(tmp_path_factory.mktemp("cxx")))
        yield
