"""Who scores the student's tokens."""

from trpd_agents.teacher.base import Teacher
from trpd_agents.teacher.hinted import HintedTeacher
from trpd_agents.teacher.local import LocalTeacher
from trpd_agents.teacher.oracle import OracleTeacher
from trpd_agents.teacher.oracle_replay import Options, action_key, optimal_at_turns
from trpd_agents.teacher.routed import RoutedTeacher
from trpd_agents.teacher.server import ServerTeacher, TeacherServer, open_server

__all__ = [
    "HintedTeacher",
    "LocalTeacher",
    "Options",
    "OracleTeacher",
    "RoutedTeacher",
    "ServerTeacher",
    "Teacher",
    "TeacherServer",
    "action_key",
    "open_server",
    "optimal_at_turns",
]
