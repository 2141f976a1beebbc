"""One Java server in each process, for every game that runs in it.

Invariant: a server is started when a process first needs it, and serves all of the process's episodes, interleaved
ones too, each through an object of its own; it ends with the process that started it, however that ends, because it
watches the pipe from it. A forked process starts its own.
"""

from __future__ import annotations

import os
import threading
from typing import Any

from trpd_agents.textenv.benchmarks.packages import require, require_java

_SERVERS: dict[tuple[int, str], Any] = {}
_LOCK = threading.Lock()
# A collector without threads, as calls come one at a time; and less than the memory that a worker may take.
_OPTIONS = ["-XX:+UseSerialGC", "-Xmx2g"]


def new_game(archive: str, class_name: str, extra: str, what: str) -> Any:
    """A new object of the Java class `class_name` in the `.jar` file `archive`, as a py4j proxy.

    Raises `UserError` without Java or without the package py4j, which `extra` installs.
    """
    require_java(what)
    gateway = require("py4j.java_gateway", extra, what)
    with _LOCK:
        key = os.getpid(), archive
        if key not in _SERVERS:
            _SERVERS[key] = _start(gateway, archive)
        server = _SERVERS[key]
    made = server.jvm
    for part in class_name.split("."):
        made = getattr(made, part)
    return made()


def _start(gateway: Any, archive: str) -> Any:
    port, process = gateway.launch_gateway(
        classpath=archive,
        die_on_exit=True,  # it reads from a pipe that closes with this process
        cwd=os.path.dirname(archive),
        javaopts=_OPTIONS,
        return_proc=True,
    )
    parameters = gateway.GatewayParameters(auto_field=True, port=port)
    return gateway.JavaGateway(gateway_parameters=parameters, java_process=process)
