"""Simulations of damage by class: what is found, and how often nothing is claimed falsely."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import pytest
import torch
from torch import Tensor

import pruning.analysis.class_damage
from pruning.analysis.class_damage import CLASS, Column, compare_checkpoints
from pruning.schemas.class_damage import Damage, Finding
from tests.support.class_records import make_classes

Networks = Mapping[str, tuple[Tensor, Tensor]]
UNBALANCED = (1000, 700, 400, 200, 100, 60, 30, 20, 10, 5)
CHECKPOINTS = 4


def draw(rng: torch.Generator, rates: Tensor) -> Tensor:
    """Flags that are true at these rates."""
    return torch.rand(rates.shape, generator=rng) < rates


def make_column(labels: Tensor) -> Column:
    """The classes of the labels."""
    return Column(CLASS, tuple(map(str, range(int(labels.max()) + 1))), labels)


def list_findings(
    networks: Networks, labels: Tensor, clusters: Tensor | None = None
) -> list[Damage]:
    """The rows of the checkpoints by class."""
    rows = compare_checkpoints(networks, [make_column(labels)], clusters)
    return [row.damage for row in rows]


def estimate_false_claims(
    simulate: Callable[[torch.Generator], tuple[Networks, Tensor | None]],
    labels: Tensor,
    false: Sequence[Finding],
    *,
    runs: int,
) -> float:
    """The share of simulated jobs with at least one finding that is false."""
    rng = torch.Generator().manual_seed(13)
    wrong = 0
    for _ in range(runs):
        networks, clusters = simulate(rng)
        wrong += any(row.finding in false for row in list_findings(networks, labels, clusters))
    return wrong / runs


def allow(runs: int, level: float = 0.05) -> float:
    """The most that a share of this expectation is, but for one simulation in a thousand."""
    return level + 3.1 * math.sqrt(level * (1 - level) / runs)


def prune_lineage(rng: torch.Generator, error: Tensor, churn: Tensor) -> Networks:
    """Checkpoints that each change few answers of the one before, beside one control.

    Images are unstable at the rates of `churn`, and wrong one time in two in every network; the
    others are wrong in all networks or in none. No checkpoint has lost anything in expectation.
    """
    control = draw(rng, error)
    unstable = draw(rng, churn)
    even = torch.full(error.shape, 0.5)
    control = torch.where(unstable, draw(rng, even), control)
    pruned = torch.where(unstable, draw(rng, even), control)
    networks = {}
    for number in range(CHECKPOINTS):
        networks[str(number)] = pruned, control
        changed = unstable & draw(rng, even * 0.6)
        pruned = torch.where(changed, draw(rng, even), pruned)
    return networks


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what would have been found: no claim of these simulations reads it."""
    monkeypatch.setattr(
        pruning.analysis.class_damage, "find_detectable_increase", lambda *args: None
    )


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_of_unbalanced_classes_and_one_lineage_at_most_one_job_in_twenty_claims_falsely() -> None:
    labels = make_classes(UNBALANCED)
    error = torch.linspace(0.02, 0.4, len(UNBALANCED))[labels]
    churn = torch.linspace(0.3, 0.02, len(UNBALANCED))[labels]
    runs = 600

    def simulate(rng: torch.Generator) -> tuple[Networks, None]:
        return prune_lineage(rng, error, churn), None

    share = estimate_false_claims(
        simulate, labels, ["loses", "gains", "loses more than the others"], runs=runs
    )
    print(f"no loss, unbalanced classes, one lineage: {share:.4f} of {runs} jobs claim one")  # noqa: T201
    assert share <= allow(runs)


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_loss_that_all_classes_share_seldom_makes_one_stand_out() -> None:
    labels = make_classes(UNBALANCED)
    churn = torch.linspace(0.3, 0.01, len(UNBALANCED))[labels]
    runs = 600

    def simulate(rng: torch.Generator) -> tuple[Networks, None]:
        networks = {}
        kind = torch.rand(labels.shape, generator=rng)
        for number in range(CHECKPOINTS):
            # Every class loses as much; how many images change their answers differs.
            loss = 0.02 * (1 + number)
            networks[str(number)] = kind < churn / 2 + loss, kind > 1 - churn / 2
        return networks, None

    share = estimate_false_claims(simulate, labels, ["loses more than the others"], runs=runs)
    print(f"equal losses, unbalanced classes: {share:.4f} of {runs} jobs name a class")  # noqa: T201
    assert share <= allow(runs)


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_near_duplicates_claim_falsely_unless_their_clusters_are_known() -> None:
    sizes = (600, 400, 300, 200, 100)
    labels = make_classes(sizes)
    clusters = torch.arange(len(labels)) // 10
    runs = 300

    def simulate(rng: torch.Generator, known: bool) -> tuple[Networks, Tensor | None]:
        # All images of a cluster but a few answer alike.
        pair = torch.rand((CHECKPOINTS, len(labels) // 10), generator=rng)[:, clusters]
        stray = torch.rand((CHECKPOINTS, len(labels)), generator=rng)
        value = torch.where(stray < 0.1, torch.rand(stray.shape, generator=rng), pair)
        networks = {str(number): (row < 0.15, row > 0.85) for number, row in enumerate(value)}
        return networks, clusters if known else None

    claims: list[Finding] = ["loses", "gains", "loses more than the others"]
    known = estimate_false_claims(lambda rng: simulate(rng, True), labels, claims, runs=runs)
    unknown = estimate_false_claims(lambda rng: simulate(rng, False), labels, claims, runs=40)
    print(  # noqa: T201
        f"near-duplicates: {known:.4f} of {runs} jobs claim a loss, {unknown:.2f} without clusters"
    )
    assert known <= allow(runs)
    assert unknown > 0.2, "the limit that the section tells"


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("classes", "runs"), [(10, 200), (100, 30)])
def test_ten_points_in_one_class_of_a_thousand_images_are_found(classes: int, runs: int) -> None:
    labels = make_classes([1000] * classes)
    rng = torch.Generator().manual_seed(1)
    finds = 0
    others = 0
    for run in range(runs):
        damaged = run % classes
        # Classes differ in their errors, and in how many answers any retraining changes.
        error = 0.02 + 0.3 * torch.rand(classes, generator=rng)[labels]
        control = draw(rng, error)
        networks = {}
        for number in range(CHECKPOINTS):
            change = torch.rand(labels.shape, generator=rng)
            gain = control & (change < 0.1)
            rate = 0.1 * error / (1 - error)
            # The planted loss is at the sparsest checkpoint.
            if number == CHECKPOINTS - 1:
                rate = rate + torch.where(labels == damaged, 0.1 / (1 - error), 0.0)
            networks[str(number)] = (control & ~gain) | (~control & (change < rate)), control
        for row in compare_checkpoints(networks, [make_column(labels)], None):
            if row.damage.finding == "loses more than the others":
                planted = row.damage.checkpoint == "3" and row.value == str(damaged)
                finds += planted
                others += not planted
    print(f"{classes} classes: found in {finds} of {runs} jobs; {others} other claims")  # noqa: T201
    assert finds >= 0.95 * runs
    assert others <= 0.05 * runs + 3 * math.sqrt(0.05 * runs)


@pytest.mark.slow
def test_the_loss_that_would_have_been_found_is_found_in_four_of_five_jobs() -> None:
    classes, size, runs = 10, 100, 400
    labels = make_classes([size] * classes)
    rng = torch.Generator().manual_seed(2)
    churn = 0.03
    kind = torch.rand(labels.shape, generator=rng)
    quiet = list_findings({"a": (kind < churn, kind > 1 - churn)}, labels)
    increase = quiet[0].detectable_increase
    assert increase is not None
    finds = 0
    for _ in range(runs):
        kind = torch.rand(labels.shape, generator=rng)
        rate = torch.where(labels == 4, churn + increase, torch.tensor(churn))
        rows = list_findings({"a": (kind < rate, kind > 1 - churn)}, labels)
        finds += rows[4].finding in ("loses", "loses more than the others")
    print(f"a loss of {increase:.3f} in {size} images: found in {finds / runs:.3f} of {runs} jobs")  # noqa: T201
    assert finds / runs == pytest.approx(0.8, abs=0.07)
