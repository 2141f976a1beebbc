"""Why each token carries the weight it carries, in one code per token. A token has exactly one reason."""

from __future__ import annotations

from enum import IntEnum


class Reason(IntEnum):
    """Codes of `Credit.reason`. They are written to disk: never renumber one."""

    NOT_ACTION = 0
    KEPT = 1
    GATE_REJECTED = 2
    CLIPPED = 3
    FORWARD_KL = 4
    OUTSIDE_REGION = 5
    DOWNWEIGHTED = 6
    GUIDED = 7
    TEACHER_UNAVAILABLE = 8
    STUDENT_LOGPROB_INVALID = 9
    TEACHER_LOGPROB_INVALID = 10
    FILTERED = 11
    UPWEIGHTED = 12
    BOTH_KL = 13


DESCRIPTIONS: dict[Reason, str] = {
    Reason.NOT_ACTION: "prompt, observation, template or padding: never supervised",
    Reason.KEPT: "reverse KL at full weight",
    Reason.GATE_REJECTED: "the token gate rejected it: no loss",
    Reason.CLIPPED: "the token gate rejected it: reverse KL with a bounded score",
    Reason.FORWARD_KL: "not trusted for reverse KL: forward KL on the teacher's most likely tokens",
    Reason.OUTSIDE_REGION: "its turn lies outside the trajectory trust region: no loss",
    Reason.DOWNWEIGHTED: "reverse KL at less than full weight (soft gate, soft region, turn weight)",
    Reason.GUIDED: "written by the teacher: imitated",
    Reason.TEACHER_UNAVAILABLE: "the teacher did not score this trajectory: no loss",
    Reason.STUDENT_LOGPROB_INVALID: "the student's log-probability is not finite: no loss",
    Reason.TEACHER_LOGPROB_INVALID: "the teacher's log-probability is not finite: no loss",
    Reason.FILTERED: "its trajectory was filtered out: no loss",
    Reason.UPWEIGHTED: "reverse KL at more than full weight (turn weight)",
    Reason.BOTH_KL: "reverse KL and forward KL (partly trusted, or the teacher itself is undecided)",
}
