"""The command that reshards a store in Bigtable, killed at calls that change something."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from monobeam.store.bigtable import BigtableBackend
from monobeam.store.bigtable.published import PUBLISHED
from monobeam.store.check import check
from tests.store.bigtable_proxy import Forward, Hold, Proxy
from tests.store.whole import Whole

LEASE_S = 0.5
CALLS = (1, 4, 6, 7, 8, 9, 10)  # of 11 to 13 before leases are given back: to take leases, to recover, to publish


def command(uri: str, shards: int, emulator: str) -> subprocess.Popen[bytes]:
    """The command, in a process of its own, with a connection of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "monobeam.store", "reshard", str(shards), f"--store={uri}?lease_s={LEASE_S}"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "BIGTABLE_EMULATOR_HOST": emulator},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def test_killed_at_any_call_it_goes_on(emulator: str, new_table: Callable[[], str]) -> None:
    """Readers see all rows meanwhile; the call that it died in arrives late, before or after another took over."""
    uri, content = new_table(), Whole()
    reader, numbers = BigtableBackend(uri), itertools.cycle((6, 2, 4))
    owner = BigtableBackend(uri, lease_s=LEASE_S, wait_s=10)
    owner.own()
    for _ in range(10):
        content.commit(owner, 4)
    for late, call in zip(itertools.cycle((True, False)), CALLS, strict=False):
        owner.close()
        before, wanted = len(content.epochs(reader)), next(numbers)
        proxy, hold = Proxy(emulator), Hold(call)
        proxy.hooks |= {"CheckAndMutateRow": hold, "MutateRows": hold}
        with command(uri, wanted, proxy.address) as child:
            assert hold.held.wait(60), child.communicate()
            content.check(reader, len(content.epochs(reader)))
            child.kill()
        if not late:
            hold.release()
        owner.own()
        if late:
            content.commit(owner)
            hold.release()
        proxy.close()
        shards = len(content.epochs(owner))
        assert shards in (before, wanted)
        content.check(reader, shards)
        assert check(owner).faults == ()
        owner.reshard(wanted)
        content.commit(owner)
        content.check(reader, wanted)
    owner.close()


@pytest.mark.parametrize("wanted", [2, 6])
def test_it_becomes_true_while_another_takes_over(
    emulator: str, new_table: Callable[[], str], monkeypatch: pytest.MonkeyPatch, wanted: int
) -> None:
    """Who was killed had sent the last call, which comes when the next owner has seen how many shards there were."""
    uri, content = new_table(), Whole()
    reader, proxy, hold = BigtableBackend(uri), Proxy(emulator), Hold(part=PUBLISHED)
    first = BigtableBackend(uri)
    first.own()
    content.commit(first, 4)
    first.close()
    proxy.hooks["CheckAndMutateRow"] = hold
    with command(uri, wanted, proxy.address) as child:
        assert hold.held.wait(60), child.communicate()
        child.kill()

    def let_it_come(request: bytes, forward: Forward) -> Iterable[bytes]:
        answers = list(forward(request))
        hold.release()
        until = time.monotonic() + 30
        while len(content.epochs(reader)) != wanted:
            assert time.monotonic() < until
        del takeover.hooks["ReadRows"]
        return answers

    takeover = Proxy(emulator)
    takeover.hooks["ReadRows"] = let_it_come
    monkeypatch.setenv("BIGTABLE_EMULATOR_HOST", takeover.address)
    owner = BigtableBackend(uri, lease_s=LEASE_S, wait_s=10)
    owner.own()
    content.commit(owner)
    content.check(reader, wanted)
    assert check(owner).faults == ()
    owner.close()
    assert owner.owners() == {}
    takeover.close()
    proxy.close()


def test_the_command_says_how_far_it_is(emulator: str, new_table: Callable[[], str]) -> None:
    uri, content = new_table(), Whole()
    owner = BigtableBackend(uri)
    owner.own()
    content.commit(owner, 4)
    owner.close()
    with command(uri, 6, emulator) as child:
        output, _ = child.communicate(timeout=60)
    assert child.returncode == 0, output
    assert b"cut from 4 into 6" in output
    content.check(BigtableBackend(uri), 6)
