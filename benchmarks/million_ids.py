"""Beam search of an untrained OneRec over a million items: three levels of 256 random codes, memory and time.

    python benchmarks/million_ids.py [--head shared] [--items 1000000 --users 1000 --beam 50] [--widest 400]

What a fixed beam costs does not depend on what the weights say, so nothing is trained or tokenised. A beam that widens
does so for nearly all users here: untrained weights are the worst case. CPU seconds are of one thread. The peak is that
of the whole process; what it held before the search is printed beside it. Each head is a process of its own.
"""

from __future__ import annotations

import argparse
import resource
import time

import polars as pl
import torch
from tables import SCHEMA, beside_other_logs, commit, save

from recalign.nn import LazyDecoder
from recalign.recommender import CodePolicy
from recalign.recommender.onerec import random_codes
from recalign.recommender.onerec_policy import HEADS
from recalign.sequences import Batch

SIZES, EVENTS, SHOWN = [256, 256, 256], 200, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--head", default="shared", choices=list(HEADS))
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--beam", type=int, default=50)
    parser.add_argument("--widest", type=int, default=0, help="how wide the beam may become; by default it is fixed")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    decoder = LazyDecoder(max_length=EVENTS)
    policy = CodePolicy(decoder, given.items, SIZES, given.head, beam=given.beam, widest=given.widest).eval()
    policy.set_codes(random_codes(given.items, SIZES))
    batch = histories(given.users, given.items)
    before, began = peak(), time.process_time()
    with torch.no_grad():
        item_TK = policy.top_k(policy.encode(batch), SHOWN, batch.seen_N)[1]
    seconds = time.process_time() - began
    assert all(len(set(row)) == SHOWN and 0 not in row for row in item_TK.tolist())
    print(f"{given.items:,} items, {given.users:,} users, beam {given.beam}: {seconds:.1f} CPU s")
    print(f"peak memory {peak():.2f} GiB, of which {before:.2f} before the search")
    log = f"random-{given.items}, {given.head}" + f", widening to {given.widest}" * bool(given.widest)
    row = f"beam-{given.beam}"
    figures = {"cpu_s_of_1000_users": seconds / given.users * 1000, "peak_gib": peak(), "peak_before_gib": before}
    rows = [(log, row, metric, value, None, None, None, "0", commit()) for metric, value in figures.items()]
    types = [pl.String] * 3 + [pl.Float64] * 4 + [pl.String] * 2
    frame = pl.DataFrame(rows, schema=dict(zip(SCHEMA, types, strict=True)), orient="row")
    print(save(beside_other_logs(frame, "million_ids"), "million_ids"))


def histories(users: int, items: int) -> Batch:
    """Full histories of random items, a minute apart, all of them seen."""
    item_BL, zero = torch.randint(1, items + 1, (users, EVENTS)), torch.zeros(users).long()
    time_BL = torch.arange(EVENTS).mul(60).expand(users, -1)
    row_T = torch.arange(users)
    seen_N = torch.stack([row_T.repeat_interleave(EVENTS), item_BL.flatten()])
    return Batch(
        user_B=row_T,
        item_BL=item_BL,
        length_B=zero + EVENTS,
        time_BL=time_BL,
        request_time_BL=time_BL,
        reward_BL=torch.full((users, EVENTS), torch.nan),
        row_T=row_T,
        column_T=zero + EVENTS - 1,
        target_T=zero,
        reward_T=torch.full((users,), torch.nan),
        high_T=zero.bool(),
        event_T=zero,
        seen_N=seen_N,
    )


def peak() -> float:
    """The largest resident memory so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
