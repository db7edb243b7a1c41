"""Saved tables as docs/formats.md describes them: the frame of blocks and checksums around the payload."""

import numpy as np

from tests.native.hashes import GOLDEN, WORD, mix

PROLOGUE = 24
BLOCK = 1 << 20
MAGIC = b"\0MBTABLE"


def checksum(data: bytes, seed: int) -> bytes:
    """Eight chains over the words of each 64 bytes, the last of which are padded with zeros."""
    chains = np.array([mix(seed + (i + 1) * GOLDEN & WORD) for i in range(8)], np.uint64)
    padded = data + bytes(64 - len(data) % 64)
    for words in np.frombuffer(padded, "<u8").reshape(-1, 8):
        product = (chains ^ words) * np.uint64(GOLDEN)
        chains = product ^ product >> np.uint64(32)
    total = mix(seed ^ len(data))
    for chain in chains.tolist():
        total = mix(total ^ chain)
    return total.to_bytes(8, "little")


def payload_of(file: bytes) -> bytes:
    """Without its frame, which must be right."""
    magic, length = file[:8], int.from_bytes(file[16:24], "little")
    assert magic == MAGIC
    blocks = file[PROLOGUE + 8 :]
    parts = [blocks[start : start + BLOCK] for start in range(0, len(blocks), BLOCK + 8)]
    sums = [blocks[start + BLOCK : start + BLOCK + 8] for start in range(0, len(blocks), BLOCK + 8)]
    if sums and not sums[-1]:
        parts[-1], sums[-1] = parts[-1][:-8], parts[-1][-8:]
    payload = b"".join(parts)
    assert len(payload) == length
    assert framed(payload, file[8]) == file
    return payload


def framed(payload: bytes, version: int = 4) -> bytes:
    """A file with right checksums, whatever its payload says."""
    prologue = MAGIC + version.to_bytes(4, "little") + bytes(4) + len(payload).to_bytes(8, "little")
    file = prologue + checksum(prologue, 0)
    for number, start in enumerate(range(0, len(payload), BLOCK), 1):
        block = payload[start : start + BLOCK]
        file += block + checksum(block, number)
    return file
