"""What damage, age and malice make of an ONNX file: seeded mutations of its bytes and its graph.

Each mutation takes a protobuf and a generator and changes it in place; it may find nothing to
change. The same seed gives the same file.
"""

from __future__ import annotations

import onnx
from google.protobuf.message import DecodeError

from mutations import around, data, insertions, nesting, nodes, weights
from mutations.base import MUTATIONS, Rng, pick

__all__ = ["around", "data", "insertions", "mutate", "nesting", "nodes", "weights"]


def mutate(content: bytes, rng: Rng) -> bytes:
    """One to three mutations of a graph, mostly one, or some damage to the bytes."""
    if rng.random() < 0.15:
        return _damaged(content, rng)
    proto = onnx.load_from_string(content)
    for _ in range(pick((1, 1, 1, 1, 2, 3), rng)):
        try:
            pick(MUTATIONS, rng)(proto, rng)
        except DecodeError:  # nested deeper than protobuf copies: deep enough
            break
    return proto.SerializeToString()


def _damaged(content: bytes, rng: Rng) -> bytes:
    """Cut, flipped, overwritten, inserted, left out or said twice."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        # Weights lie behind the nodes, and are most of a file: damage the front more often.
        start = int(len(data) * rng.random() ** 3)
        stop = start + int(rng.integers(1, 40))
        way = rng.integers(6)
        if way == 0:
            del data[start + 1 :]
        elif way == 1 and start < len(data):
            data[start] ^= 1 << int(rng.integers(8))
        elif way == 2:
            data[start:stop] = rng.bytes(stop - start)
        elif way == 3:
            data[start:start] = rng.bytes(stop - start)
        elif way == 4:
            del data[start:stop]
        else:
            data[start:start] = data[start:stop]
    return bytes(data)
