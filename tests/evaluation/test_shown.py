"""How policies rank what was shown: in the table, and in the decision, which does not depend on it."""

from __future__ import annotations

import pytest
from compared import table

from recalign.evaluation.comparison import SHOWN_AUC
from recalign.evaluation.decision import decide
from recalign.evaluation.report import terminal_table

OF_SHOWN = {("start", SHOWN_AUC): (0.4, 0.3, 0.5), ("mine", SHOWN_AUC): (0.6, 0.5, 0.7)}
OF_SHOWN |= {("mine", f"diff_start/{SHOWN_AUC}"): (0.2, 0.1, 0.3)}


@pytest.mark.parametrize("shown", [{}, OF_SHOWN])
def test_decision_names_shown_auc_and_ignores_it(shown):
    test, validation = table(others=shown), table(split="validation")
    found, plain = (decide(one, validation, {}, {}) for one in (test, table()))
    assert (found.outcome, found.policy, found.reasons) == (plain.outcome, plain.policy, plain.reasons)
    assert [figure in (found.caveat_text or "") for figure in ("40%", "60%", "+0.2000")] == [bool(shown)] * 3
    columns = [column.header for column in terminal_table(test).columns]
    assert (SHOWN_AUC in columns) == bool(shown)
