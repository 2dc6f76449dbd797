"""Random generators keyed by what they are for, so that no draw depends on another run or on history.

A draw is a pure function of (run seed, stream name, index): a lane does not depend on its neighbours, a resumed run
repeats the same numbers, and drawing more for one purpose (evaluation) changes nothing elsewhere.
"""

from __future__ import annotations

import zlib

import numpy as np


def generator(seed: int, stream: str, index: int = 0) -> np.random.Generator:
    """The generator of one stream of one run.

    Args:
        seed: the run's seed, a non-negative integer.
        stream: what the numbers are for, e.g. "batches".
        index: position in the stream, e.g. a block of updates.
    """
    key = np.random.SeedSequence([seed, zlib.crc32(stream.encode()), index])
    return np.random.Generator(np.random.Philox(key))
