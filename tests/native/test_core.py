"""The C++ core by a program of its own: a million random calls beside a twin, out of memory, among threads.

It is built as users get it, and with the address, undefined-behaviour and thread sanitizers of the compiler.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).with_name("core")
CORE = [path for path in sorted((ROOT / "native").glob("*.cpp")) if path.name != "binding.cpp"]
SOURCES = [*CORE, *sorted(HERE.glob("*.cpp"))]
CALLS = 1_000_000
FLAGS = ["-Wall", "-Wextra", "-Werror", "-pthread"]
AS_USERS = " ".join(re.findall(r'^ +"(-\S+)",$', (ROOT / "setup.py").read_text(), re.MULTILINE))
MEMORY = Path("/dev/shm")  # some thousand small files are flushed to disk otherwise


@pytest.mark.parametrize("how", ["", "-O1 -fsanitize=address,undefined", "-O2 -fsanitize=thread"])
@pytest.mark.timeout(900)
def test_a_million_calls(how: str, tmp_path: Path) -> None:
    compiler = shutil.which("g++")
    if compiler is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no g++: the sanitizers must run in continuous integration")
        pytest.skip("no g++ to build the program with")
    program, unity = tmp_path / "program", tmp_path / "unity.cpp"
    # One translation unit: most of the time goes into reading the same headers.
    unity.write_text("".join(f'#include "{source}"\n' for source in SOURCES))
    assert "-O3" in AS_USERS.split()
    flags = [*FLAGS, *AS_USERS.split(), *how.split(), "-fno-sanitize-recover=all", f"-I{ROOT / 'native'}", f"-I{HERE}"]
    subprocess.run([compiler, *flags, str(unity), "-o", str(program)], check=True)
    with TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        result = subprocess.run([str(program), folder, str(CALLS)], capture_output=True, text=True, timeout=850)
    assert result.returncode == 0, result.stderr
    calls = re.search(r"^calls (\d+)$", result.stdout, re.MULTILINE)
    assert calls is not None
    assert int(calls[1]) >= CALLS
