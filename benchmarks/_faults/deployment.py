"""Which processes there are in a deployment, with the command line of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks._faults.keeper import Role
from benchmarks._faults.plan import Plan
from examples.emulators import BIGTABLE_HOST
from examples.ports import free_ports

SERVING = ("serving0", "serving1")
LEASE_S = 1.0


@dataclass(frozen=True)
class Deployment:
    """A plan with the addresses that it got; ``emulator``: HOST:PORT of the Bigtable emulator, or ''."""

    plan: Plan
    folder: Path
    emulator: str
    prism: str
    ports: Mapping[str, int]

    @staticmethod
    def of(plan: Plan, folder: Path, emulator: str, prism: str) -> Deployment:
        """With free ports."""
        names = [*SERVING, "proxy", *_shards_by_server(plan)]
        return Deployment(plan, folder, emulator, prism, dict(zip(names, free_ports(len(names)), strict=True)))

    @property
    def store(self) -> str:
        """Where parameters are durable."""
        if self.plan.store == "lmdb":
            return f"lmdb:{self.folder / 'store'}"
        return f"bigtable://project/instance/{self.folder.name}?lease_s={LEASE_S}"

    @property
    def reached_by(self) -> str:
        """The address that the trainer and serving have."""
        if not self.plan.remote:
            return self.store
        return "flight://" + ",".join(f"127.0.0.1:{self.ports[name]}" for name in _shards_by_server(self.plan))

    @property
    def proxy(self) -> str:
        """Where the emulator is reached by everybody but the campaign itself."""
        return f"127.0.0.1:{self.ports['proxy']}"

    def log(self, name: str) -> str:
        """The address of a log."""
        return f"file:{self.folder / name}"

    def trainer(self) -> Role:
        """`python -m monobeam.pipelines.train`."""
        runner = []
        if self.plan.runner == "prism":
            runner = ["--runner=PrismRunner", "--streaming", f"--prism_location={self.prism}"]
        places = [f"--{name}={self.log(name)}" for name in ("examples", "sync", "metrics")]
        return self._role(
            "trainer", "monobeam.pipelines.train", self._config, f"--store={self.reached_by}", *places, *runner
        )

    def serving(self) -> Iterator[Role]:
        """`python -m monobeam.serving`, twice."""
        places = f"--store={self.reached_by}", f"--sync={self.log('relayed')}"
        for name in SERVING:
            yield self._role(name, "monobeam.serving", self._config, f"--port={self.ports[name]}", *places)

    def servers(self) -> Iterator[Role]:
        """`python -m monobeam.store.server`: two for each range of shards, of which one waits for the other to fail."""
        for name, shards in _shards_by_server(self.plan).items():
            listen = f"--listen=grpc://127.0.0.1:{self.ports[name]}"
            yield self._role(name, "monobeam.store.server", f"--shards={shards}", f"--store={self.store}", listen)

    def proxies(self) -> Iterator[Role]:
        """The proxy before the emulator, where there is one."""
        if self.plan.store == "bigtable":
            options = f"--port={self.ports['proxy']}", f"--emulator={self.emulator}"
            yield self._role("proxy", "benchmarks._faults.proxy", *options)

    @property
    def _config(self) -> str:
        return f"--config={self.folder / 'model.toml'}"

    def _role(self, name: str, module: str, *arguments: str) -> Role:
        return Role(name, module, arguments, self.folder, {BIGTABLE_HOST: self.proxy})


def _shards_by_server(plan: Plan) -> dict[str, str]:
    if not plan.remote:
        return {}
    last = plan.shards - 1
    ranges = [f"0-{last // 2}", f"{last // 2 + 1}-{last}"] if plan.store == "bigtable" and last else [f"0-{last}"]
    return {f"server{number}{which}": shards for number, shards in enumerate(ranges) for which in "ab"}
