"""Freed memory stays with the process."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from recalign.stage.memory import keep_freed_memory
if sys.argv[1:]:
    keep_freed_memory()
def step():
    return [bytearray(2**23) for _ in range(8)]
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_what_a_step_frees_the_next_one_has_without_page_faults():
    def faults(*words):
        run = subprocess.run([sys.executable, "-c", PROGRAM, *words], check=True, capture_output=True, text=True)
        return int(run.stdout)

    assert faults("keep") < 100 < faults()
