import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_a_step_stays_on_its_device_and_never_waits_for_it():
    script = Path(__file__).with_name("accelerator.py")
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["painn", "schnet", "mace", "allegro", "spookynet"]
