"""Reports of networks that were pruned elsewhere: named as the job names them."""

from __future__ import annotations

from pruning.reporting import asked, summary, to_html, to_markdown
from pruning.reporting.model_card import CardFacts, write_model_card
from pruning.schemas.recipe import UPLOADED, Method
from pruning.schemas.report import Checkpoint, Report
from tests.support import reports
from tests.support.page import Page


def judged(name: str, sparsity: float) -> Checkpoint:
    """A checkpoint of a network that was sent in."""
    criterion = Method(name=UPLOADED, params={"name": name, "model": "mdl_00000001"})
    checkpoint = reports.checkpoint(criterion, sparsity, 0.08, None)
    return checkpoint.model_copy(update={"id": name, "label": name, "requested_sparsity": None})


def build_report() -> Report:
    checkpoints = (judged("tp", 0.4963), judged("nncf", 0.5049))
    base = reports.realistic()
    chosen = base.recommendation.model_copy(update={"checkpoint": "tp", "verdict": "ship"})
    return reports.realistic(checkpoints=checkpoints, rounds=(), recommendation=chosen, gates=())


def test_a_network_is_called_by_its_name() -> None:
    report = build_report()
    first, second = report.checkpoints
    assert first.removal == second.removal == 0.5
    assert asked.name_column(report) == "Sparsity, to a percent"
    assert "ship tp (49.62 % sparse)" in summary.describe_verdict(report).headline
    comment = to_markdown(report)
    assert "| **tp** (recommended) |" in comment
    assert "| nncf |" in comment
    assert "nothing is retrained here" in comment
    assert "uploaded (" not in comment.split("<details>")[0]
    page = Page(to_html(report))
    assert "control: the same network" in "".join(page.text)


def test_a_model_card_does_not_say_who_pruned() -> None:
    checkpoint = judged("tp", 0.5)
    facts = CardFacts(
        id="tp",
        job="job_00000000",
        task="classification",
        dataset="digits",
        test_images=9,
        criterion=checkpoint.criterion,
        sparsity=0.5,
        retrain_epochs=0,
        pruned=checkpoint,
        given=checkpoint,
        control=checkpoint,
    )
    card = write_model_card(facts)
    assert "it was judged here as it came" in card
    assert "criterion" not in card
