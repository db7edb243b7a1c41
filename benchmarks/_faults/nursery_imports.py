"""Everything that the processes of a campaign import, so that their parent has it already; and nothing started."""

import apache_beam.runners.portability.fn_api_runner.fn_runner
import apache_beam.runners.portability.prism_runner
import google.cloud.bigtable_v2
import grpc
import pyarrow.flight
import torch._dynamo  # torch's optimizers import it at their first step: a second of work
import uvicorn.protocols.http.h11_impl

import monobeam.pipelines.check
import monobeam.pipelines.options
import monobeam.pipelines.run
import monobeam.serving.app
import monobeam.serving.service
import monobeam.store.lmdb
import monobeam.transforms.train  # noqa: F401
