"""What the launcher of a flex template runs in the image of ``Dockerfile``: the pipeline that this was built for."""

from __future__ import annotations

import importlib
import os
import sys

from monobeam.pipelines.template import arguments

if __name__ == "__main__":
    pipeline = os.environ["MONOBEAM_PIPELINE"]
    command = importlib.import_module(f"monobeam.pipelines.{pipeline}")
    command.main(arguments(pipeline, sys.argv[1:], os.environ.get("MONOBEAM_IMAGE", "")))
