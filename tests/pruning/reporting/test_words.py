"""What a report says in words: what was done, in which units, and each thing once."""

from __future__ import annotations

import pytest

from pruning import wording
from pruning.reporting import runtimes, summary, to_html, to_junit, to_markdown
from pruning.reporting.accuracy_plot import plot_accuracy
from pruning.reporting.comment import escape
from pruning.reporting.plots import plot_section
from pruning.schemas.outputs import Latency, OnnxCheck, RoundedCheck
from pruning.schemas.recipe import Method
from pruning.schemas.report import (
    BatchNorm,
    Checkpoint,
    Curve,
    Estimate,
    Recommendation,
    Report,
    Section,
)
from pruning.schemas.verdicts import RecommendationVerdict
from pruning.verdict.recommendation import has_lost_channels
from tests.support import reports

CHANNELS, ZEROS = "Whole channels were removed", "multiply by zero"


def both(report: Report) -> tuple[str, str]:
    return to_html(report), to_markdown(report)


def without_channels(sparsity: float, **changes: object) -> Checkpoint:
    """A checkpoint whose files are those of a smaller network."""
    checkpoint = reports.checkpoint(Method(name="filter_norm"), sparsity, 0.08, 0.2, **changes)
    small = 4 * checkpoint.parameters + 20_000
    return checkpoint.model_copy(update={"size_bytes": {"sparse": small, "dense": small}})


@pytest.mark.parametrize(
    ("verdict", "tone", "headline"),
    [
        ("ship", "good", "ship 80 % sparsity"),
        ("undecided", "open", "80 % sparsity, undecided"),
        ("do_not_ship", "bad", "do not ship 80 % sparsity, its loss is beyond the margin"),
        (None, "open", "80 % sparsity, undecided"),  # of an earlier version: nothing was proven
    ],
)
def test_only_a_proven_checkpoint_is_green(
    verdict: RecommendationVerdict | None, tone: str, headline: str
) -> None:
    base = reports.realistic()
    chosen = base.recommendation.model_copy(update={"verdict": verdict})
    report = reports.realistic(recommendation=chosen, gates=())
    assert summary.describe_verdict(report).tone == tone
    page, comment = both(report)
    assert f'class="verdict {tone}"' in page
    for text in (page, comment):
        assert headline in text
        assert (": ship 80 % sparsity" in text) is (verdict == "ship")
        assert ("chosen on validation" in text.lower()) is (verdict != "ship")
    assert ('class="best"' in page) is (verdict == "ship")
    assert ("✅" in comment) is (verdict == "ship")


def test_what_holds_together_is_said_first() -> None:
    report = reports.realistic()
    assert report.joint is not None
    for text in both(report):
        place = text.index(report.joint.sentence)
        assert place < text.index("Test error")
        assert place < text.index(report.recommendation.reason)
    for text in both(reports.realistic(joint=None)):
        assert "holds at 95 % together" not in text


def test_what_is_said_of_zeros_and_of_channels_depends_on_what_was_done() -> None:
    zeros = reports.realistic()
    channels = reports.realistic(
        checkpoints=(without_channels(0.5), without_channels(0.8)), rounds=()
    )
    mixed = reports.realistic(checkpoints=(*zeros.checkpoints, without_channels(0.5)))
    for render in (to_html, to_markdown):
        assert ZEROS in render(zeros)
        assert CHANNELS not in render(zeros)
        assert CHANNELS in render(channels)
        assert ZEROS not in render(channels)
    for text in (to_html(mixed), to_markdown(mixed).replace("\\", "")):
        assert "Without whole channels: filter_norm-0.5. Such" in text
        assert "The others hold zeros" in text
    assert summary.describe_costs(reports.empty()) == ""


