"""From weights on tokens to an updated student."""

from trpd_agents.learner.learner import Learner

__all__ = ["Learner"]
