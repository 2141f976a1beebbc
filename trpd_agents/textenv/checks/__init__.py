"""Everything about an environment that can be found out by trying: `examine` returns findings for `trpd check`."""

from trpd_agents.textenv.checks.examine import examine
from trpd_agents.textenv.checks.finding import Finding, Verdict, count
from trpd_agents.textenv.checks.probe import Settings

__all__ = ["Finding", "Settings", "Verdict", "count", "examine"]
