"""CPU time and memory of a benchmark's processes, by what they are."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

KINDS = {
    "sdk_worker_main": "workers",
    "TaskManagerRunner": "task_managers",
    "StandaloneSessionClusterEntrypoint": "job_manager",
    "kafka.Kafka": "broker",
    "monobeam.pipelines": "command",
    "job-server.jar": "job_server",
    "_pipeline.feed": "feed",
    "monobeam.serving": "server",
    "bin/prism": "prism",
}
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """What processes have used.

    ``cpu_s``: since each started, by kind; ``memory_mb``: theirs alone, so without files that are mapped; ``steps_s``:
    CPU seconds of Python workers, by what they did.
    """

    cpu_s: Mapping[str, float]
    memory_mb: Mapping[str, float]
    steps_s: Mapping[str, float]


def usage(folder: Path) -> Usage:
    """Of what this process has started, directly or not; ``folder``: where workers say what they do."""
    cpu, memory = defaultdict[str, float](float), defaultdict[str, float](float)
    for pid, kind in _ours(folder):
        try:
            times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:  # it has just ended
            continue
        cpu[kind] += (int(times[11]) + int(times[12])) / _TICK
        anonymous = [line.split()[1] for line in status.splitlines() if line.startswith("RssAnon:")]
        memory[kind] += sum(map(int, anonymous)) / 1024
    steps = defaultdict[str, float](float)
    for path in folder.glob("*.json"):
        said: dict[str, float] = json.loads(path.read_text())
        for step, seconds in said.items():
            steps[step] += seconds
    return Usage(cpu, memory, steps)


def _ours(folder: Path) -> Iterator[tuple[int, str]]:
    """Processes with the benchmark's folder in their environment, and what they are."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes().decode(errors="replace")
            if str(folder).encode() not in (entry / "environ").read_bytes():
                continue
        except OSError:
            continue
        kind = next((kind for part, kind in KINDS.items() if part in command), None)
        if kind is not None:
            yield int(entry.name), kind
