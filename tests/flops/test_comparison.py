"""The documentation's table is written by a command, between its marks, and only there."""

from pathlib import Path

from benchmark.flops import comparison

PAGE = Path(__file__).parents[2] / "docs" / "flops.md"


def test_only_what_stands_between_the_marks_is_replaced(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(comparison, "table", lambda method: f"| {method} |")
    page = tmp_path / "page.md"
    page.write_text(f"before\n{comparison.BEGIN}\n| old |\n{comparison.END}\nafter\n", encoding="utf-8")
    comparison.main(["new", str(page)])
    assert page.read_text(encoding="utf-8") == f"before\n{comparison.BEGIN}\n| new |\n{comparison.END}\nafter\n"
    comparison.main(["new"])
    assert capsys.readouterr().out == "| new |\n"


def test_the_pages_closed_form_is_todays():
    text = PAGE.read_text(encoding="utf-8")
    for name, density in comparison.DENSITIES.items():
        method = None if density is None else "stochastic"
        count = comparison.count(method, density, "paper", "backbone")["gmacs"]
        assert f"| {name} | {density or 1} | {count:.1f} |" in text
