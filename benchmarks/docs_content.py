"""Which rows of benchmarks/results stand on which page of docs/tables, and the command that made each."""

from __future__ import annotations

from cold_items import AFTER
from cold_items import COLUMNS as COLD
from docs_content_loop import OF_LOOP
from docs_section import GAINS, Table, of_methods, ranks
from reward_choice import COLUMNS as CHOICE

SEEN = "A *seen* log: earlier versions of the project were measured on it, so it describes and does not confirm."
CONTENT: dict[str, tuple[str, list[Table]]] = {
    "ml-100k": (
        "Tables: ML-100K",
        [
            of_methods(
                "Methods on HSTU",
                ("ml-100k",),
                "--log ml-100k",
                "`popularity`, `popularity_high`, `item_mean` and `item_knn` have no NDCG budget: value alone decides "
                "nothing. At that commit the chain's list lacks `asft_rerank`: name all rows with `--methods`.",
            ),
            of_methods(
                "OneRec",
                ("ml-100k, onerec",),
                "--log ml-100k --policy onerec --seeds 0 1 2",
                "`head: node`, codes 46 x 46 from co-occurrence. The rows are named with `--methods`.",
            ),
            of_methods(
                "OneRec, methods that learn from the policy's own lists",
                ("ml-100k, onerec, lists of its own",),
                "--log ml-100k --policy onerec --seeds 0 1 2 --label 'lists of its own' --methods popularity "
                "popularity_high item_mean item_knn start popularity_tilt rerank bc asft ipa ppo ecpo -- "
                "--stages.ppo.model.share=0.1 --stages.ecpo.model.share=0.1",
                "PPO and ECPO draw at a tenth of the histories.",
            ),
        ],
    ),
    "ml-1m": (
        "Tables: ML-1M",
        [
            of_methods("Methods on HSTU", ("ml-1m",), "--log ml-1m", SEEN),
            of_methods(
                "OneRec",
                ("ml-1m, onerec",),
                "--log ml-1m --policy onerec --seeds 0",
                "One seed: intervals cover users only. `head: node`, codes 68 x 68 from co-occurrence, no dropout. The "
                "rows are named with `--methods`.",
            ),
        ],
    ),
    "kuairand": (
        "Tables: KuaiRand excerpt",
        [
            of_methods(
                "Watch ratio",
                ("kuairand-pure-excerpt",),
                "--log kuairand-pure-excerpt",
                f"{SEEN} 21 % of the events have a reward. The reward model's trust verdict is `weak` with every seed. "
                "The 5,872 rows that repeat another in every column are left out.",
            ),
            Table(
                "A reward chosen on validation",
                "reward_choice.py",
                ("kuairand-pure-excerpt",),
                "reward_choice",
                CHOICE,
                digits=4,
                note="NDCG@10 of events with a high reward, less the cloned policy's. [What was asked](../rewards.md). "
                "Chosen by `high/ndcg@10` on validation, where the protocol chooses by judges. No controls, no "
                "placebos; intervals without Holm's correction.",
            ),
            Table(
                "Why a placebo gained by watch ratio",
                "placebo.py --log kuairand-pure-excerpt",
                ("kuairand-pure-excerpt",),
                "placebo",
                {
                    "early": "share of events among their user's first ten with a reward",
                    "item_mean": "mean over events of the item's mean reward, weighted",
                    "shift": "shift of that, A-SFT's is 1",
                    "users": "correlation of a user's weight with his mean reward",
                },
            ),
            of_methods(
                "Clicks, judged by long views",
                ("kuairand-pure-excerpt-clicked",),
                "--log kuairand-pure-excerpt-clicked",
                f"{SEEN} Methods learn from clicks (22 % of the events), judges from long views. `popularity_high` "
                "counts long views, which the other rows do not know. The reward model's trust verdict is `weak`. The "
                "5,872 rows that repeat another in every column are left out.",
            ),
        ],
    ),
    "simulated": (
        "Tables: simulated worlds",
        [
            of_methods("Five worlds", ("simulated",), "--log simulated", "No form was chosen on them."),
            of_methods(
                "Five worlds, policies that see rewards",
                ("simulated, policies see rewards",),
                "--log simulated --feedback",
                "The rows are named with `--methods`.",
            ),
            of_methods(
                "Ten unopened worlds",
                ("simulated, unopened",),
                "--log simulated --label unopened --seeds 1000 1001 1002 1003 1004 1005 1006 1007 1008 1009",
                "Run once, with A-SFT as it was frozen at 5974b24: the confirmation.",
            ),
            *(
                of_methods(
                    f"{world.capitalize()}: {what}",
                    (f"simulated-{world}, not searched",),
                    f"--log simulated --world {world} --no-search --seeds 6 7 8",
                )
                for world, what in {
                    "noise": "rewards tell nothing of the truth",
                    "clear": "a reward model can know nearly everything",
                    "confounded": "rewards are due to when an item was met",
                }.items()
            ),
            Table(
                "Cost of a training step",
                "step_cost.py",
                ("simulated",),
                "step_cost",
                {"cost/step_ms": "milliseconds", "cost/step_relative": "beside cloning's"},
                digits=1,
                note="Two threads of a CPU; least and largest of the repetitions in brackets.",
            ),
        ],
    ),
    "asft": (
        "Tables: forms of A-SFT, temperature, step size",
        [
            *(
                Table(
                    f"Forms: {title}",
                    f"forms.py {command}",
                    (log,),
                    "forms",
                    GAINS,
                    note="Validation. Every row retains 97 % of the start's NDCG@10. `permuted`: the form's placebo.",
                )
                for title, log, command in (
                    ("worlds 31 to 33, noise 1.05", "simulated, noise 1.05", "--log simulated"),
                    ("worlds 31 to 33, noise 3", "simulated, noise 3", "--log simulated --noise 3"),
                    ("ML-100K, seed 0", "ml-100k", "--log ml-100k --seeds 0"),
                    (
                        "ML-100K, three seeds",
                        "ml-100k, three seeds",
                        '--log ml-100k --seeds 0 1 2 --label "three seeds"',
                    ),
                    *(
                        (
                            f"events of other {left_out}, noise {noise}",
                            f"simulated, noise {noise}, held out: {held}",
                            f"--log simulated --held-out {held}" + f" --noise {noise}" * (noise == "3"),
                        )
                        for held, left_out in (("users", "users"), ("newest", "times"))
                        for noise in ("1.05", "3")
                    ),
                )
            ),
            *(
                Table(
                    f"Temperature: reward noise {noise}",
                    "noise.py",
                    (f"noise {noise}",),
                    "noise",
                    GAINS,
                    note="Worlds 21 to 23, validation, where 97 % of the start's NDCG@10 is retained.",
                )
                for noise in ("0.3", "1.05", "3")
            ),
            *(
                Table(
                    f"Step size: {title}",
                    "frontier.py --log simulated",
                    ("simulated",),
                    "frontier",
                    GAINS,
                    prefix=prefix,
                    note="Worlds 26 to 28, validation, each method trained once, interpolated along its path.",
                )
                for title, prefix in (("97 % of NDCG retained", "97 % kept: "), ("a KL of 0.1 nats", "0.1 nats: "))
            ),
        ],
    ),
    "encoders": (
        "Tables: encoders",
        [
            ranks(
                "ML-1M, the last event of a user",
                "ml-1m-leave-last",
                "encoders.py",
                "`rectools-*`: RecTools 0.19's own models, by its tutorial. Times are floored to 600 seconds.",
            ),
            ranks("ML-100K, the last ten events of a user", "ml-100k", "encoders.py --log ml-100k"),
            ranks("KuaiRand excerpt, by time", "kuairand-pure-excerpt", "encoders.py --log kuairand-pure-excerpt"),
            *(
                Table(
                    f"Item-kNN, one change at a time: {title}",
                    "item_knn.py",
                    (log,),
                    "item_knn",
                    {"validation/ndcg@10": "ndcg@10 on validation, users A"},
                    digits=4,
                )
                for title, log in {
                    "ML-100K": "ml-100k",
                    "ML-1M": "ml-1m",
                    "KuaiRand excerpt": "kuairand-pure-excerpt",
                    "simulated": "simulated",
                }.items()
            ),
            *(
                Table(
                    f"Item prior: {title}",
                    f"prior.py {command}".strip(),
                    (log,),
                    "prior",
                    {
                        "strength": "c",
                        "validation/ndcg@10_without": "validation, without",
                        "validation/ndcg@10": "validation, with",
                        "test/ndcg@10_without": "test, without",
                        "test/ndcg@10": "test, with",
                    },
                    digits=4,
                    note="ndcg@10; each row changes one thing of the recipe.",
                )
                for title, log, command in (
                    ("ML-100K", "ml-100k", ""),
                    ("ML-1M", "ml-1m-leave-last", "--log ml-1m-leave-last --rows default --seeds 0"),
                )
            ),
            *(
                Table(
                    f"OneRec, one change at a time: {log}",
                    "changes.py",
                    (log,),
                    "changes",
                    {
                        "validation/ndcg@10/best": "validation ndcg@10, best epoch",
                        "validation/ndcg@10/last": "last epoch",
                    },
                    digits=4,
                )
                for log in ("ml-1m-leave-last, 7 epochs", "ml-1m-leave-last, 20 epochs", "ml-100k, 100 epochs")
            ),
        ],
    ),
    "items": (
        "Tables: items that training never saw",
        [
            Table(
                f"{title}{part}",
                f"cold_items.py --log {log}",
                (log,),
                "cold_items",
                columns,
                digits=4,
                note="Intervals: a bootstrap crossed over users and items, 500 draws (the protocol: 2,000), in worlds "
                "Student's over the three, not corrected for several rows; test events of all users (the protocol: of "
                "users A). "
                "[Which row is which](../items.md).",
            )
            for log, title in {"ml-1m": "ML-1M", "ml-100k": "ML-100K", "world": "Simulated worlds"}.items()
            for part, columns in {"": COLD, ", after post-training": AFTER}.items()
        ],
    ),
    **OF_LOOP,
}
"""Every page: its name -> its title and its tables."""
