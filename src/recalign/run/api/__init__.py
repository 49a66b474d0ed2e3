"""recalign from Python: from a DataFrame to an aligned policy, a table and recommendations.

Every function runs a stage exactly as the command does, from the same YAML files. The command can continue what Python
has trained, and vice versa. `recalign` itself exports the same names.
"""

from recalign.run.api.fit import align, fit_judge, fit_recommender, fit_reward, load_policy, load_reward
from recalign.run.api.log import Log
from recalign.run.api.table import Comparison, compare, compare_rewards
from recalign.run.api.trained import TrainedPolicy, TrainedReward

__all__ = [
    "Comparison",
    "Log",
    "TrainedPolicy",
    "TrainedReward",
    "align",
    "compare",
    "compare_rewards",
    "fit_judge",
    "fit_recommender",
    "fit_reward",
    "load_policy",
    "load_reward",
]
