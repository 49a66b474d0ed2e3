"""A disk that fills at any moment of a chain: the message names it; with space again, the figures are the same."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tiny

pytestmark = pytest.mark.long
ROOM = 16 << 20


class Disk:
    """A small file system in memory, whose size can be set while it is used."""

    def __init__(self, place: Path) -> None:
        self.place = place
        place.mkdir()
        if not shutil.which("mount"):
            pytest.skip("there is no command mount")
        mounted = subprocess.run(["mount", "-t", "tmpfs", "recalign", str(place)], capture_output=True, text=True)
        if mounted.returncode:
            pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")

    @property
    def used(self) -> int:
        found = os.statvfs(self.place)
        return (found.f_blocks - found.f_bfree) * found.f_frsize

    def resize(self, size: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(self.place)], check=True)

    def empty(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.place)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    found = Disk(tmp_path / "disk")
    yield found
    found.empty()


def call(folder: Path, *words: str) -> tiny.Said:
    """Run the tiny chain in a folder, with a cache of its own there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECALIGN_CACHE", str(folder / "cache"))
        return tiny.chain(folder, *words)


def test_a_full_disk_is_named_and_what_was_made_before_is_kept(
    disk: Disk, tmp_path: Path, trial: Callable[..., None], share: Callable[[int], int]
):
    whole, moments = tiny.prepare(disk.place / "whole"), random.Random(0)
    before = disk.used
    assert call(whole).code == 0
    size, wanted = disk.used - before, tiny.figures(whole)
    for number in range(share(40)):
        folder = tiny.prepare(disk.place / str(number))
        room = int(size * moments.random())
        disk.resize(disk.used + room)
        said = call(folder, *["--workers=2"] * (number % 4 == 3))
        told = f"room for {room:,} of {size:,} bytes\n{said.out}\n{said.err}"
        assert said.code == 2, told
        assert "Traceback" not in said.err, told
        assert f"No space left on device (disk mounted at {disk.place})" in said.err, told
        assert "\n  -> free space" in said.err, told
        trial("Atomic writes", "a disk that fills at any moment of a chain, a quarter with two workers")
        disk.resize(disk.used + 2 * size + ROOM)
        again = call(folder)
        assert again.code == 0, f"{told}\n{again.out}\n{again.err}"
        assert tiny.figures(folder) == wanted, told
