"""Networks as modules: built from an architecture, loaded with weights, switched between modes,
their layers as matrices.
"""

from pruning.networks.loading import check_fits, load_model, load_state_, read_state, resolve

__all__ = ["check_fits", "load_model", "load_state_", "read_state", "resolve"]
