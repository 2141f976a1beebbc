"""How a side talks with the benchmark: one JSON line in for one step, one JSON line out with what it measured.

Standard output belongs to the answers; whatever the libraries print goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Any

from task import Task


class Side:
    """The measured end of the pipe."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self.task = Task(**json.loads(sys.argv[1]))

    def wait(self) -> None:
        """Until the next step is asked for; ends the process when nobody will ask any more."""
        if not sys.stdin.readline():
            os._exit(0)  # nothing is worth saving, and a training loop may be on the stack

    def answer(self, what: Mapping[str, Any]) -> None:
        self._answers.write(json.dumps(what) + "\n")
        self._answers.flush()
