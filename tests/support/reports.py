"""Reports made by hand: a realistic one, and the corners."""

from __future__ import annotations

import math
from typing import Any

from pruning.schemas.recipe import Method
from pruning.schemas.report import (
    Checkpoint,
    Curve,
    DataInfo,
    Environment,
    Estimate,
    Evaluated,
    Failure,
    GateResult,
    Increase,
    Latency,
    Layer,
    ModelInfo,
    Network,
    Recommendation,
    Report,
    Round,
    Section,
)
from pruning.schemas.verdicts import JointStatement

PARAMETERS, PRUNABLE, TEST = 272_474, 270_896, 1797
HOSTILE = '<script>alert("x")</script>|`a` & @all\n"\'><img src=http://evil.test/x>'


def estimate(value: float, half: float = 0.018, n: int = TEST) -> Estimate:
    return Estimate(
        value=value, low=max(value - half, 0.0), high=min(value + half, 1.0), n=n, unit="fraction"
    )


def difference(value: float, half: float = 0.009) -> Estimate:
    return Estimate(value=value, low=value - half, high=value + half, n=TEST, unit="points")


def evaluated(error: float) -> Evaluated:
    return Evaluated(
        error=estimate(error),
        loss=Estimate(value=3 * error, n=TEST, unit="nats"),
        val_error=estimate(error + 0.004),
    )


def costs(sparsity: float, latency: tuple[Latency, ...] | None = None) -> dict[str, Any]:
    density = 1 - sparsity
    if latency is None:
        latency = (
            Latency(
                device="cpu",
                threads=2,
                batch=1,
                p50=2.05 - 0.01 * sparsity,
                p95=2.6,
                against_given=1.01,
            ),
            Latency(device="cpu", threads=2, batch=128, p50=118.4 + sparsity, p95=130.0),
        )
    return {
        "sparsity": sparsity,
        "density": density,
        "prune_ratio": sparsity * PRUNABLE / PARAMETERS,
        "parameters": PARAMETERS - round(PRUNABLE * sparsity),
        "flops": round(81_200_000 * density),
        "size_bytes": {
            "sparse": round(1_110_000 * density + 40_000),
            "dense": 1_110_480,
            "masks": 34_900,
            "sparse_gzip": round(800_000 * density + 30_000),
            "dense_gzip": round(1_000_000 * density + 60_000),
        },
        "latency_ms": latency,
    }


def network(error: float, sparsity: float = 0.0, **changes: Any) -> Network:
    return Network(**dict(evaluated(error)), **costs(sparsity) | changes)


def layers(sparsity: float) -> tuple[Layer, ...]:
    shapes = {
        "conv1.weight": (16, 3, 3, 3),
        "layer1.0.conv1.weight": (16, 16, 3, 3),
        "layer3.2.conv2.weight": (64, 64, 3, 3),
        "fc.weight": (10, 64),
    }
    pruned = tuple(
        Layer(
            name=name,
            shape=shape,
            total=math.prod(shape),
            kept=round(math.prod(shape) * (1 - sparsity) * (1 + 0.3 * i / 4)),
        )
        for i, (name, shape) in enumerate(shapes.items())
    )
    return (
        *pruned,
        Layer(name="bn1.weight", shape=(16,), total=16, kept=16, reason="normalisation"),
    )


def checkpoint(
    criterion: Method, sparsity: float, final: float, before: float | None, **changes: Any
) -> Checkpoint:
    fields: dict[str, Any] = {
        **dict(evaluated(final)),
        **costs(sparsity - 0.0001),
        "id": f"{criterion.name}-{sparsity:g}",
        "criterion": criterion,
        "round": 1,
        "requested_sparsity": sparsity,
        "pruned": evaluated(final if before is None else before),
        "retrained": None if before is None else evaluated(final),
        "error_increase": Increase(
            given=difference(final - 0.082), control=difference(final - 0.071)
        ),
        "val_error_increase": difference(final - 0.07),
        "layers": layers(sparsity),
    }
    return Checkpoint(**fields | changes)


