"""Names of scalars, curves, columns and tables in words, by the labels of their section."""

from __future__ import annotations

from collections.abc import Mapping


def name_scalar(key: str, labels: Mapping[str, str]) -> str:
    """Return the name of a scalar: the words of what stands before the first slash, then those of
    the rest. A section without labels has names that are read as they are.

    >>> labels = {"spearman": "Spearman's rho", "kl": "KL divergence"}
    >>> name_scalar("spearman/kl", labels), name_scalar("excess_error/filter_norm", labels)
    ("Spearman's rho: KL divergence", 'excess error: filter_norm')
    >>> name_scalar("spearman/kl", {})
    'spearman/kl'
    """
    if not labels:
        return key
    first, *rest = key.split("/")
    words = labels.get(first, first.replace("_", " "))
    return f"{words}: {', '.join(labels.get(part, part) for part in rest)}" if rest else words


def read_curve(key: str, labels: Mapping[str, str]) -> str:
    """Return the name of a curve, or of what several curves have in common; a part without words
    stays as it is.

    >>> read_curve("kl_before/filter_norm", {"kl_before": "right after pruning"})
    'right after pruning, filter_norm'
    >>> read_curve("kl_before/magnitude", {})
    'kl_before/magnitude'
    """
    if not labels:
        return key
    return ", ".join(labels.get(part, part) for part in key.split("/"))
