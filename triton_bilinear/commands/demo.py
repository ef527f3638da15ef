"""The command `demo`: the same model trained with torch.nn.Bilinear and with triton_bilinear.Bilinear.

Handwritten digits (scikit-learn's, 1797 images of 8 x 8) are cut into a left and a right half. A bilinear layer fuses
the two halves, a linear layer classifies. Both models start from the same seed and see the same batches, so their loss
curves may differ only by rounding.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from ..modules import Bilinear
from .machine import default_device, describe, synchronize

FUSED, CLASSES = 32, 10
BATCH, TEST_SAMPLES = 64, 357
# Loss is about 2.3 at the start. In float32 rounding moved it by less than 1e-5 over 20 epochs; a gradient that is
# wrong by one part in a thousand moves it by more than 1e-4.
LOSS_TOLERANCE = 5e-5
ACCURACY_TOLERANCE = 1.5 / TEST_SAMPLES  # one image on the boundary between two classes

Layer = Callable[[int, int, int], torch.nn.Module]


@dataclass(frozen=True)
class Digits:
    """Left and right halves (samples, 32) and labels (samples,), for training and for testing."""

    train: tuple[Tensor, Tensor, Tensor]
    test: tuple[Tensor, Tensor, Tensor]


@dataclass
class History:
    """What one training run showed, epoch by epoch."""

    losses: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    seconds: float = 0.0


class HalvesClassifier(torch.nn.Module):
    """Fuses two halves of an image by a bilinear layer, then classifies: (B, 32), (B, 32) -> (B, 10)."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.fuse = layer(32, 32, FUSED)
        self.classify = torch.nn.Linear(FUSED, CLASSES)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.classify(torch.relu(self.fuse(left, right)))


def load_halves(device: torch.device, seed: int) -> Digits:
    """The digits, shuffled by the seed, with pixels scaled to [0, 1].

    Raises:
        ImportError: where scikit-learn is not installed.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.as_tensor(digits.images, dtype=torch.float32) / 16
    labels = torch.as_tensor(digits.target, dtype=torch.int64)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    columns = (images[order, :, :4].flatten(1), images[order, :, 4:].flatten(1), labels[order])
    left, right, label = (tensor.to(device) for tensor in columns)
    return Digits(
        train=(left[TEST_SAMPLES:], right[TEST_SAMPLES:], label[TEST_SAMPLES:]),
        test=(left[:TEST_SAMPLES], right[:TEST_SAMPLES], label[:TEST_SAMPLES]),
    )


def train(layer: Layer, digits: Digits, epochs: int, seed: int, device: torch.device) -> History:
    """Train a classifier from the seed, with one line printed for each epoch."""
    torch.manual_seed(seed)
    model = HalvesClassifier(layer).to(device)
    batches = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    _warm_up(model, digits)
    history = History()
    for epoch in range(1, epochs + 1):
        synchronize(device)
        start = time.perf_counter()
        loss = _train_epoch(model, optimizer, digits.train, batches)
        synchronize(device)
        history.seconds += time.perf_counter() - start
        history.losses.append(loss)
        history.accuracies.append(_accuracy(model, digits.test))
        print(f"  epoch {epoch:2}/{epochs}  loss {loss:.6f}  test accuracy {history.accuracies[-1]:.2%}", flush=True)
    return history


def _warm_up(model: HalvesClassifier, digits: Digits) -> None:
    """One step of a copy, so that kernels are compiled before the clock starts."""
    left, right, label = (tensor[:BATCH] for tensor in digits.train)
    twin = copy.deepcopy(model)
    F.cross_entropy(twin(left, right), label).backward()
    _accuracy(twin, digits.test)


def _train_epoch(
    model: HalvesClassifier,
    optimizer: torch.optim.Optimizer,
    samples: tuple[Tensor, Tensor, Tensor],
    batches: torch.Generator,
) -> float:
    """One pass over the samples; returns the mean loss."""
    left, right, label = samples
    total = torch.zeros((), device=label.device)
    for batch in torch.randperm(len(label), generator=batches).to(label.device).split(BATCH):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(left[batch], right[batch]), label[batch])
        loss.backward()
        optimizer.step()
        total += loss.detach() * len(batch)
    return total.item() / len(label)


@torch.no_grad()
def _accuracy(model: HalvesClassifier, samples: tuple[Tensor, Tensor, Tensor]) -> float:
    left, right, label = samples
    return (model(left, right).argmax(1) == label).float().mean().item()


def agree(torch_run: History, our_run: History) -> bool:
    """Print the largest differences between the two runs, and whether each is within its tolerance."""
    differences = (
        ("loss", torch_run.losses, our_run.losses, LOSS_TOLERANCE),
        ("test accuracy", torch_run.accuracies, our_run.accuracies, ACCURACY_TOLERANCE),
    )
    agreed = True
    for name, theirs, ours, tolerance in differences:
        largest = max(abs(a - b) for a, b in zip(theirs, ours, strict=True))
        within = largest <= tolerance  # False for nan
        agreed &= within
        verdict = "agree" if within else "DISAGREE"
        print(f"largest difference in {name}: {largest:.2e} (tolerance {tolerance:.1e}): {verdict}")
    return agreed


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Describe the command and its options."""
    parser = subparsers.add_parser("demo", help="train on handwritten digits with torch's layer and with this one")
    parser.add_argument("--epochs", type=int, default=10, help="passes over the training images (default 10)")
    parser.add_argument("--seed", type=int, default=0, help="of parameters and batches (default 0)")
    return parser


def run(args: argparse.Namespace) -> int:
    """Train twice and compare; 0 where the runs agree, 1 where they do not, 2 where nothing can be done."""
    if args.epochs < 1:
        print(f"demo: expected --epochs of 1 or more, got {args.epochs}", file=sys.stderr)
        return 2
    device = default_device()
    try:
        digits = load_halves(device, args.seed)
    except ImportError:
        print("demo: scikit-learn is not installed; install it with: pip install scikit-learn", file=sys.stderr)
        return 2
    print(f"{describe(device)}; {len(digits.train[2])} training and {len(digits.test[2])} test images")
    runs = []
    for name, layer in (("torch.nn.Bilinear", torch.nn.Bilinear), ("triton_bilinear.Bilinear", Bilinear)):
        print(name)
        runs.append(train(layer, digits, args.epochs, args.seed, device))
        print(f"  {runs[-1].seconds:.2f} s of training")
    return 0 if agree(*runs) else 1