def realistic(**changes: Any) -> Report:
    """Return a report of two criteria at three sparsities, with rounds between, sections, a gate, a
    failure and a warning.
    """
    magnitude, snip = Method(name="magnitude", params={"p": 1}), Method(name="snip")
    # by sparsity: retrained with magnitude, with snip, and right after pruning
    errors = {0.5: (0.069, 0.078, 0.15), 0.8: (0.074, 0.091, 0.42), 0.95: (0.118, 0.152, 0.83)}
    checkpoints = tuple(
        checkpoint(criterion, sparsity, after[i], after[2])
        for i, criterion in enumerate((magnitude, snip))
        for sparsity, after in errors.items()
    )
    between = tuple(
        Round(
            criterion=criterion,
            round=i,
            sparsity=sparsity,
            density=1 - sparsity,
            target=False,
            pruned=evaluated(0.3),
            retrained=evaluated(error),
        )
        for criterion, error in ((magnitude, 0.072), (snip, 0.083))
        for i, sparsity in enumerate((0.65, 0.72))
    )
    fields: dict[str, Any] = {
        "job_id": "job_0123456789ab",
        "recipe_digest": "0f" * 32,
        "spec": {
            "type": "prune",
            "model": {"id": "mdl_0123456789"},
            "dataset": {"builtin": "digits"},
            "targets": {"sparsity": [0.5, 0.8, 0.95]},
            "labels": {"team": "vision"},
        },
        "model": ModelInfo(
            architecture="resnet20",
            kwargs={"classes": 10},
            sha256="ab" * 32,
            parameters=PARAMETERS,
            prunable=PRUNABLE,
            normalize={"mean": (0.5,), "std": (0.25,)},
        ),
        "data": DataInfo(
            name="digits",
            sha256="cd" * 32,
            classes=tuple("0123456789"),
            shape=(1, 8, 8),
            fit=1200,
            val=133,
            test=TEST,
        ),
        "environment": Environment(
            device="cpu",
            device_name="AMD EPYC 7B13",
            threads=2,
            eval_batch=256,
            torch="2.13.0",
            python="3.11.9",
            secateur="0.1.0",
            platform="Linux-6.1-x86_64",
        ),
        "baseline": network(0.082),
        "control": network(0.071),
        "checkpoints": checkpoints,
        "rounds": between,
        "sections": {
            "robustness": Section(
                title="Robustness to corruptions",
                version=1,
                scalars={
                    "nominal/error": estimate(0.07),
                    "shifted/delta_excess_error": difference(0.013),
                    "spearman": Estimate(value=0.91, unit="correlation"),
                    "forward": Estimate(value=12.5, unit="milliseconds"),
                },
                curves={
                    name: Curve(
                        x=(0.0, 0.5, 0.8, 0.95),
                        y=tuple(estimate(k * error) for error in (0.08, 0.09, 0.1, 0.2)),
                        x_label="sparsity",
                        x_unit="share",
                        x_scale="sparsity",
                        y_label="test error",
                        y_unit="fraction",
                    )
                    for k, name in enumerate(("gaussian_noise", "fog", "jpeg_compression"), 1)
                },
                notes=("Severity 3 of 5.",),
            ),
            "made_up_later": Section(
                title="Bounds",
                version=3,
                scalars={"epsilon": Estimate(value=3.2e7)},
                curves={
                    "sipp": Curve(
                        x=(1, 2, 3),
                        y=tuple(Estimate(value=10.0**k) for k in (1, 4, 7)),
                        x_label="layer",
                        y_label="bound",
                    )
                },
                details={
                    "per_layer": [{"layer": "fc", "bound": 0.25, "holds": True}],
                    "assumptions": {"iid": "checked"},
                },
            ),
        },
        "recommendation": Recommendation(
            checkpoint="magnitude-0.8",
            sparsity=0.7999,
            margin=0.01,
            reason="Of the checkpoints within 1 percentage point of the dense control on the "
            "validation split, "
            "magnitude at 80 % is the sparsest.",
            verdict="ship",
            confidence=0.95,
        ),
        "joint": JointStatement(
            confidence=0.95, sentence="Of magnitude-0.8 this holds at 95 % together: it is fine."
        ),
        "gates": (
            GateResult(
                name="max_error_increase",
                limit=0.01,
                checkpoint="magnitude-0.8",
                measured=difference(0.003),
                passed=True,
                message="0.3 percentage points above the control, 1 allowed",
            ),
        ),
        "failures": (
            Failure(name="scaling_law", code="too_few_points", message="3 points, 5 are needed"),
        ),
        "warnings": ("The test split holds fewer than 2,000 images: intervals are wide.",),
        "usage": {"baseline": 2.5, "prune": 0.8, "retrain": 94.0, "evaluate": 31.5},
    }
    return Report(**fields | changes)


