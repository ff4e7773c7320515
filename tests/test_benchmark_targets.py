"""The targets of a benchmark on tables whose verdicts are known."""

from __future__ import annotations

import pytest

from keras_robustseg.benchmark import CellDice, Verdict, evaluate_targets


def cell(
    name: str, ce: float, dice: float, ours: float, clean: float, **more: float | bool
) -> CellDice:
    table = {"ce": ce, "ce_dice": dice, "ours": ours, "clean": clean}
    given, corrected = more.pop("given", 0.6), more.pop("corrected", 0.7)
    return CellDice(name, table, given, {"ours": corrected}, **more)


def judged(*cells: CellDice) -> list[bool | None]:
    found = evaluate_targets(cells, ours="ours", references=("ce", "ce_dice"), bound="clean")
    return [verdict.passed for verdict in found]


def figures(*cells: CellDice) -> list[Verdict]:
    return evaluate_targets(cells, ours="ours", references=("ce", "ce_dice"), bound="clean")


def test_all_targets_are_met() -> None:
    assert judged(cell("a", 0.5, 0.7, 0.85, 0.9), cell("b", 0.88, 0.86, 0.875, 0.9)) == [True] * 3


def test_the_better_reference_counts() -> None:
    assert judged(cell("a", 0.90, 0.70, 0.889, 0.92))[0] is False
    assert judged(cell("a", 0.70, 0.90, 0.889, 0.92))[0] is False
    assert judged(cell("a", 0.90, 0.70, 0.891, 0.92))[0] is True


def test_one_bad_cell_fails_never_worse() -> None:
    good = [cell(name, 0.5, 0.6, 0.8, 0.9) for name in "abc"]
    assert judged(*good, cell("d", 0.8, 0.82, 0.80, 0.84))[0] is False


def test_half_of_the_loss_on_average() -> None:
    # Shares .8 and .26: mean .53; then .6 and .26: mean .43.
    assert judged(cell("a", 0.5, 0.4, 0.82, 0.9), cell("b", 0.5, 0.4, 0.604, 0.9))[1] is True
    assert judged(cell("a", 0.5, 0.4, 0.74, 0.9), cell("b", 0.5, 0.4, 0.604, 0.9))[1] is False


def test_a_quarter_of_the_loss_in_every_cell() -> None:
    # Shares .95 and .24.
    assert judged(cell("a", 0.5, 0.4, 0.88, 0.9), cell("b", 0.5, 0.4, 0.596, 0.9))[1] is False


def test_a_small_loss_is_not_judged() -> None:
    found = figures(cell("a", 0.86, 0.85, 0.85, 0.9))
    assert found[1].passed is None
    assert "too little" in found[1].figures[0]


def test_corrected_masks_must_be_better_where_noise_has_no_bias() -> None:
    worse = {"given": 0.6, "corrected": 0.6}
    assert judged(cell("a", 0.5, 0.4, 0.8, 0.9, **worse))[2] is False
    fine = cell("b", 0.5, 0.4, 0.8, 0.9)
    assert judged(fine, cell("a", 0.5, 0.4, 0.8, 0.9, biased=True, **worse))[2] is True


def test_what_has_not_run_leaves_a_target_open_unless_it_fails() -> None:
    partial = CellDice("b", {"ce": 0.5, "ours": 0.6}, 0.5, {})
    assert judged(cell("a", 0.5, 0.6, 0.8, 0.9), partial) == [None, None, None]
    assert judged(cell("a", 0.5, 0.9, 0.8, 0.95), partial)[0] is False
    assert "not run yet: b" in figures(cell("a", 0.5, 0.6, 0.8, 0.9), partial)[0].figures[-1]


def test_nothing_has_run() -> None:
    assert judged() == [None, None, None]


def test_the_text_tells_the_figures() -> None:
    text = figures(cell("a", 0.5, 0.4, 0.8, 0.9))[1].text()
    assert text.startswith("PASS")
    assert "75%" in text


@pytest.mark.parametrize(("passed", "word"), [(True, "PASS"), (False, "FAIL"), (None, "open")])
def test_verdicts_in_words(passed: bool | None, word: str) -> None:
    assert Verdict("t", passed, ("x",)).text() == f"{word}  t\n      x"
    assert Verdict("t", passed, ("x",)).to_dict() == {
        "target": "t",
        "passed": passed,
        "figures": ["x"],
    }
