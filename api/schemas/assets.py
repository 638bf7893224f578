"""Models, datasets and keys on the wire."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from api.schemas.times import Time, to_iso
from pruning.schemas.preprocessing import (
    GivenPreprocessing,
    Preprocessing,
    Resizing,
    describe_guess,
    describe_model_preprocessing,
)
from tasks.store.tables import ApiKey, Dataset, Model


def _check_printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("a name holds printable characters only")
    return text


Label = Annotated[str, StringConstraints(max_length=255), AfterValidator(_check_printable)]
Constants = Annotated[
    list[Annotated[float, Field(strict=True)]], Field(min_length=1, max_length=64)
]
Scope = Literal["read", "write", "admin"]


Classes = Annotated[
    list[Annotated[Label, Field(min_length=1)]], Field(min_length=1, max_length=100_000)
]


class Normalize(BaseModel):
    """Constants of each channel: images are scaled to [0, 1], then `(x - mean) / std`."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    mean: Constants
    std: Constants

    @model_validator(mode="after")
    def _check_channels(self) -> Normalize:
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} values, std has {len(self.std)}")
        if any(not (math.isfinite(value) and value > 0) for value in self.std):
            raise ValueError("std must be positive")
        return self


class ModelView(BaseModel):
    """An uploaded network, checked against its architecture."""

    model_config = ConfigDict(extra="forbid")

    id: str
    state: Literal["ready"] = "ready"
    name: str
    sha256: str
    """The digest of the uploaded file."""
    size_bytes: int
    architecture: str
    kwargs: dict[str, Any]
    """The arguments of the architecture, with every default written in."""
    parameters: int
    """Numbers that the network learns."""
    prunable: int
    """The number of parameters that pruning may remove."""
    sparsity: float = 0.0
    """The fraction of the prunable parameters that are zero as the network comes."""
    normalize: Normalize | None
    """The constants that were given with the network, or that the file says."""
    preprocessing: Preprocessing | None = None
    """The preprocessing of images for this network; `null` where the dataset of a job decides."""
    classes: list[str] | None
    has_arch: bool = False
    """Whether it has lost channels, as the `arch.json` says that came with it."""
    warnings: list[str] = []
    """Remarks on how the file was read, and guesses that an upload with more fields would not need.
    """
    created_at: Time

    @classmethod
    def from_row(cls, row: Model) -> ModelView:
        """Return the wire form of a row."""
        described = {
            "architecture": row.architecture,
            "normalize": row.normalize,
            "source": row.source,
            "kwargs": row.kwargs,
            "preprocessing": row.preprocessing,
        }
        preprocessing = describe_model_preprocessing(described)
        guess = describe_guess("dataset" if preprocessing is None else preprocessing.source)
        return cls(
            id=row.id,
            name=row.name,
            sha256=row.sha256,
            size_bytes=row.size_bytes,
            kwargs=row.kwargs,
            architecture=row.architecture,
            parameters=row.parameters,
            prunable=row.prunable,
            sparsity=sum((row.zeros or {}).values()) / max(1, row.prunable),
            normalize=None if row.normalize is None else Normalize(**row.normalize),
            preprocessing=preprocessing,
            classes=row.classes,
            has_arch=row.modules is not None,
            warnings=[*(row.notes or []), *([] if guess is None else [guess])],
            created_at=to_iso(row.created_at),
        )


class PhotoSizes(BaseModel):
    """The sizes of photos that differ in size."""

    smallest: tuple[int, int]
    """The least height and the least width."""
    largest: tuple[int, int]
    """The largest height and the largest width."""
    bytes: dict[str, int]
    """The bytes of the files of each split, which is what they take in memory."""


class NewSource(BaseModel):
    """A dataset that a worker is to fetch."""

    model_config = ConfigDict(extra="forbid")

    url: Annotated[str, StringConstraints(max_length=4096, pattern=r"^[!-~]+$")]
    """`https://…`, or `s3://bucket/key`, which is read with the worker's credentials. A host inside
    the service's network is refused.
    """
    sha256: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")]
    """The digest of the file; another file is refused."""
    name: Label | None = None
    """Default: the last part of the URL."""
    normalize: Normalize | None = None
    preprocessing: GivenPreprocessing | None = None
    classes: Classes | None = None
    """The names of numbered classes, in the order of the labels, where the file does not name them.
    """


