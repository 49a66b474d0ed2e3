"""May this reward model be believed? Its errors beside those of predictors that know less, and one verdict."""

from recalign.reward.trust.errors import Trust, trust_of
from recalign.reward.trust.report import Compared, compared, report, write_trust
from recalign.reward.trust.verdict import IMPLICATION, verdict

__all__ = ["IMPLICATION", "Compared", "Trust", "compared", "report", "trust_of", "verdict", "write_trust"]
