"""Random numbers that are a function of their name and of nothing else.

Invariant: the value for (seed, step, trajectory, position) is the same whatever else is in the batch, in whichever
order, on whichever device, and however often it is asked for. There is no generator state to carry, shard or restore.

Each key moves a 64-bit state as SplitMix64 does (Steele, Lea, Flood, "Fast splittable pseudorandom number generators",
OOPSLA 2014): add a multiple of the golden gamma, then scramble. Integer arithmetic only, so devices agree bit for bit.
"""

from __future__ import annotations

import operator
from typing import Any

import torch


def _signed(value: int) -> int:
    """The int64 with the same low 64 bits."""
    return ((value + 2**63) % 2**64) - 2**63


_GAMMA = _signed(0x9E3779B97F4A7C15)
_MULTIPLY_1 = _signed(0xBF58476D1CE4E5B9)
_MULTIPLY_2 = _signed(0x94D049BB133111EB)


def _wrap(x: Any) -> Any:
    """Tensors wrap by themselves. Keys that are plain ints stay ints as long as they can: much quicker than tensors of
    one."""
    return x if isinstance(x, torch.Tensor) else _signed(x)


def _shift_right(x: Any, bits: int) -> Any:
    """Logical shift: `>>` copies the sign bit in, the mask takes it out again."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _scramble(x: Any) -> Any:
    x = _wrap((x ^ _shift_right(x, 30)) * _MULTIPLY_1)
    x = _wrap((x ^ _shift_right(x, 27)) * _MULTIPLY_2)
    return x ^ _shift_right(x, 31)


def _as_int64(key: torch.Tensor | int) -> torch.Tensor | int:
    if isinstance(key, torch.Tensor):
        if key.is_floating_point() or key.is_complex():
            raise TypeError(f"a random-number key has dtype {key.dtype}; keys are integers: round or hash it first")
        return key.to(torch.int64)
    return _signed(operator.index(key))


def uniform(*keys: torch.Tensor | int) -> torch.Tensor:
    """Uniform numbers in [0, 1) with 53 random bits, float64, in the broadcast shape of `keys`.

    `keys` are integer tensors or ints, at least one; their order and their number matter. Ints outside 64 bits are
    taken modulo 2**64.
    """
    if not keys:
        raise TypeError("uniform() needs at least one key, for example uniform(seed, episode_id, position)")
    state: Any = 0
    for key in keys:
        # + 1: a key of 0 must move the state too
        state = _scramble(_wrap(state + _wrap((_as_int64(key) + 1) * _GAMMA)))
    return torch.as_tensor(_shift_right(state, 11)).to(torch.float64) * 2.0**-53
