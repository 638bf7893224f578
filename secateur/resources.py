"""The operations of the service as methods, typed once for both clients."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, overload

from secateur.flow import Flow, Stream
from secateur.operations import checkpoints, events, jobs, service, uploads

if TYPE_CHECKING:
    from secateur.client import AsyncClient, Client

C = TypeVar("C")
T = TypeVar("T")
P = ParamSpec("P")


class Resource(Generic[C]):
    """A group of operations that one client, of type `C`, performs."""

    def __init__(self, client: C) -> None:
        self._client = client


class Operation(Generic[P, T]):
    """A flow as a method: it returns the result on a `Client`, a coroutine of it on an
    `AsyncClient`.
    """

    def __init__(self, flow: Callable[P, Flow[T]]) -> None:
        self.flow = flow

    @overload
    def __get__(self, instance: None, owner: type) -> Callable[P, Flow[T]]: ...
    @overload
    def __get__(self, instance: Resource[Client], owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(
        self, instance: Resource[AsyncClient], owner: type
    ) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, instance: Resource[Any] | None, owner: type) -> Any:
        return self.flow if instance is None else _bind(instance._client.run, self.flow)


class Listing(Generic[P, T]):
    """A stream as a method: it returns an iterator on a `Client`, an asynchronous one on an
    `AsyncClient`.
    """

    def __init__(self, stream: Callable[P, Stream[T]]) -> None:
        self.stream = stream

    @overload
    def __get__(self, instance: None, owner: type) -> Callable[P, Stream[T]]: ...
    @overload
    def __get__(self, instance: Resource[Client], owner: type) -> Callable[P, Iterator[T]]: ...
    @overload
    def __get__(
        self, instance: Resource[AsyncClient], owner: type
    ) -> Callable[P, AsyncIterator[T]]: ...
    def __get__(self, instance: Resource[Any] | None, owner: type) -> Any:
        return self.stream if instance is None else _bind(instance._client.iterate, self.stream)


def _bind(perform: Callable[[Any], Any], flow: Callable[P, Any]) -> Callable[P, Any]:
    @functools.wraps(flow)
    def method(*args: P.args, **kwargs: P.kwargs) -> Any:
        return perform(flow(*args, **kwargs))

    return method


class Service(Resource[C]):
    """The operations on the service as a whole."""

    health = Operation(service.health)
    ready = Operation(service.ready)
    version = Operation(service.version)
    methods = Operation(service.methods)
    presets = Operation(service.presets)


class Models(Resource[C]):
    """Uploaded networks."""

    upload = Operation(uploads.upload_model)
    list = Listing(uploads.list_models)
    get = Operation(uploads.get_model)
    layers = Operation(uploads.list_layers)
    delete = Operation(uploads.delete_model)


class Datasets(Resource[C]):
    """Datasets, uploaded or fetched by the service."""

    upload = Operation(uploads.upload_dataset)
    fetch = Operation(uploads.fetch_dataset)
    list = Listing(uploads.list_datasets)
    get = Operation(uploads.get_dataset)
    delete = Operation(uploads.delete_dataset)


class Jobs(Resource[C]):
    """Pruning jobs, their events, results and files."""

    submit = Operation(jobs.submit)
    evaluate = Operation(jobs.evaluate)
    validate = Operation(jobs.validate)
    get = Operation(jobs.get)
    list = Listing(jobs.listing)
    members = Listing(jobs.members)
    delete = Operation(jobs.delete)
    cancel = Operation(jobs.cancel)
    pause = Operation(jobs.pause)
    resume = Operation(jobs.resume)
    retry = Operation(jobs.retry)
    wait = Operation(jobs.wait)
    events = Listing(events.follow)
    results = Operation(jobs.results)
    report = Operation(jobs.report)
    predict = Operation(jobs.predict)
    compare = Operation(jobs.compare)
    download = Operation(checkpoints.download)
    checkpoints = Operation(jobs.checkpoints)
