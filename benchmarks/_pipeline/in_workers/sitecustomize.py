"""Says what Python workers spend their CPU time on. Python imports this at its start where its folder is on the path.

Every few milliseconds the CPU time that each thread has used since is put down to what it is doing. What threads
without a Python frame use (clients of Kafka and gRPC) is the rest of what the process uses.
"""

import json
import os
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path
from types import FrameType

FOLDER = "MONOBEAM_CPU_FOLDER"
EVERY_S = 0.02
SAY_EVERY_S = 1.0
STEPS = {
    "transforms/read.py": "source",
    "transforms/join.py": "join",
    "transforms/append.py": "append",
    "transforms/train.py": "train",
}


def doing(frame: FrameType | None) -> str:
    """The step that a thread is in, by the innermost frame that tells; else it is the runner's."""
    while frame is not None:
        name = frame.f_code.co_filename
        for ending, step in STEPS.items():
            if name.endswith(ending):
                return step
        frame = frame.f_back
    return "runner"


def watch(folder: Path) -> None:
    """For ever."""
    spent = defaultdict[str, float](float)
    used: dict[int, float] = {}
    said = 0.0
    while True:
        time.sleep(EVERY_S)
        for thread, frame in sys._current_frames().items():
            try:
                now = time.clock_gettime(time.pthread_getcpuclockid(thread))
            except (OSError, OverflowError):  # it has just ended
                used.pop(thread, None)
                continue
            step = "watching" if thread == threading.get_ident() else doing(frame)
            before = used.get(thread, now)
            spent[step] += now - before if now >= before else now  # the name of a thread that has ended is given again
            used[thread] = now
        if time.monotonic() - said > SAY_EVERY_S:
            said = time.monotonic()
            clients = max(0.0, time.process_time() - sum(spent.values()))
            written = folder / f"{os.getpid()}.new"
            written.write_text(json.dumps({**spent, "clients": clients}))
            written.rename(written.with_suffix(".json"))


if FOLDER in os.environ and any("sdk_worker_main" in argument for argument in sys.orig_argv):
    threading.Thread(target=watch, args=(Path(os.environ[FOLDER]),), daemon=True).start()
