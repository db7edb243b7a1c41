"""Everything that the processes of a campaign import, so that their parent has it already; and nothing started."""

import importlib

for _name in (
    "benchmarks._faults.campaign",  # the main program's own, which multiprocessing imports in every child
    "apache_beam.runners.portability.fn_api_runner.fn_runner",
    "apache_beam.runners.portability.prism_runner",
    "torch._dynamo",  # torch's optimizers import it at their first step: a second of work
    "uvicorn.protocols.http.h11_impl",
    "monobeam.pipelines.check",
    "monobeam.pipelines.options",
    "monobeam.pipelines.run",
    "monobeam.serving.app",
    "monobeam.serving.service",
    "monobeam.store.bigtable.backend",
    "monobeam.store.flight_store",
    "monobeam.store.shard_server",
    "monobeam.store.lmdb",
    "monobeam.transforms.train",
):
    importlib.import_module(_name)
