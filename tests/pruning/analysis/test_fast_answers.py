"""The fast classifier gives the answers of the plain forward pass."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pruning.analysis import fast_answers
from pruning.analysis.fast_answers import FastClassifier, FastClassifiers
from pruning.library import load_model
from pruning.measurement.objective import NO_ANSWER, choose_answers


def make_network(seed: int = 0) -> nn.Module:
    """A ResNet-20 whose BatchNorm has statistics and weights of its own."""
    torch.manual_seed(seed)
    network = load_model("cifar_resnet", depth=20)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


def answer(network: nn.Module, images: Tensor) -> Tensor:
    """The answers of the plain network."""
    with torch.no_grad():
        return choose_answers(network(images))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("seed", range(3))
def test_answers_are_those_of_the_plain_network(dtype: torch.dtype, seed: int) -> None:
    network = make_network(seed)
    images = torch.randn(200, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    images *= torch.linspace(0.1, 3.0, 200)[:, None, None, None]
    classifier = FastClassifier(network, dtype)
    counted: list[int] = []
    answers = classifier.choose_answers(images, 128, counted.append)
    assert torch.equal(answers, answer(network, images))
    assert sum(counted) == 200


def test_images_within_the_tolerance_are_given_to_the_plain_network() -> None:
    network = make_network()
    images = torch.randn(128, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    classifier = FastClassifier(network, torch.float32)
    classifier.choose_answers(images)
    fast = classifier._fast
    assert fast is not None
    assert 0 < fast.tolerance < 1e-2
    with torch.no_grad():
        logits = network(images)
    gaps = logits.topk(2).values.diff(dim=1).neg().flatten()
    # a wider tolerance puts exactly the images with smaller gaps in doubt
    limit = float(gaps.median())
    object.__setattr__(fast, "tolerance", limit)
    classifier.doubtful = 0
    assert torch.equal(classifier.choose_answers(images), logits.argmax(1))
    assert abs(classifier.doubtful - int((gaps <= limit).sum())) <= 1


def test_outputs_that_are_not_finite_have_no_answer() -> None:
    class Spoilt(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = make_network()

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.network(images)
            return torch.where(images.amax((1, 2, 3))[:, None] > 50, torch.nan, logits)

    images = torch.randn(80, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    images[70] = 100.0
    answers = FastClassifier(Spoilt()).choose_answers(images)
    assert answers[70] == NO_ANSWER
    assert (answers == NO_ANSWER).sum() == 1


def test_a_network_that_cannot_be_traced_answers_plainly() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.norm = nn.Conv2d(3, 4, 32), nn.BatchNorm2d(4)

        def forward(self, images: Tensor) -> Tensor:
            features = self.norm(self.layer(images)).flatten(1)
            return features if features.sum() > 0 else -features

    network = Branching().eval()
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    classifier = FastClassifier(network)
    assert torch.equal(classifier.choose_answers(images), answer(network, images))
    assert classifier._fast is None


def test_classifiers_are_loaded_once_while_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []

    def load() -> nn.Module:
        loaded.append("loaded")
        return nn.Linear(4, 2)

    classifiers = FastClassifiers()
    assert classifiers.load("a", load) is classifiers.load("a", load)
    assert len(loaded) == 1
    monkeypatch.setattr(fast_answers, "MOST_BYTES", 0)
    assert classifiers.load("b", load) is not classifiers.load("b", load)
    assert len(loaded) == 3
