"""Files with rounded values as networks: read back, and measured on the test images."""

from __future__ import annotations

import copy
from pathlib import Path

from torch import nn

from pruning.data.tensors import Data
from pruning.measurement.agreement import measure_agreement
from pruning.measurement.measure import estimate_error
from pruning.schemas.outputs import RoundedCheck, StoredValues
from pruning.storage.compressed import read_compressed


def check_rounded(path: Path, model: nn.Module, data: Data, values: StoredValues) -> RoundedCheck:
    """Compare a compressed file, whose values are rounded to `values`, with its network on the test
    images.
    """
    rounded = copy.deepcopy(model)
    rounded.load_state_dict(read_compressed(path))
    agreement = measure_agreement(model, rounded, data)
    return RoundedCheck(
        format="compressed",
        values=values,
        images=len(agreement.errors),
        error=estimate_error(agreement.errors),
        largest_difference=agreement.largest_difference,
        largest_logit=agreement.largest_logit,
        differing_images=agreement.differing_images,
    )