def hostile() -> Report:
    """Return a report whose every free string is an attack."""
    base = realistic()
    section = Section(
        title=HOSTILE,
        version=1,
        scalars={HOSTILE: Estimate(value=0.1)},
        notes=(HOSTILE,),
        curves={
            HOSTILE: Curve(
                x=(1, 2),
                y=(Estimate(value=1), Estimate(value=2)),
                x_label=HOSTILE,
                y_label="$\\frac{",
            )
        },
        details={HOSTILE: [{HOSTILE: HOSTILE}], "plain": HOSTILE},
    )
    bad = Layer(name=HOSTILE, shape=(2,), total=2, kept=1)
    return realistic(
        job_id=HOSTILE,
        spec={"labels": {HOSTILE: HOSTILE}},
        recipe_digest=HOSTILE,
        model=base.model.model_copy(
            update={"architecture": HOSTILE, "sha256": HOSTILE, "kwargs": {HOSTILE: HOSTILE}}
        ),
        data=base.data.model_copy(update={"name": HOSTILE, "classes": (HOSTILE, "_b")}),
        checkpoints=(
            checkpoint(
                Method(name="magnitude", params={"p": HOSTILE}),
                0.5,
                0.07,
                0.1,
                id=HOSTILE,
                layers=(bad, bad.model_copy(update={"reason": HOSTILE})),
                warnings=(HOSTILE,),
            ),
        ),
        rounds=(),
        sections={HOSTILE: section},
        warnings=(HOSTILE,),
        usage={HOSTILE: 1.0},
        recommendation=Recommendation(checkpoint=HOSTILE, sparsity=0.5, margin=0.0, reason=HOSTILE),
        joint=JointStatement(confidence=0.95, sentence=HOSTILE),
        gates=(
            GateResult(
                name="max_error_increase",
                limit=0.0,
                checkpoint=HOSTILE,
                measured=None,
                passed=False,
                message=HOSTILE + "\x00",
            ),
        ),
        failures=(Failure(name=HOSTILE, code=HOSTILE, message=HOSTILE + "\x1b"),),
    )


def empty() -> Report:
    """Return the report of a job that ended before its first checkpoint."""
    return realistic(
        checkpoints=(),
        rounds=(),
        sections={},
        gates=(),
        failures=(),
        warnings=(),
        usage={},
        partial=True,
        recommendation=Recommendation(
            checkpoint=None, sparsity=None, margin=0.01, reason="Nothing was finished."
        ),
    )


def unretrained() -> Report:
    """Return a report of one checkpoint, without retraining, timings and intervals."""
    bare = Estimate(value=0.1)
    quiet = Evaluated(error=bare, loss=bare, val_error=bare)
    only = checkpoint(
        Method(name="magnitude"),
        0.5,
        0.1,
        None,
        latency_ms=(),
        pruned=quiet,
        error=bare,
        error_increase=Increase(given=bare, control=bare),
        size_bytes={"dense": 100, "onnx": 90},
    )
    return realistic(
        baseline=Network(**dict(quiet), **costs(0.0, ())),
        checkpoints=(only,),
        rounds=(),
        sections={},
        recommendation=Recommendation(
            checkpoint=only.id, sparsity=0.5, margin=0.01, reason="The only one."
        ),
    )
