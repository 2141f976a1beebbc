"""The scripted solver: does it solve the task, and is asking it without consequences?"""

from __future__ import annotations

from collections.abc import Iterator

from trpd_agents.textenv.checks.finding import Finding, error, ok, skipped, warning
from trpd_agents.textenv.checks.probe import WATCHED, Probe, first_difference


def expert(probe: Probe) -> Iterator[Finding]:
    """The expert succeeds, in every episode, and to ask it changes nothing."""
    with probe.made() as env:
        if not env.has_expert:
            yield skipped("there is no expert(); imitation, hints of the right action and the oracle teacher need one")
            return
    played, failed, refused = 0, [], 0
    for seed in probe.within(range(probe.settings.seeds)):
        probe.note(f"the expert in the episode of seed {seed}")
        with probe.made() as env:
            episode = probe.expert_episode(env, seed)
        played += 1
        refused += sum(not step.ok for step in episode.steps)
        if episode.success is not True:
            failed.append(seed)
    if failed:
        verdict = error if len(failed) == played else warning
        yield verdict(
            f"the expert succeeds in {played - len(failed)} of {played} episodes, and fails with seed {failed[0]}",
            "Its successful episodes are what a model imitates: tasks that it cannot solve are missing there, and its "
            "rate is the ceiling of an oracle teacher. Where chance alone decides, that is as it should be.",
            "Let it decide from the state, anew in each turn, and leave it enough turns; return None where it is lost.",
        )
    if refused:
        yield warning(
            f'{refused} actions of the expert were not accepted (info["ok"] False)',
            "A model that imitates it learns to make mistakes.",
            'Return an action in exactly the form that step() accepts, or set info["ok"] right.',
        )
    changes = list(_asking_changes(probe))
    yield from changes
    if not (failed or refused or changes):
        yield ok(f"succeeds in {played} of {played} episodes, and asking it changes nothing")


def _asking_changes(probe: Probe) -> Iterator[Finding]:
    fix = "Compute the action from the state without changing it; draw nothing from self.np_random in it."
    why = (
        "The oracle teacher and the recoverability of mistakes ask at any time, in episodes that are played by others."
    )
    for seed in probe.within(WATCHED):
        actions, asked = probe.record(seed)
        if difference := first_difference(asked, probe.replay(seed, actions)):
            yield error(
                "expert() or legal_actions() changes the episode: with the same actions, asked in one and not in the "
                f"other, {difference}",
                why,
                fix,
            )
            return
        with probe.made() as env:
            env.reset(seed)
            first, second = env.expert(), env.expert()
        if first != second:
            yield error(f"asked twice in a row, expert() says {first!r:.60} and then {second!r:.60}", why, fix)
            return
