"""What decides an episode: its seed and its actions, and nothing else in the process."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from trpd_agents.textenv.checks.finding import Finding, error, ok, warning
from trpd_agents.textenv.checks.probe import WATCHED, Episode, Probe, first_difference

_SEEDS = range(8)  # among which at least two episodes should differ
_OWN_RNG = "Draw everything from self.np_random, which super().reset(seed=seed) seeds, or from a random.Random of it."
_COMPARED = (
    "Comparisons between models are paired by seed, the oracle teacher replays episodes, and a result that cannot be "
    "repeated cannot be looked into."
)


def determinism(probe: Probe) -> Iterator[Finding]:
    """The same seed and actions give the same episode: twice, and played in turns with another one."""
    found = list(_repeats(probe)) + list(_interleaved(probe))
    yield from found or [ok("the same seed and actions give the same episode, beside another one, too")]
    yield from _seed_matters(probe)


def _repeats(probe: Probe) -> Iterator[Finding]:
    for seed in probe.within(WATCHED):
        actions, _ = probe.record(seed)
        probe.note(f"the episode of seed {seed} twice")
        if difference := first_difference(probe.replay(seed, actions), probe.replay(seed, actions)):
            yield error(f"seed {seed} played twice with the same actions: {difference}", _COMPARED, _OWN_RNG)
            return


def _interleaved(probe: Probe) -> Iterator[Finding]:
    (actions, _), (others, _) = probe.record(0), probe.record(1)
    alone = probe.replay(0, actions)
    probe.note("two episodes in turns")
    with probe.made() as env, probe.made() as other:
        beside = Episode(env.reset(0))
        moved = Episode(other.reset(1))
        for turn, action in enumerate(actions):
            if beside.ended:
                break
            if turn < len(others) and not moved.ended:
                moved.steps.append(other.step(others[turn]))
            beside.steps.append(env.step(action))
    if difference := first_difference(alone, beside):
        yield error(
            f"played in turns with another instance, the episode of seed 0 changes: {difference}",
            "Many episodes are played at once, and here each of them depends on the others.",
            f"Keep nothing in class attributes or module globals. {_OWN_RNG}",
        )


def _seed_matters(probe: Probe) -> Iterator[Finding]:
    actions, first = probe.record(0)
    for seed in probe.within(_SEEDS[1:]):
        other = probe.replay(seed, actions)
        if first_difference(first, other):
            return
    yield warning(
        f"the seed has no effect: seeds 0 to {_SEEDS[-1]} give the same episode",
        "Training sees one instance only, and a success rate over many seeds is one sample.",
        "Draw the task from self.np_random in reset().",
    )


def global_random(probe: Probe) -> Iterator[Finding]:
    """The generators of the whole process are neither drawn from nor seeded."""
    actions, _ = probe.record(0)
    with _restored():
        _seed_all(1)
        before = _states()
        one = probe.replay(0, actions)
        touched = [name for name, state in _states().items() if name in before and state != before[name]]
        _seed_all(2)
        other = probe.replay(0, actions)
    if difference := first_difference(one, other):
        where = f" of {' and '.join(touched)}" if touched else ""
        yield error(
            f"the episode depends on the global generator{where}: seeded differently, {difference}",
            f"Everything else in the process draws from it, too, so the seed does not decide the episode. {_COMPARED}",
            _OWN_RNG,
        )
    elif touched:
        yield warning(
            f"the global generator of {' and '.join(touched)} is drawn from or seeded",
            "Two episodes that are played in turns change each other, and the trainer's own random numbers start over "
            "whenever an episode does. trpd_agents shields itself from it; other frameworks do not.",
            _OWN_RNG,
        )
    else:
        yield ok("the global generators are left alone")


def _states() -> dict[str, Any]:
    states: dict[str, Any] = {"random": random.getstate(), "numpy.random": repr(np.random.get_state(legacy=False))}
    if torch := sys.modules.get("torch"):
        states["torch"] = torch.get_rng_state().numpy().tobytes()
    return states


def _seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(seed)


class _restored:
    """Puts Python's and NumPy's generators back afterwards."""

    def __enter__(self) -> None:
        self._put_back: list[Callable[[], None]] = []
        python, numpy = random.getstate(), np.random.get_state()
        self._put_back = [lambda: random.setstate(python), lambda: np.random.set_state(numpy)]

    def __exit__(self, *exception: object) -> None:
        for put_back in self._put_back:
            put_back()