def test_the_file_is_compared_with_that_of_the_given_network() -> None:
    best = without_channels(0.8)
    chosen = Recommendation(checkpoint=best.id, sparsity=0.8, margin=0.01, reason="The only one.")
    report = reports.realistic(checkpoints=(best,), rounds=(), recommendation=chosen)
    assert has_lost_channels(report.baseline, best)
    (fact,) = [fact for fact in summary.describe_verdict(report).facts if fact.label == "File"]
    size = best.size_bytes["dense"]
    assert fact.value == wording.file_size(size)
    assert fact.detail == f"{wording.percent(size / 1_110_480)} of the given network's 1.11 MB"
    (zeros,) = [
        fact
        for fact in summary.describe_verdict(reports.realistic()).facts
        if fact.label == "Sparse file"
    ]
    assert "of the given network's 1.11 MB" in zeros.detail


def test_the_ratio_of_latencies_is_explained_where_it_stands() -> None:
    for text in both(reports.realistic()):
        assert "1.01× given" in text
        assert "the median of the ratios of a pass" in text
        assert text.index("the median of the ratios of a pass") > text.index("1.01× given")


def test_what_was_run_in_onnxruntime_is_shown() -> None:
    """The latency of the recommended checkpoint stands in the headline, its memory in the table,
    and the check of its file beside its error.
    """
    best = reports.realistic().checkpoints[-1]
    latency = Latency(
        device="cpu",
        runtime="onnxruntime",
        threads=2,
        batch=1,
        p50=4.0,
        p95=5.0,
        against_given=0.4,
        against_given_low=0.35,
        against_given_high=0.45,
        peak_memory_bytes=3_000_000,
    )
    check = OnnxCheck(
        opset=20,
        runtime="onnxruntime 1.2.3",
        images=1000,
        error=best.error,
        largest_difference=2e-6,
        largest_logit=9.5,
        differing_images=3,
    )
    best = best.model_copy(update={"latency_ms": (latency,), "onnx": check})
    chosen = Recommendation(checkpoint=best.id, sparsity=0.8, margin=0.01, reason="The only one.")
    report = reports.realistic(checkpoints=(best,), rounds=(), recommendation=chosen)
    facts = {fact.label: fact for fact in summary.describe_verdict(report).facts}
    assert facts["Latency in onnxruntime"].value == "0.40 [0.35, 0.45]× given"
    for rendered in both(report):
        text = rendered.replace("\\", "")
        assert "(onnxruntime, cpu, 2 threads, batch 1), 0.40 [0.35, 0.45]× given, 3.00 MB" in text
        assert "onnxruntime 1.2.3, opset 20" in text
        assert "3 of 1,000" in text
        assert "2.0e-06 (the largest logit is 9.5)" in text


def test_rounded_files_are_shown_with_their_own_error() -> None:
    best = reports.realistic().checkpoints[-1]
    check = RoundedCheck(
        format="compressed",
        values="bfloat16",
        images=1000,
        error=Estimate(value=0.25),
        largest_difference=2e-2,
        largest_logit=9.5,
        differing_images=3,
    )
    report = reports.realistic()
    for text in both(report):
        assert "rounded to bfloat16" not in text
    best = best.model_copy(update={"rounded": check})
    chosen = Recommendation(checkpoint=best.id, sparsity=0.8, margin=0.01, reason="The only one.")
    report = reports.realistic(checkpoints=(best,), rounds=(), recommendation=chosen)
    for rendered in both(report):
        text = rendered.replace("\\", "")
        assert "rounded to bfloat16" in text
        assert "25.0 %; not rounded " in text
        assert "3 of 1,000" in text
        assert "all other numbers of this report are of the network that was not rounded" in text