class SourceView(BaseModel):
    """The source that a dataset is fetched from, and how far that is."""

    url: str
    tries: int
    next_try_at: Time | None = None
    """The time from which it is tried again; `null` once it is fetched, or has failed."""


class SourceFailure(BaseModel):
    """Why the last try to fetch a dataset failed."""

    code: str
    message: str
    retryable: bool


class DatasetView(BaseModel):
    """A dataset, decoded to uint8 tensors, or photos that differ in size as files."""

    id: str
    state: Literal["fetching", "ready", "failed"] = "ready"
    """`fetching` until a worker has fetched and checked a dataset by URL; jobs take the `ready`.
    """
    source: SourceView | None = None
    """Null for an upload."""
    error: SourceFailure | None = None
    """The failure of the last try to fetch it; another follows while the state is `fetching`."""
    name: str
    sha256: str
    """The digest of the uploaded file."""
    size_bytes: int
    classes: list[str]
    shape: list[int | None]
    """Channels, height, width; height and width are `null` where photos differ in size."""
    sizes: PhotoSizes | None = None
    """The sizes of photos that differ in size; `null` for images of one size."""
    counts: dict[str, int]
    """Images by split."""
    task: Literal["classification", "segmentation"]
    """The meaning of the labels: a class of each image, or of each pixel."""
    notes: list[str]
    """Remarks on how the dataset was read."""
    groups: dict[str, dict[str, int]]
    """Test images by column of groups and by group; empty where the dataset has no such column."""
    guessing_error: float | None = None
    """The error of the best constant answer on the test images; `null` for masks, and in datasets
    of earlier versions.
    """
    normalize: Normalize | None
    preprocessing: Resizing | None = None
    """The change of size that was given with the dataset."""
    created_at: Time

    @classmethod
    def from_row(cls, row: Dataset) -> DatasetView:
        """Return the wire form of a row."""
        return cls(
            id=row.id,
            state=_read_state(row),
            source=_describe_source(row),
            error=None if row.failure is None else SourceFailure(**row.failure),
            name=row.name,
            sha256=row.sha256,
            size_bytes=row.size_bytes,
            classes=row.classes,
            shape=row.shape,
            sizes=None if row.sizes is None else PhotoSizes(**row.sizes),
            counts=row.counts,
            notes=row.notes,
            groups=row.groups,
            guessing_error=row.guessing_error,
            task="segmentation" if row.task == "segmentation" else "classification",
            created_at=to_iso(row.created_at),
            normalize=None if row.normalize is None else Normalize(**row.normalize),
            preprocessing=None
            if row.preprocessing is None
            else Resizing.model_validate(row.preprocessing["sizes"]),
        )


def _read_state(row: Dataset) -> Literal["fetching", "ready", "failed"]:
    if row.state == "fetching":
        return "fetching"
    return "failed" if row.state == "failed" else "ready"


def _describe_source(row: Dataset) -> SourceView | None:
    if row.source is None:
        return None
    next_try_at = None if row.due_at is None else to_iso(row.due_at)
    return SourceView(url=row.source["url"], tries=row.tries, next_try_at=next_try_at)


class ModelPage(BaseModel):
    """Models, newest first."""

    data: list[ModelView]
    has_more: bool
    next_cursor: str | None


class DatasetPage(BaseModel):
    """Datasets, newest first."""

    data: list[DatasetView]
    has_more: bool
    next_cursor: str | None


class NewKey(BaseModel):
    """The key to create."""

    model_config = ConfigDict(extra="forbid")

    name: Label = ""
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=3)] = ["read", "write"]
    """Each of `read`, `write`, `admin` includes the ones before it."""
    project: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")] | None = None
    """Default: the caller's project."""


class KeyView(BaseModel):
    """An API key, without its secret."""

    id: str
    name: str
    project: str
    scopes: list[Scope]
    created_at: Time

    @classmethod
    def from_row(cls, row: ApiKey) -> KeyView:
        """Return the wire form of a row."""
        return cls(
            id=row.id,
            name=row.name,
            project=row.project,
            scopes=row.scopes,
            created_at=to_iso(row.created_at),
        )


class MadeKey(KeyView):
    """A new API key; its secret is shown only now."""

    secret: str


class KeyList(BaseModel):
    """Every key the caller administers."""

    data: list[KeyView]
