"""`recalign compare` and `recalign report` as functions of the command line."""

from jsonargparse import CLI

from recalign.evaluation.report import compare, report


def test_compare_then_report(tmp_path, made_up_run, capsys):
    for method in ("start", "bc", "asft"):
        made_up_run(tmp_path, method, 0, users=20, events=2)
    CLI(compare, args=[str(tmp_path), "--draws", "50"])
    printed = capsys.readouterr().out
    assert "asft" in printed
    assert printed.rstrip().endswith(str(tmp_path / "comparison.csv"))
    CLI(report, args=[f"{tmp_path}"])
    assert capsys.readouterr().out.rstrip().endswith(str(tmp_path / "report.html"))
    assert (tmp_path / "report.html").is_file()
