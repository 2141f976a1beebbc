"""Pages and listings in which people look at a run: what was learned from, why, and with what result.

run directory -> files -> episodes (credit computed again, reasons in words) -> pages, or lines in a terminal
"""

from trpd_agents.report.episodes import EpisodeSeen, TurnSeen, stream_episodes
from trpd_agents.report.files import RunFiles, open_run_files
from trpd_agents.report.write import Written, write_report

__all__ = ["EpisodeSeen", "RunFiles", "TurnSeen", "Written", "open_run_files", "stream_episodes", "write_report"]
