"""Freed memory stays with the process, on large pages."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from recalign.stage import memory

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
LARGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage")
PROGRAM = """
import resource, runpy, sys
memory = runpy.run_path(sys.argv[1])  # without its package, which takes seconds to import
if sys.argv[2:]:
    memory["keep_freed_memory"]()
def step():
    return [bytearray(2**23) for _ in range(8)]
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
with open("/proc/self/smaps") as file:
    lines = [line.split() for line in file]
sizes = [int(line[1]) for line in lines if line[0] == "Size:"]
flags = [line[1:] for line in lines if line[0] == "VmFlags:"]
print(faults, sum(size for size, of in zip(sizes, flags, strict=True) if "hg" in of))
"""


def faults_and_large_pages(*words):
    """Page faults of a second step, and KiB of addresses for which large pages are asked."""
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, memory.__file__, *words], check=True, capture_output=True, text=True
    )
    return [int(word) for word in run.stdout.split()]


def test_what_a_step_frees_the_next_one_has_without_page_faults():
    assert faults_and_large_pages("keep")[0] < 100 < faults_and_large_pages()[0]


@pytest.mark.skipif(not LARGE_PAGES.exists(), reason="the system knows no large pages")
def test_large_pages_are_asked_for_where_a_step_takes_its_memory_from():
    assert faults_and_large_pages("keep")[1] > 2**19 > faults_and_large_pages()[1]
