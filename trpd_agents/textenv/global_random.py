"""Python's and NumPy's global random generators, lent to code that draws from them.

Invariant: what is drawn inside a `with` depends on the seed and on what was drawn in it before, and nobody outside
notices. Generators belong to a process: not for several threads of one.
"""

from __future__ import annotations

import random

import numpy as np


class GlobalRandom:
    """A state of both generators that is in force only inside `with`."""

    def __init__(self, seed: int):
        self._python = random.Random(seed).getstate()
        self._numpy = np.random.RandomState(seed % 2**32).get_state()

    def __enter__(self) -> None:
        self._callers = random.getstate(), np.random.get_state()
        random.setstate(self._python)
        np.random.set_state(self._numpy)

    def __exit__(self, *exception: object) -> None:
        self._python, self._numpy = random.getstate(), np.random.get_state()
        random.setstate(self._callers[0])
        np.random.set_state(self._callers[1])
