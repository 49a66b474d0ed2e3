"""As `docs_content`: the pages on the loop and on off-policy estimates."""

from __future__ import annotations

from docs_section import DIFFERENCES, NEXT_DAY, Table
from loop_worlds import COLUMNS as ROUND_BY_ROUND

ANEW = (
    " Rows of c71f6ce: with `--anew`, an option of 01c4d79 alone; in the `update` beside them reward model and A-SFT "
    "went on, and intervals took the worlds as given."
)
OF_LOOP: dict[str, tuple[str, list[Table]]] = {
    "loop": (
        "Tables: the loop",
        [
            Table(
                "Lists in simulated worlds",
                "offpolicy_lists.py --worlds 400",
                ("lists",),
                "offpolicy_lists",
                {"coverage": "coverage", "refused": "refused", "width": "width", "width_all": "width, of all lists"},
                digits=3,
                note="`obp` rows: with `--obp VENV`, over 55 of the worlds. Widths are medians, over that of an A/B "
                "test in as many lists as were drawn, or in all of them. "
                "Truth is unclipped; nothing is estimated below 50 users in effect. "
                "[Which is which](../loop.md#what-a-list-is-worth).",
            ),
            Table(
                "Alarms of the monitor in simulated worlds",
                "monitor_worlds.py --worlds 100",
                ("worlds",),
                "monitor",
                {"share": "share"},
                digits=3,
                note="Of weeks or worlds, with exact intervals. [The rule](../loop.md#what-has-changed).",
            ),
            Table(
                "Round by round in worlds",
                "loop_worlds.py --keep DIR",
                ("world, drift 0.5",),
                "loop_worlds",
                ROUND_BY_ROUND,
                note="Regret in points of true reward. [Which row is which](../loop.md#round-by-round).",
            ),
        ]
        + [
            Table(
                f"The next day in {where}{part}",
                f"update.py {options}",
                (log,),
                "update",
                columns,
                digits=4,
                note=f"[Which row is which](../loop.md#the-next-day). {note}{ANEW * log.startswith('world')}",
            )
            for where, log, options in (
                ("worlds, drift 0.03", "world, drift 0.03", "--moments --untouched 1 0.2"),
                ("worlds, drift 0.5", "world, drift 0.5", "--moments --untouched 1 0.2"),
                (
                    "the KuaiRand excerpt, a tenth of the users",
                    "kuairand-pure-excerpt, 0.1 of the users",
                    "--log kuairand-pure-excerpt --users 0.1",
                ),
            )
            for part, columns, note in (
                ("", NEXT_DAY, "NDCG@10 and true reward of ten items; seconds of training for a window."),
                (
                    ", differences",
                    DIFFERENCES,
                    "By event; users, and worlds or samples of them, drawn with replacement.",
                ),
            )
        ],
    ),
    "offpolicy": (
        "Tables: off-policy estimates",
        [
            Table(
                f"Simulated worlds, {by}",
                "offpolicy.py --parts worlds",
                (f"simulated, {by}",),
                "offpolicy",
                {
                    "ess": "users in effect",
                    "estimates": "estimates",
                    **{
                        f"{what}/{name}": f"{name}: {what}"
                        for name in ("ips", "snips", "dm", "dr")
                        for what in ("coverage", "halfwidth", "rmse")
                    },
                },
                digits=None,
            )
            for by in ("by effective sample size", "by policy")
        ]
        + [
            Table(
                "Coat: values",
                "offpolicy.py --parts coat",
                ("coat, values",),
                "offpolicy",
                {name: name for name in ("ess", "mean_weight", "observed", "ips", "snips", "dm", "dr")},
                digits=None,
            ),
            Table(
                "Coat: ranks of the sixteen, k = 5",
                "offpolicy.py --parts coat",
                ("coat, ranks",),
                "offpolicy",
                {name: name for name in ("rank/ndcg", "rank/mrr", "rank/reward", "rank/uniform")},
                digits=None,
            ),
            Table(
                "Open Bandit Dataset, sample",
                "offpolicy.py --parts obd",
                ("obd",),
                "offpolicy",
                {
                    name: name
                    for name in ("ess", "mean_weight", "max_weight", "clicks", "earned", "ips", "snips", "diff/snips")
                },
                digits=None,
            ),
        ],
    ),
}
