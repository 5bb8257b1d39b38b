"""Named, seeded random streams.

Every draw in the project comes from a stream that is named after its purpose, so that no draw depends on how many others
were made before it, on the batch size, or on the number of workers.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator

import numpy as np


def make_stream(seed: int, *names: str | int) -> np.random.Generator:
    """Return the generator of a named stream.

    Parameters
    ----------
    seed : int
        Root seed, at least 0.
    *names : str or int
        The path of the stream, such as ``"noise", "validation", 3``.

    Returns
    -------
    numpy.random.Generator
        SFC64, seeded from the seed and the SHA-256 of the names.

    Raises
    ------
    ValueError
        If `seed` is negative.

    Examples
    --------
    >>> make_stream(7, "noise", 0).random() == make_stream(7, "noise", 0).random()
    True
    >>> make_stream(7, "noise", 0).random() == make_stream(7, "noise", 1).random()
    False
    """
    if seed < 0:
        raise ValueError(f"seed must be at least 0, received {seed}")
    path = "/".join(f"{type(name).__name__}:{name}" for name in names)
    words = np.frombuffer(hashlib.sha256(path.encode()).digest(), dtype=np.uint32)
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence([seed, *words.tolist()])))


def initializer_seeds(seed: int | None) -> Iterator[int | None]:
    """Yield a seed for each initializer of a network in turn, those Keras would take after `keras.utils.set_random_seed`.

    Keras takes them from Python's global random numbers. Threads of other libraries use those too, Prefect's at each ping of
    its server, so that the same training could begin with other weights. Without a seed it yields None, and Keras chooses.
    """
    drawn = random.Random(seed)
    while True:
        yield None if seed is None else drawn.randint(1, 10**9)
