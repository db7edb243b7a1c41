"""The C++ core by a program of its own: a million random calls beside a twin, out of memory, among threads.

It is built as users get it, and with the address, undefined-behaviour and thread sanitizers of the compiler.
"""

import os
import re

import pytest

from tests.native.programs import AS_USERS, CALLS, LIMIT_S, SANITIZERS, Programs


@pytest.mark.parametrize("how", SANITIZERS)
@pytest.mark.timeout(LIMIT_S)
def test_a_million_calls(how: str, core_programs: Programs | None) -> None:
    if core_programs is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no g++: the sanitizers must run in continuous integration")
        pytest.skip("no g++ to build the program with")
    assert "-O3" in AS_USERS.split()
    result = core_programs.results[how].result()
    assert result.returncode == 0, result.stderr
    calls = re.search(r"^calls (\d+)$", result.stdout, re.MULTILINE)
    assert calls is not None
    assert int(calls[1]) >= CALLS
