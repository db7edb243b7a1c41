"""The settings of a cluster on one machine: flink-conf/config.yaml, local.yaml over it, folders and ports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from examples.ports import free_ports

CONF = Path(__file__).parents[2] / "flink-conf"
PORTS = ("rest.port", "jobmanager.rpc.port", "blob.server.port", "high-availability.jobmanager.port")
QUORUM = "high-availability.zookeeper.quorum"


def layers(folder: Path, changed: Mapping[str, str]) -> dict[str, str]:
    """What holds for a cluster in ``folder``; ``changed`` wins, and a setting without a value is left out."""
    found = read(CONF / "config.yaml") | read(CONF / "local.yaml") | _folders(folder) | dict(changed)
    return {key: value for key, value in found.items() if value}


def read(path: Path) -> dict[str, str]:
    """Lines of ``key: value``; ValueError quotes any other."""
    return dict(_pairs(path))


def _pairs(path: Path) -> Iterator[tuple[str, str]]:
    for line in path.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            key, colon, value = line.partition(":")
            if not colon or (value and value[0] != " "):
                raise ValueError(f"{path}: {line!r} is not of the form 'key: value'")
            yield key, value.strip()


def write(path: Path, settings: Mapping[str, str]) -> None:
    """As Flink reads them."""
    path.write_text("".join(f"{key}: {value}\n" for key, value in settings.items()))


def own_ports() -> dict[str, str]:
    """Settings with ports of the loopback that nobody has."""
    *numbers, quorum = map(str, free_ports(len(PORTS) + 1))
    return {**dict(zip(PORTS, numbers, strict=True)), QUORUM: f"127.0.0.1:{quorum}"}


def _folders(folder: Path) -> dict[str, str]:
    kept = {"state.checkpoints.dir": "checkpoints", "state.savepoints.dir": "savepoints"}
    kept["high-availability.storageDir"] = "ha"
    return {key: f"file://{folder / name}" for key, name in kept.items()} | {"io.tmp.dirs": str(folder / "tmp")}
