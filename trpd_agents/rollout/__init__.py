"""From environments and a policy to trajectories."""

from trpd_agents.rollout.collector import Collector, Limits
from trpd_agents.rollout.demonstrate import demonstrate
from trpd_agents.rollout.engine import Completion, Engine, Request, Sampling
from trpd_agents.rollout.guide import Guide, Plan, Rescue, make_guide
from trpd_agents.rollout.live import Episode
from trpd_agents.rollout.transformers_engine import TransformersEngine

__all__ = [
    "Collector",
    "Completion",
    "Engine",
    "Episode",
    "Guide",
    "Limits",
    "Plan",
    "Request",
    "Rescue",
    "Sampling",
    "TransformersEngine",
    "demonstrate",
    "make_guide",
]
