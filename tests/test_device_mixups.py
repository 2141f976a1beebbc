"""The whole of the package's tensor code on a device that is none, see `pretend_device`: no GPU is needed to see that
operands would be on different ones.

The device is there for a whole process and changes what PyTorch takes for an accelerator, so what is in `on_device`
runs in processes of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils import backend_registration

HERE = Path(__file__).parent
CAN = hasattr(backend_registration, "_setup_privateuseone_for_python_backend")


def test_this_torch_can_pretend():
    """It must not get lost that nothing is tested any more."""
    assert CAN or torch.__version__ < "2.10", f"torch {torch.__version__} has no backends in Python any more"


@pytest.mark.skipif(not CAN, reason=f"torch {torch.__version__} has no backends in Python: needs 2.10")
@pytest.mark.parametrize(
    "files",
    [("planted.py", "engine.py", "updates.py"), pytest.param(("runs.py",), marks=pytest.mark.slow)],
    ids=["parts", "runs"],
)
def test_on_the_pretended_device(files):
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", "-p", "no:xdist"]
    command += [
        "-o",
        "addopts=--import-mode=importlib",
        "-o",
        f"pythonpath={HERE}",
        *(str(HERE / "on_device" / file) for file in files),
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment["OMP_NUM_THREADS"] = "1"
    done = subprocess.run(command, cwd=HERE.parent, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
