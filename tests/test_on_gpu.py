"""All tests on a pretended GPU, in two processes of their own: its hooks reach into all of torch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="the pretended GPU knows torch's C++ names on Linux")
def test_on_a_pretended_gpu():
    here = Path(__file__).parent
    words = [sys.executable, "-m", "pytest", here / "on_gpu", "-q", "--tb=short", "-p", "no:cacheprovider"]
    words += ["-n", "2", "--dist", "worksteal"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}  # small tensors need no threads
    done = subprocess.run(words, cwd=here.parent, env=environment, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]
