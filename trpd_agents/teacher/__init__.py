"""Who scores the student's tokens."""

from trpd_agents.teacher.base import Teacher
from trpd_agents.teacher.local import LocalTeacher
from trpd_agents.teacher.oracle import OracleTeacher
from trpd_agents.teacher.oracle_replay import Options, action_key, optimal_at_turns

__all__ = ["LocalTeacher", "Options", "OracleTeacher", "Teacher", "action_key", "optimal_at_turns"]
