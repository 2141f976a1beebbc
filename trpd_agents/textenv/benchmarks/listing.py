"""`trpd envs --benchmarks`: what the adapters play, and whether what they need is installed here.

Invariant: nothing is imported to find that out.
"""

from __future__ import annotations

import importlib.util

from trpd_agents.textenv.benchmarks import BENCHMARKS
from trpd_agents.textenv.benchmarks.packages import install_command


def benchmark_rows() -> list[dict[str, str]]:
    """A row for each id, as `trpd envs` shows it."""
    return [
        {
            "id": f"{benchmark.prefix}/{name}",
            "installed": "yes" if importlib.util.find_spec(benchmark.package) else "no",
            "success": benchmark.success,
            "turns": benchmark.turns,
            "expert": "yes" if benchmark.expert else "-",
            "note": benchmark.note,
            "install": install_command(benchmark.extra),
        }
        for benchmark in BENCHMARKS.values()
        for name in benchmark.names
    ]
