"""Which address each log and store may have, by runner: what cannot work is refused before a job is built."""

from __future__ import annotations

import ipaddress
import re
import sys
from collections.abc import Callable, Iterator

from monobeam.logs.pubsub import Subscription, is_subscription
from monobeam.models.config import Config
from monobeam.models.section import quoted

RAW = ("impressions", "actions")
_LOGS = ("examples", "sync", "dead_letters", "metrics")


def check_subscriptions(config: Config, used: tuple[str, ...], fail: Callable[[str], object]) -> None:
    """Refuse Pub/Sub in a bounded run."""
    for option, uri in _addresses(config, used):
        if is_subscription(uri):
            fail(
                f"--{option}={uri}: a subscription has no end and no offsets, so only a streaming job can read it: "
                "run join or online with --streaming, or name a log that keeps these records"
            )


def warn_of_loss(config: Config, used: tuple[str, ...], runner: str) -> None:
    """Say on standard error that a runner without checkpoints does not keep what subscriptions give."""
    if uris := [uri for option, uri in _addresses(config, used) if option in RAW and is_subscription(uri)]:
        sys.stderr.write(
            f"warning: {runner} keeps nothing when it ends: what it has acknowledged and not yet made examples of is "
            f"lost then. To have it again put {', '.join(Subscription.parse(uri).uri for uri in uris)} back to a time "
            "before (gcloud pubsub subscriptions seek); a Flink cluster and Dataflow keep it\n"
        )


def check_reach(config: Config, used: tuple[str, ...], fail: Callable[[str], object]) -> None:
    """Refuse what is on one machine alone, for a runner whose workers are others that come and go."""
    for option, uri in _addresses(config, used):
        if reason := _unreachable(option, uri):
            fail(f"--{option}={uri}: {reason}")


def _addresses(config: Config, used: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """The options that a command uses, each with its address."""
    for option in used:
        if option in RAW:
            yield from ((option, uri) for uri in getattr(config.logs, option))
        elif option in _LOGS:
            yield option, getattr(config.logs, option)
    if "store" in used:
        yield "store", config.store.uri
    if "cold" in used:
        yield "cold", config.join.cold


def _unreachable(option: str, uri: str) -> str:
    """Why workers elsewhere cannot use an address; '' if they can."""
    kind, separator, _ = uri.partition(":")
    if option == "store" and kind in ("lmdb", "memory"):
        return (
            "is in one process or directory, which workers of Dataflow do not share: use "
            "bigtable://PROJECT/INSTANCE/TABLE, or shard servers at flight://HOST:PORT"
        )
    if option == "cold" and kind == "lmdb":
        return "is a directory of one machine, which workers of Dataflow do not share: use memory: (docs/dataflow.md)"
    if not separator or kind == "file":
        return (
            "is a directory of this machine, which workers of Dataflow do not see: use kafka://HOST:PORT/TOPIC"
            f"{', or pubsub://PROJECT/SUBSCRIPTION?schema=FILE.avsc' if option in RAW else ''}"
        )
    if kind not in ("bigtable", "pubsub") and (here := [host for host in _hosts(uri) if _is_loopback(host)]):
        return f"{quoted(here[0])} is this machine, which workers of Dataflow would take for themselves: name the host"
    return ""


def _hosts(uri: str) -> list[str]:
    """The hosts in KIND://HOST:PORT,HOST:PORT/..."""
    _, _, rest = uri.partition("://")
    return [re.sub(r":\d+$", "", place).strip("[]") for place in re.split(r"[/?]", rest)[0].split(",")]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
