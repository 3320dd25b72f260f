"""Verdicts are decided on numbers; the text follows from the outcome."""

import pytest

from mdkd_auto.metrics.statistics import RANKS_DISAGREE, Comparison, replicated_comparison
from mdkd_auto.report.comparison import COLUMNS, Layout
from mdkd_auto.report.verdicts import ONE_TRAINING, judge, verdict_text

LAYOUT = Layout(title="", name="", columns=COLUMNS, references={"student": "data-set-specific"}, question="")
GAINS = [0.1 + 0.01 * number for number in range(10)]


def text_of(layout: Layout, name: str, comparison: Comparison | None, p_value: float | None) -> str:
    return verdict_text(judge(layout, name, comparison, p_value), layout, name)


def compared(*replicates: list[float]) -> Comparison:
    scores = [[0.5 + difference for difference in differences] for differences in replicates]
    return replicated_comparison(scores, [[0.5] * len(differences) for differences in replicates])


def comparison_of(*replicates: list[float]) -> str:
    """The verdict on these differences, as text."""
    comparison = compared(*replicates)
    return text_of(LAYOUT, "student", comparison, comparison.p_value)


def test_verdicts() -> None:
    gains = [0.1 + 0.01 * number for number in range(10)]
    helped = comparison_of(gains)
    assert helped.startswith("student +14.5 points DSC against data-set-specific (n=10, 95 % interval +")
    assert helped.endswith(f"): the other data sets helped ({ONE_TRAINING})")
    assert comparison_of([-gain for gain in gains]).endswith(f": the other data sets hurt ({ONE_TRAINING})")
    both = comparison_of(gains, gains)
    assert "(n=10, 2 replicates with SD 0.0, 95 % interval " in both
    assert both.endswith("): the other data sets helped")
    few_large = comparison_of([-0.005 - 0.0001 * number for number in range(80)] + [0.4] * 20)
    assert few_large.startswith("student +7.3 points")
    assert few_large.endswith(f": no evidence that the other data sets helped or hurt: {RANKS_DISAGREE}")
    undecided = comparison_of([gain * (-1) ** number for number, gain in enumerate(gains)])
    assert ": no evidence that the other data sets helped or hurt; smallest detectable difference: " in undecided
    few = comparison_of([0.3, 0.3])  # the difference is large, two cases prove nothing
    assert ": no evidence that the other data sets helped or hurt" in few
    assert "at least 6 needed" in few
    same = comparison_of([0.0] * 10)
    assert same.endswith("no test: all differences are zero): no evidence that the other data sets helped or hurt")
    assert text_of(LAYOUT, "student", None, None) == (
        "not evaluable: student and data-set-specific share no finished replicate"
    )
    assert text_of(LAYOUT, "student", replicated_comparison([[None, 0.5]], [[0.5, None]]), None).startswith(
        "not evaluable"
    )


@pytest.mark.parametrize(
    ("differences", "outcome"),
    [
        (GAINS, "helped"),
        ([-gain for gain in GAINS], "hurt"),
        ([gain * (-1) ** number for number, gain in enumerate(GAINS)], "no_evidence"),
        ([-0.005 - 0.0001 * number for number in range(80)] + [0.4] * 20, "contradictory"),
        ([0.3, 0.3], "not_tested"),
        ([0.0] * 10, "not_tested"),
    ],
)
def test_outcomes(differences: list[float], outcome: str) -> None:
    comparison = compared(differences)
    assert judge(LAYOUT, "student", comparison, comparison.p_value).outcome == outcome
    assert judge(LAYOUT, "student", comparison, comparison.p_value, failed=True).outcome == "both_fail"


def test_no_common_replicate_or_case_is_not_evaluable() -> None:
    assert judge(LAYOUT, "student", None, None).outcome == "not_evaluable"
    nothing = replicated_comparison([[None, 0.5]], [[0.5, None]])
    assert judge(LAYOUT, "student", nothing, None, failed=True).outcome == "not_evaluable"


def test_the_smallest_detectable_difference_and_what_the_wanted_gain_needs() -> None:
    comparison = Comparison(
        pairs=30,
        left_out=2,
        mean_difference=0.01,
        interval=(-0.02, 0.04),
        p_value=0.4,
        note="",
        replicates=3,
        spread=0.005,
        detectable=0.039,
        replicates_needed=32,
    )
    assert text_of(LAYOUT, "student", comparison, 0.8) == (
        "student +1.0 points DSC against data-set-specific (n=30, 2 not evaluable, 3 replicates with SD 0.5, "
        "95 % interval -2.0 to +4.0, Wilcoxon p=0.800 after Holm): no evidence that the other data sets helped or "
        "hurt; smallest detectable difference: 3.9 points (2 points would need about 32 replicates)"
    )
