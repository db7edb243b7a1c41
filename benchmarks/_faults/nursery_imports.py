"""Everything that the processes of a campaign import, so that their parent has it already; and nothing started."""

import monobeam.pipelines.check
import monobeam.pipelines.options
import monobeam.pipelines.run
import monobeam.serving.app
import monobeam.serving.service
import monobeam.store.lmdb
import monobeam.transforms.train  # noqa: F401
