"""Does the teacher say the same of the same tokens every time, whatever else it is asked beside them?"""

from __future__ import annotations

from trpd_agents.doctor.finding import Check, Finding, error, ok, skipped, warning
from trpd_agents.doctor.subject import Subject, apart
from trpd_agents.teacher.probe import NOISE_LIMIT

NOTABLE = 1e-3  # nats: more than float32 in another order
_COARSE_NOTABLE = 0.05
_ASKED = 8  # episodes' beginnings


def _check(subject: Subject) -> Finding:
    asked = subject.sampled[:_ASKED]
    if not asked:
        return skipped("no turn could be played")
    first = subject.teacher.score(asked)
    again = subject.teacher.score(asked)
    alone = [scores for t in asked for scores in subject.teacher.score([t])]
    twice = float(apart([s.lt for s in first], [s.lt for s in again]).max(initial=0))
    crowd = float(apart([s.lt for s in first], [s.lt for s in alone]).max(initial=0))
    found = f"largest difference {twice:.2g} nats when asked again, {crowd:.2g} alone instead of {len(asked)} together"
    worst = max(twice, crowd)
    if not worst <= NOISE_LIMIT:
        return error(
            found,
            "Dropout that is still on, several models behind one address, or a quantised cache: put the model into "
            "evaluation mode, or serve one model without them. If only the batch matters, padding is attended to.",
        )
    if worst > (_COARSE_NOTABLE if subject.coarse else NOTABLE):
        return warning(found, "Noise in every log ratio; expected of bfloat16, not of float32: see learner.dtype.")
    return ok(found)


DETERMINISM = Check("determinism", f"the same scores again, alone and in a batch; at most {NOISE_LIMIT} nats", _check)
