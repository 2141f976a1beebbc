"""Any Gymnasium text environment as an agent environment: naming, making, driving and checking one."""

from trpd_agents.textenv.agent_env import AgentEnv, Step
from trpd_agents.textenv.listing import EnvInfo, list_envs
from trpd_agents.textenv.preflight import check_environment
from trpd_agents.textenv.resolve import make
from trpd_agents.textenv.spec import EnvSpec
from trpd_envs.tools import ToolEnv, ToolError, tool

__all__ = [
    "AgentEnv",
    "EnvInfo",
    "EnvSpec",
    "Step",
    "ToolEnv",
    "ToolError",
    "check_environment",
    "list_envs",
    "make",
    "tool",
]
