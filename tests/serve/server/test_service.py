"""Batches: where they are answered, and what comes together."""

from __future__ import annotations

import asyncio
import threading

import pytest

pytest.importorskip("onnxruntime", reason="the server's packages are not installed: pip install 'recalign[serve]'")

from recalign.serve.server.service import SHORT, Batcher


@pytest.mark.parametrize(("seconds", "in_the_loop"), [(SHORT / 8, True), (SHORT / 7, False)])
def test_batcher_answers_short_batches_in_the_loop_and_others_in_threads(seconds, in_the_loop):
    done: list[tuple[int, bool]] = []

    def work(taken: list[int]) -> list[int]:
        done.append((len(taken), threading.current_thread() is threading.main_thread()))
        return [2 * one for one in taken]

    async def asked() -> list[int]:
        batcher = Batcher[int, int](work, "test", 2, cost=lambda _: 2**15, seconds=lambda _: seconds)
        return await asyncio.gather(*(batcher.ask(one) for one in range(8)))

    assert asyncio.run(asked()) == [2 * one for one in range(8)]
    assert done == [(2, in_the_loop)] * 4  # of `MAX_BATCH_PAIRS`