def test_differences_of_errors_are_percentage_points_everywhere() -> None:
    report = reports.realistic()
    for text in (*both(report), to_junit(report)):
        assert "1.00 pp" in text
        assert "1.00 %" not in text
    curve = Curve(
        x=(0.5, 0.8),
        y=(reports.difference(-0.0124), reports.difference(0.03)),
        x_label="sparsity",
        x_unit="share",
        x_scale="sparsity",
        y_label="test error above the dense control's",
        y_unit="points",
    )
    section = Section(title="Accuracy", version=1, curves={"increase/a": curve})
    (plot,) = plot_section("s", section)
    assert plot.y_label == "test error above the dense control's (pp)"
    assert ">−1</text>" in plot.svg, "in hundredths, with the true minus"
    assert "−1.2 pp" in to_markdown(reports.realistic(sections={"accuracy": section}))
    assert {accuracy_plot.y_label for accuracy_plot in plot_accuracy(report)} == {
        "test accuracy (%)"
    }
    (errors,) = plot_section("s", report.sections["robustness"])
    assert errors.y_label == "test error (%)"


def test_one_large_criterion_does_not_flatten_the_others() -> None:
    def plot(*values: float) -> tuple[str, str]:
        curves = {
            name: Curve(
                x=(0.5, 0.8, 0.9),
                y=tuple(Estimate(value=scale * v) for v in values),
                x_label="sparsity",
                y_label="loss change",
                y_unit="nats_difference",
            )
            for name, scale in (("a", 1.0), ("b", 1.2))
        }
        curves["random"] = curves["a"].model_copy(
            update={"y": tuple(Estimate(value=v) for v in (0.4, 90.0, 1000.0))}
        )
        (section_plot,) = plot_section("s", Section(title="t", version=1, curves=curves))
        return section_plot.y_label, section_plot.svg

    label, svg = plot(-0.02, 0.05, 0.4)
    assert label == "loss change (nats), symlog axis, linear within ±0.01"
    assert all(f">{tick}</text>" in svg for tick in ("0", "1000"))
    assert plot(0.02, 0.05, 0.4)[0] == "loss change (nats), log axis"
    assert plot(-10.0, 50.0, 400.0)[0] == "loss change (nats)"


def test_a_layer_collapse_is_warned_of_once() -> None:
    gone = "layer collapse: nothing remains of fc.weight"
    collapsed = reports.checkpoint(Method(name="snip"), 0.95, 0.1, 0.2, warnings=(gone,))
    others = ("snip, round 2: something else", "magnitude, round 3: " + gone)
    report = reports.realistic(
        checkpoints=(collapsed,), rounds=(), warnings=(f"snip, round 3: {gone}", *others)
    )
    assert summary.list_warnings(report) == others
    page, comment = both(report)
    assert page.count(gone) == comment.count(gone) == 2, (
        "that of the criterion without a checkpoint stays"
    )
    assert "Warnings" not in to_html(
        reports.realistic(checkpoints=(collapsed,), rounds=(), warnings=(f"snip, round 3: {gone}",))
    )


def test_markdown_explains_batchnorm_as_the_page_does() -> None:
    batchnorm = BatchNorm(loss_before=2.66, loss_after=3.01, kept=False)
    first = reports.realistic().checkpoints[0].model_copy(update={"batchnorm": batchnorm})
    page, comment = both(reports.realistic(checkpoints=(first,), rounds=()))
    assert summary.BATCHNORM_NOTE in page
    assert summary.BATCHNORM_NOTE in comment


def test_one_of_a_thing_is_no_plural() -> None:
    base = reports.realistic()
    report = reports.realistic(environment=base.environment.model_copy(update={"threads": 1}))
    for text in both(report):
        assert "1 thread," in text
    assert escape(wording.count_of(2, "thread")) in to_markdown(base)


def test_a_latency_of_another_network_is_said_to_be_so() -> None:
    own = Latency(
        device="cpu",
        threads=2,
        batch=1,
        p50=2.0,
        p95=2.5,
        against_given=1.0,
        against_given_low=1.0,
        against_given_high=1.0,
        measured_of="given",
    )
    text = runtimes.describe_latency(own)
    assert text.endswith("that of given, whose shapes are equal")
    assert "[1.00, 1.00]" not in text
    other = own.model_copy(update={"against_given": 0.5, "measured_of": "magnitude-0.5"})
    assert "measured of magnitude-0.5, of equal shapes" in runtimes.describe_latency(other)
