"""Who scores the student's tokens."""

from trpd_agents.teacher.base import Teacher
from trpd_agents.teacher.local import LocalTeacher

__all__ = ["LocalTeacher", "Teacher"]
