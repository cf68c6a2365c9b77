"""What the PyTorch loop trains: the CNNs, ResNet-18 with GroupNorm, CycleGAN; each as parameters and a step."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import common
import torch
from torch import nn
from torch.nn import functional as F


class Learner(NamedTuple):
    """A model in training."""

    parameters: list[nn.Parameter]  # all that is averaged
    optimizers: Callable[[], Any]  # fresh ones, for a client's round
    step: Callable[..., None]  # (optimizers, *batch)
    named: Callable[..., tuple[dict, ...]]  # lists of parameters' values -> the same by name


def learner(workload, device: str, bf16: bool) -> Learner:
    """The workload's model on the device; steps compute in bfloat16 where autocast allows, if asked for."""
    torch.manual_seed(0)
    cast = partial(torch.autocast, device, torch.bfloat16, enabled=bf16)
    if workload.model == "cyclegan":
        return cyclegan(workload, device, cast)
    net = common.torch_cnn(workload) if workload.model in common.CNNS else resnet18(workload)
    net = net.to(device, memory_format=torch.channels_last)
    parameters = list(net.parameters())

    def step(optimizer, images, labels) -> None:
        with cast():
            loss = F.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    named = partial(common.from_torch, workload) if workload.model in common.CNNS else by_number
    return Learner(
        parameters,
        lambda: torch.optim.SGD(parameters, workload.rate),
        step,
        lambda *lists: tuple(named(values) for values in lists),
    )


def by_number(values: list) -> dict:
    return dict(enumerate(values))


class Block(nn.Module):
    """ResNet's basic block."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.GroupNorm(8, outputs), nn.ReLU(inplace=True)),
            *(nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.GroupNorm(8, outputs)),
        )
        narrow = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.GroupNorm(8, outputs))
        self.skip = nn.Identity() if stride == 1 and inputs == outputs else narrow

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.body(x) + self.skip(x))


def resnet18(workload) -> nn.Module:
    """He et al. 2016 with the 7 x 7 stem, GroupNorm of 8 groups throughout."""
    stem = (nn.Conv2d(workload.image[2], 64, 7, 2, 3, bias=False), nn.GroupNorm(8, 64), nn.ReLU(inplace=True))
    widths = ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2))
    blocks = (block for i, o, stride in widths for block in (Block(i, o, stride), Block(o, o, 1)))
    ending = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, workload.classes))
    return nn.Sequential(*stem, nn.MaxPool2d(3, 2, 1), *blocks, *ending)


class Residual(nn.Module):
    """A block of the CycleGAN generator."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*reflected(width, width, 3), nn.ReLU(inplace=True), *reflected(width, width, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


def reflected(inputs: int, outputs: int, window: int) -> tuple[nn.Module, ...]:
    return nn.ReflectionPad2d(window // 2), nn.Conv2d(inputs, outputs, window), nn.InstanceNorm2d(outputs)


def generator(channels: int) -> nn.Module:
    """ResNet-9 of Zhu et al. 2017."""
    relu = nn.ReLU(inplace=True)
    down = (
        *(*reflected(channels, 64, 7), relu),
        *(nn.Conv2d(64, 128, 3, 2, 1), nn.InstanceNorm2d(128), relu),
        *(nn.Conv2d(128, 256, 3, 2, 1), nn.InstanceNorm2d(256), relu),
    )
    up = (
        *(nn.ConvTranspose2d(256, 128, 3, 2, 1, 1), nn.InstanceNorm2d(128), relu),
        *(nn.ConvTranspose2d(128, 64, 3, 2, 1, 1), nn.InstanceNorm2d(64), relu),
        *(nn.ReflectionPad2d(3), nn.Conv2d(64, channels, 7), nn.Tanh()),
    )
    return nn.Sequential(*down, *(Residual(256) for _ in range(9)), *up)


def discriminator(channels: int) -> nn.Module:
    """The 70 x 70 PatchGAN."""
    leaky = nn.LeakyReLU(0.2, inplace=True)
    stages = [nn.Conv2d(channels, 64, 4, 2, 1), leaky]
    for inputs, outputs, stride in ((64, 128, 2), (128, 256, 2), (256, 512, 1)):
        stages += [nn.Conv2d(inputs, outputs, 4, stride, 1), nn.InstanceNorm2d(outputs), leaky]
    return nn.Sequential(*stages, nn.Conv2d(512, 1, 4, 1, 1))


def cyclegan(workload, device: str, cast) -> Learner:
    """Two generators and two discriminators: least squares, cycle 10, identity 5. A pool of 50 fakes hands each back
    as it came while it fills, so a round of fewer steps than that needs none."""
    channels = workload.image[2]
    to_b, to_a, judge_a, judge_b = nets = nn.ModuleList(
        [generator(channels), generator(channels), discriminator(channels), discriminator(channels)]
    ).to(device, memory_format=torch.channels_last)
    makers, judges = ([*a.parameters(), *b.parameters()] for a, b in ((to_b, to_a), (judge_a, judge_b)))

    def step(optimizers, a, b) -> None:
        with cast():
            fake_a, fake_b = to_a(b), to_b(a)
            cycle = F.l1_loss(to_a(fake_b), a) + F.l1_loss(to_b(fake_a), b)
            identity = F.l1_loss(to_a(a), a) + F.l1_loss(to_b(b), b)
            loss = passes(judge_a(fake_a), 1) + passes(judge_b(fake_b), 1) + 10 * cycle + 5 * identity
        move(optimizers[0], loss, makers)
        with cast():
            loss = half(judge_a, a, fake_a.detach()) + half(judge_b, b, fake_b.detach())
        move(optimizers[1], loss, judges)

    def optimizers() -> list[torch.optim.Optimizer]:
        return [torch.optim.Adam(group, workload.rate, (0.5, 0.999)) for group in (makers, judges)]

    return Learner(list(nets.parameters()), optimizers, step, lambda *lists: tuple(by_number(v) for v in lists))


def passes(score: torch.Tensor, as_real: int) -> torch.Tensor:
    return F.mse_loss(score, torch.full_like(score, as_real))


def half(judge: nn.Module, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    return (passes(judge(real), 1) + passes(judge(fake), 0)) / 2


def move(optimizer: torch.optim.Optimizer, loss: torch.Tensor, parameters: list[nn.Parameter]) -> None:
    """One player's step; the other's parameters get no gradient."""
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters)):
        parameter.grad = gradient
    optimizer.step()
