"""What a process says about itself: a line of logfmt for each event, on standard error, by default from warnings on.

time=2026-01-31T08:00:00.250Z level=warning logger=monobeam.serving.periodic message="follower failed, ..."
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time

VARIABLE = "MONOBEAM_LOG"
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


class LogLevelError(ValueError):
    """A level that is none."""


class Logfmt(logging.Formatter):
    """``time=... level=... logger=... message="..."``, and ``error="..."`` with the traceback; quoted as in JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _quoted(record.getMessage()),
        }
        if record.exc_info:
            fields["error"] = _quoted(self.formatException(record.exc_info))
        return " ".join(f"{name}={value}" for name, value in fields.items())


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def level(name: str = "") -> str:
    """A level's name in capitals; '': that of MONOBEAM_LOG, or else WARNING. LogLevelError quotes what is none."""
    source, wanted = ("log level", name) if name else (VARIABLE, os.environ.get(VARIABLE) or "WARNING")
    if wanted.upper() not in LEVELS:
        raise LogLevelError(f"{source} {wanted!r}: must be one of {', '.join(LEVELS)}")
    return wanted.upper()


def to_standard_error(name: str = "", known: tuple[str, ...] = ()) -> None:
    """Log from this level on (see ``level``), Python's own warnings among the rest.

    ``known``: what messages begin with that are nothing to worry about; they are left out but at INFO and below.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Logfmt())
    if logging.getLevelName(level(name)) > logging.INFO:
        handler.addFilter(lambda record: not str(record.msg).startswith(known))
    logging.basicConfig(level=level(name), handlers=[handler])
    logging.captureWarnings(True)
