"""What a user of PyTorch would write: the same networks, and an epoch of distillation from cached
logits, with everything in memory and channels last."""

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional

TEMP, ALPHA = 4.0, 0.9


def student(classes: int) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding="same"), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding="same"), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Flatten(),
        *(nn.Linear(2048, 128), nn.ReLU(), nn.Dropout(0.3), nn.Linear(128, classes)),
    )


def whitened(classes: int) -> nn.Module:
    return _groups((64, 78, 78), classes, padding="valid")


def fast(classes: int) -> nn.Module:
    return _groups((64, 256, 256), classes, padding="same")


class Largest(nn.Module):
    """The largest of what the maps make of the same inputs, element by element."""

    def __init__(self, *maps: nn.Module) -> None:
        super().__init__()
        self.maps = nn.ModuleList(maps)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        first, second = (each(inputs) for each in self.maps)
        return torch.maximum(first, second)


def fitnet(classes: int) -> nn.Module:
    layers: list[nn.Module] = []
    channels = 3
    for block, widths in enumerate([(16, 16, 16), (32, 32, 32), (48, 48, 64)], start=1):
        for width in widths:
            pieces = (nn.Conv2d(channels, width, 3, padding="same") for _ in range(2))
            layers.append(Largest(*pieces))
            channels = width
        layers.append(nn.MaxPool2d(2) if block < 3 else nn.AdaptiveMaxPool2d(1))
    dense = Largest(nn.Linear(channels, 500), nn.Linear(channels, 500))
    return nn.Sequential(*layers, nn.Flatten(), dense, nn.Linear(500, classes))


def vgg(classes: int) -> nn.Module:
    layers: list[nn.Module] = []
    channels = 3
    for block, widths in enumerate([(64,) * 2, (128,) * 2, (256,) * 3, (512,) * 4], start=1):
        for width in widths:
            layers += [nn.Conv2d(channels, width, 3, padding="same"), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
        if block >= 3:
            layers.append(nn.Dropout(0.4))
    layers.append(nn.Flatten())
    for before, width in ((2048, 1024), (1024, 256), (256, 64)):
        layers += [nn.Linear(before, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Dropout(0.3), nn.Linear(64, classes))


NETWORKS = {"student": student, "whitened": whitened, "fast": fast, "fitnet": fitnet, "vgg": vgg}


def _groups(widths: Sequence[int], classes: int, padding: str) -> nn.Module:
    whitening = nn.Conv2d(3, 24, 2, padding=padding)
    whitening.requires_grad_(False)
    layers, channels = [whitening, nn.GELU()], 24
    for width in widths:
        layers += [nn.Conv2d(channels, width, 3, padding="same", bias=False), nn.MaxPool2d(2)]
        layers += [_normalisation(width), nn.GELU()]
        layers += [nn.Conv2d(width, width, 3, padding="same", bias=False)]
        layers += [_normalisation(width), nn.GELU()]
        channels = width
    head = [nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(channels, classes, bias=False)]
    return nn.Sequential(*layers, *head)


def _normalisation(width: int) -> nn.Module:
    layer = nn.BatchNorm2d(width)
    layer.weight.requires_grad_(False)
    return layer


def trained_parameters(name: str, classes: int = 10) -> int:
    """How many numbers a training of `name`, a key of `NETWORKS`, changes."""
    weights = NETWORKS[name](classes).parameters()
    return sum(weight.numel() for weight in weights if weight.requires_grad)


def distillation(
    name: str,
    images: np.ndarray,
    labels: np.ndarray,
    logits: np.ndarray,
    count: int,
    batch_size: int,
    *,
    bfloat16: bool = False,
) -> Callable[[], float]:
    """A function that trains for one epoch more, and returns the seconds that this took.

    Args:
        name: a key of `NETWORKS`.
        images: uint8, (n, height, width, 3).
        logits: the teacher's, (n, classes) float32.
        count: how many images are trained on; the accuracy is computed on the others.
    """
    network = NETWORKS[name](logits.shape[-1]).to(memory_format=torch.channels_last)
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = (
        torch.optim.Adam(trained, 0.001)
        if name in ("student", "fitnet")
        else torch.optim.SGD(trained, 0.01, momentum=0.85, nesterov=True)
    )
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)  # a view: channels stay last in memory
    classes, teacher = torch.from_numpy(labels).long(), torch.from_numpy(logits)

    def logits_of(batch: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            shown = pixels[batch].to(torch.float32, memory_format=torch.channels_last) / 255
            answers: torch.Tensor = network(shown)
        return answers.float()

    def train() -> None:
        network.train()
        for batch in torch.randperm(count).split(batch_size):
            answers = logits_of(batch)
            soft = functional.kl_div(
                functional.log_softmax(answers / TEMP, 1),
                functional.log_softmax(teacher[batch] / TEMP, 1),
                reduction="batchmean",
                log_target=True,
            )
            hard = functional.cross_entropy(answers, classes[batch])
            loss = (1 - ALPHA) * hard + ALPHA * TEMP**2 * soft
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def validate() -> float:
        network.eval()
        validation = torch.arange(count, len(images)).split(batch_size)
        with torch.inference_mode():
            correct = [logits_of(batch).argmax(1) == classes[batch] for batch in validation]
        return float(torch.cat(correct).float().mean())

    def seconds() -> float:
        started = time.perf_counter()
        train()
        validate()
        return time.perf_counter() - started

    return seconds
