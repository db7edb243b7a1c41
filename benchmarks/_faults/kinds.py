"""The faults. Each strikes a deployment, is back when it has hit and its cause is gone, and knows whether it did hit.

What recovers is not awaited here: what must hold then is looked at when everything has come to rest.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable

from benchmarks._faults.deployment import LEASE_S
from benchmarks._faults.keeper import Role
from benchmarks._faults.proxy import control
from benchmarks._faults.world import World

Fault = Callable[[World, random.Random], None]
STEPS_S = (-86_400, -3600, -30, -2, 2, 30, 3600, 86_400)
FULL_BYTES = 64 << 10
STUCK_S = 0.7
HIT_WITHIN_S = 20.0


def kill(role: Callable[[World, random.Random], Role]) -> Fault:
    """kill -9 of a process while it works."""

    def strike(world: World, rng: random.Random) -> None:
        victim = role(world, rng)
        world.wait(f"{victim.name} to run", lambda: victim.is_running, HIT_WITHIN_S)
        time.sleep(rng.uniform(0, 0.4))  # at any moment of its start, its work, or a commit
        world.wait(f"{victim.name} to run", lambda: victim.is_running, HIT_WITHIN_S)
        assert victim.child is not None
        victim.child.kill()

    return strike


def kill_everything(world: World, rng: random.Random) -> None:
    """kill -9 of all processes, and all start again at once."""
    with world.keeper.lock:
        for role in rng.sample(list(world.keeper.roles.values()), len(world.keeper.roles)):
            if role.child is not None:
                role.child.kill()


def pause(role: Callable[[World, random.Random], Role]) -> Fault:
    """SIGSTOP, a while in which the others go on, SIGCONT."""

    def strike(world: World, rng: random.Random) -> None:
        victim = role(world, rng)
        world.wait(f"{victim.name} to run", lambda: victim.is_running, HIT_WITHIN_S)
        time.sleep(rng.uniform(0, 0.3))
        assert victim.child is not None
        victim.child.signal(signal.SIGSTOP)
        try:
            time.sleep(rng.uniform(0.5, 1.0) if world.plan.store == "lmdb" else rng.uniform(1.2, 2.2) * LEASE_S)
        finally:
            victim.child.signal(signal.SIGCONT)

    return strike


def disturb(kind: str) -> Fault:
    """Events of the sync log that are lost, repeated or reordered on their way."""

    def strike(world: World, rng: random.Random) -> None:
        before, to_the_end = world.relay.done[kind], kind == "lose" and rng.random() < 0.5
        world.relay.disturb(kind, 1_000_000 if to_the_end else rng.randint(1, 4))
        try:
            world.wait(f"an event to {kind}", lambda: world.relay.done[kind] > before, HIT_WITHIN_S)
            time.sleep(rng.uniform(0, 0.3))
            if to_the_end:  # no event comes after those that are lost: only the store can tell
                world.grow(False)
                world.wait("the whole archive to be trained", world.is_trained)
                time.sleep(0.1)
        finally:
            world.relay.settle()

    return strike


def step_clock(role: Callable[[World, random.Random], Role]) -> Fault:
    """A wall clock that jumps, and stays wrong; hit when a commit was made or served by it."""

    def strike(world: World, rng: random.Random) -> None:
        victim = role(world, rng)
        victim.clock.step(rng.choice(STEPS_S))
        before = _epochs(world)
        world.wait("a commit after the clock was put", lambda: _epochs(world) != before, HIT_WITHIN_S)

    return strike


def fill_disk(world: World, rng: random.Random) -> None:
    """No file of the store's owner may grow, as on a full disk; hit when it ended for that, or commits nothing."""
    owner = world.owner()
    starts = owner.starts
    owner.limit_files(FULL_BYTES, later=world.plan.runner != "prism")  # Prism itself cannot start with that limit
    try:
        world.wait("a full disk to be felt", lambda: _stands_still(world) or owner.starts > starts, HIT_WITHIN_S)
    finally:
        owner.limit_files(None)


def cut_connections(world: World, rng: random.Random) -> None:
    """kill -9 of what stands before Bigtable: every connection breaks, and for a moment there is none to be had."""
    (proxy,) = (role for role in world.keeper.roles.values() if role.name == "proxy")
    world.wait("the proxy to run", lambda: proxy.is_running, HIT_WITHIN_S)
    assert proxy.child is not None
    proxy.child.kill()
    time.sleep(rng.uniform(0, 0.5))


def meddle(kind: str) -> Fault:
    """Calls to Bigtable of which the proxy makes something else."""

    def strike(world: World, rng: random.Random) -> None:
        address = world.deployment.proxy
        before = control(address).get(kind, 0)
        control(address, {"kind": kind, "calls": rng.randint(1, 12), "seed": rng.getrandbits(32)})
        try:
            world.wait(f"a call to {kind}", lambda: control(address).get(kind, 0) > before, HIT_WITHIN_S)
            time.sleep(rng.uniform(0, 0.5))
        finally:
            control(address, {"kind": kind, "calls": 0, "seed": 0})

    return strike


def any_shard_server(world: World, rng: random.Random) -> Role:
    """One that has shards rather than one that waits for them, as far as that can be seen."""
    ready = [role for role in world.servers if role.is_running and role.child is not None and role.child.has_said]
    return rng.choice(ready or world.servers)


def trainer(world: World, rng: random.Random) -> Role:
    return world.trainer


def any_server(world: World, rng: random.Random) -> Role:
    return rng.choice(world.serving)


FAULTS: dict[str, Fault] = {
    "kill_trainer": kill(trainer),
    "kill_serving": kill(any_server),
    "kill_everything": kill_everything,
    "pause_trainer": pause(trainer),
    "pause_serving": pause(any_server),
    "lose_events": disturb("lose"),
    "repeat_events": disturb("repeat"),
    "reorder_events": disturb("reorder"),
    "step_trainer_clock": step_clock(trainer),
    "step_serving_clock": step_clock(any_server),
    "fill_disk": fill_disk,
    "cut_connections": cut_connections,
    "fail_calls": meddle("fail"),
    "delay_calls": meddle("delay"),
    "half_apply_writes": meddle("half"),
    "lose_answers": meddle("lose_answer"),
    "apply_writes_late": meddle("apply_late"),
    "cut_reads": meddle("cut_read"),
    "kill_server": kill(any_shard_server),
    "pause_server": pause(any_shard_server),
    "step_server_clock": step_clock(any_shard_server),
}


def _epochs(world: World) -> tuple[int, ...]:
    manifest = world.manifest()
    return () if manifest is None else manifest.epochs


def _stands_still(world: World) -> bool:
    """Whether nothing was committed for a while in which there was something to commit."""
    before = _epochs(world)
    time.sleep(STUCK_S)
    return _epochs(world) == before and not world.is_trained()
