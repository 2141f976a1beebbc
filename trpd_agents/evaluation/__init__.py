"""From a policy to a success rate with its interval."""

from trpd_agents.evaluation.evaluate import Evaluation, evaluate, turn_limit
from trpd_agents.evaluation.expert import evaluate_expert
from trpd_agents.evaluation.statistics import compare

__all__ = ["Evaluation", "compare", "evaluate", "evaluate_expert", "turn_limit"]
