"""The core under the address, undefined-behaviour and thread sanitizers of the compiler."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = [path for path in sorted((ROOT / "native").glob("*.cpp")) if path.name != "binding.cpp"]
SOURCES = [*CORE, Path(__file__).with_name("table_test.cpp")]


@pytest.mark.parametrize(("sanitizers", "level"), [("address,undefined", "-O0"), ("thread", "-O1")])
def test_random_operations(sanitizers: str, level: str, tmp_path: Path) -> None:
    compiler = shutil.which("g++")
    if compiler is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no g++: the sanitizers must run in continuous integration")
        pytest.skip("no g++ to build the sanitized table with")
    program, unity = tmp_path / "table_test", tmp_path / "unity.cpp"
    # One translation unit: most of the time goes into reading the same headers.
    unity.write_text("".join(f'#include "{source}"\n' for source in SOURCES))
    flags = ["-std=c++17", level, "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", "-pthread"]
    flags += [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all", f"-I{ROOT / 'native'}"]
    subprocess.run([compiler, *flags, str(unity), "-o", str(program)], check=True)
    result = subprocess.run([str(program), str(tmp_path / "table"), "600"], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
