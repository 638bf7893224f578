"""An evaluation that counts weights whose sign is the dense network's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pruning.analysis.job_record import JobRecord
from pruning.evaluations import evaluations
from pruning.schemas.report import Estimate, Section


@evaluations.register("sign_agreement")
@dataclass(frozen=True)
class SignAgreement:
    """The fraction of the remaining weights whose sign is that of the network as given."""

    version: ClassVar[int] = 1

    def evaluate(self, record: JobRecord) -> Section:
        """One number for each checkpoint."""
        given = dict(record.dense().named_parameters())
        scalars = {}
        for checkpoint in record.rounds:
            if checkpoint.target is None:
                continue
            network = dict(checkpoint.network().named_parameters())
            agree = [
                float((network[name].sign() == given[name].sign())[mask].float().mean())
                for name, mask in checkpoint.masks().items()
            ]
            scalars[f"agreement/{checkpoint.id}"] = Estimate(value=sum(agree) / len(agree))
        return Section(title="Signs", version=self.version, scalars=scalars)
