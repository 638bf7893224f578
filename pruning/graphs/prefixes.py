"""A network evaluated with other weights in some layers, again only from the first operation that
reads them: what lies before is computed once for all changes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map

from pruning.errors import StructureError
from pruning.graphs.in_place import refuse_overwritten
from pruning.graphs.tracing import trace
from pruning.networks.modes import batch_statistics_mode, evaluate_mode


class Change(Protocol):
    """A change of some parameters of a network."""

    @property
    def names(self) -> Collection[str]:
        """The names of the parameters that change."""

    def build_values(self, model: nn.Module) -> Mapping[str, Tensor]:
        """Build the new values by name, from the network as it is."""


class Prefixes:
    """A network whose changes are evaluated from the first operation on that reads what changes.

    The operations run in their order on a batch of inputs. Before the first one that a change
    touches, its values are put into the network, the rest is run with them and they are taken out
    again: only the activations that later operations read are held, for one batch. A network that
    cannot be traced, or that overwrites what it uses again, is run as a whole for every change
    (`traced` is False then). The outputs are those of the network itself, to the last digit.

    >>> net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False))
    >>> class Doubled:
    ...     names = ["2.weight"]
    ...
    ...     def build_values(self, model):
    ...         return {"2.weight": 2 * model[2].weight}
    >>> prefixes = Prefixes(net)
    >>> image = torch.ones(1, 1)
    >>> outputs = dict(prefixes.evaluate(image, [Doubled()]))
    >>> torch.equal(outputs[0], 2 * net(image)), prefixes.find_start(["2.weight"])
    (True, 3)
    """

    def __init__(self, model: nn.Module, *, batch_statistics: bool = False) -> None:
        """With `batch_statistics` every BatchNorm normalises by the batch at hand."""
        self.model = model
        self._mode = batch_statistics_mode if batch_statistics else evaluate_mode
        self._interpreter: fx.Interpreter | None = None
        self._nodes: list[fx.Node] = []
        try:
            with evaluate_mode(model):
                graph = trace(model)
            refuse_overwritten(graph)
        except StructureError:
            return
        self._interpreter = fx.Interpreter(graph)
        self._nodes = list(graph.graph.nodes)
        last_user = {operand: node for node in self._nodes for operand in node.all_input_nodes}
        self._unused_after: dict[fx.Node, list[fx.Node]] = {node: [] for node in self._nodes}
        for operand, node in last_user.items():
            self._unused_after[node].append(operand)
        self._read = [self._list_parameters(graph, node) for node in self._nodes]

    @property
    def traced(self) -> bool:
        """Whether what lies before a change is computed once for all changes."""
        return self._interpreter is not None

    def find_start(self, names: Collection[str]) -> int:
        """Find the number of the first operation that reads one of these parameters; 0, the
        inputs, where none is seen to.
        """
        changed = {id(self.model.get_parameter(name)) for name in names}
        for index, read in enumerate(self._read if self.traced else ()):
            if read & changed:
                return index
        return 0

    def evaluate(self, inputs: Tensor, changes: Sequence[Change]) -> Iterator[tuple[int, Tensor]]:
        """Yield the outputs for a batch in eval mode: of the network as it is, with the number -1,
        and under each change with its number, those that begin early first.
        """
        with self._mode(self.model), torch.no_grad():
            if self._interpreter is None:
                yield -1, self.model(inputs)
                for number, change in enumerate(changes):
                    with replace_values(self.model, change.build_values(self.model)):
                        outputs = self.model(inputs)
                    yield number, outputs
                return
            starting: dict[int, list[int]] = {}
            for number, change in enumerate(changes):
                starting.setdefault(self.find_start(change.names), []).append(number)
            values: dict[fx.Node, Any] = {}
            for index, node in enumerate(self._nodes):
                for number in starting.get(index, ()):
                    new = changes[number].build_values(self.model)
                    # An operation in place must not reach what the next change begins from.
                    copied = tree_map(_copy_tensor, values)
                    with replace_values(self.model, new):
                        for later in self._nodes[index:]:
                            self._run(later, copied, inputs)
                    yield number, copied[self._nodes[-1]]
                self._run(node, values, inputs)
            yield -1, values[self._nodes[-1]]

    def _run(self, node: fx.Node, values: dict[fx.Node, Any], inputs: Tensor) -> None:
        """Run one operation on the values of those before it, and let go what none reads after."""
        assert self._interpreter is not None
        self._interpreter.env = values
        self._interpreter.args_iter = iter((inputs,))
        values[node] = self._interpreter.run_node(node)
        for operand in self._unused_after[node]:
            del values[operand]

    @staticmethod
    def _list_parameters(graph: fx.GraphModule, node: fx.Node) -> set[int]:
        """The parameters that an operation reads itself, by identity."""
        if node.op == "call_module":
            return {id(value) for value in graph.get_submodule(str(node.target)).parameters()}
        if node.op != "get_attr":
            return set()
        value: Any = graph
        for part in str(node.target).split("."):
            value = getattr(value, part)
        return {id(value)}


@contextmanager
def replace_values(model: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Give parameters other values until the block ends; then they hold what they held, bit by bit.

    >>> layer = nn.Linear(1, 1, bias=False)
    >>> before = layer.weight.clone()
    >>> with replace_values(layer, {"weight": torch.full((1, 1), 7.0)}):
    ...     layer.weight.item()
    7.0
    >>> torch.equal(layer.weight, before)
    True
    """
    parameters = {name: model.get_parameter(name) for name in values}
    saved = {name: parameter.data for name, parameter in parameters.items()}
    try:
        for name, parameter in parameters.items():
            parameter.data = values[name].detach()
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.data = saved[name]


def _copy_tensor(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value
