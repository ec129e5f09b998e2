"""Convolutional networks as their papers draw them, with fewer channels."""

from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional


def vgg16(width=8, classes=10):
    """Simonyan and Zisserman 2014, configuration D, for 32×32 images."""
    layers, channels = [], 3
    for blocks, wide in ((2, 1), (2, 2), (3, 4), (3, 8), (3, 8)):
        for _ in range(blocks):
            layers += [nn.Conv2d(channels, wide * width, 3, padding=1), nn.ReLU()]
            channels = wide * width
        layers.append(nn.MaxPool2d(2))
    hidden = 16 * width
    head = [nn.Linear(channels, hidden), nn.ReLU(), nn.Dropout(), nn.Linear(hidden, hidden), nn.ReLU()]
    parts = {"features": nn.Sequential(*layers), "flatten": nn.Flatten()}
    return nn.Sequential(
        OrderedDict(**parts, classifier=nn.Sequential(*head, nn.Dropout(), nn.Linear(hidden, classes)))
    )


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut (He et al. 2015)."""

    expansion = 1

    def __init__(self, inputs, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = shortcut(inputs, width, stride)

    def forward(self, x):
        out = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(out)) + self.downsample(x))


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 and a shortcut (He et al. 2015)."""

    expansion = 4

    def __init__(self, inputs, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = shortcut(inputs, 4 * width, stride)

    def forward(self, x):
        out = functional.relu(self.bn1(self.conv1(x)))
        out = functional.relu(self.bn2(self.conv2(out)))
        return functional.relu(self.bn3(self.conv3(out)) + self.downsample(x))


def shortcut(inputs, outputs, stride):
    """The identity where it fits, else a 1×1 convolution."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class ResNet(nn.Module):
    """Stem, four stages, pooling and a head, with torchvision's names."""

    def __init__(self, block, counts, width=16, classes=10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        channels = width
        for stage, count in enumerate(counts):
            blocks = []
            for index in range(count):
                blocks.append(block(channels, width * 2**stage, 2 if stage and not index else 1))
                channels = width * 2**stage * block.expansion
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, classes)

    def forward(self, x):
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


def resnet18():
    """ResNet-18 with a quarter of its channels."""
    return ResNet(BasicBlock, (2, 2, 2, 2))


def bottleneck_resnet():
    """The blocks of ResNet-50, one or two per stage."""
    return ResNet(Bottleneck, (1, 2, 1, 1), width=12)


class InvertedResidual(nn.Module):
    """Widen, depthwise 3×3, narrow (Sandler et al. 2018)."""

    def __init__(self, inputs, outputs, stride, expand=4):
        super().__init__()
        wide = inputs * expand
        self.adds = stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            *(nn.Conv2d(inputs, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()),
            *(nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()),
            *(nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs)),
        )

    def forward(self, x):
        return x + self.conv(x) if self.adds else self.conv(x)


def mobilenet(classes=10):
    """MobileNetV2's pattern, six blocks."""
    plan = ((16, 24, 2), (24, 24, 1), (24, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1))
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6()),
        *(InvertedResidual(*block) for block in plan),
        *(nn.Conv2d(64, 128, 1, bias=False), nn.BatchNorm2d(128), nn.ReLU6()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(128, classes)),
    )


class UNet(nn.Module):
    """Ronneberger et al. 2015: three levels, transposed convolutions on the way up; a label for every pixel."""

    def __init__(self, width=16, classes=5):
        super().__init__()
        self.encoder = nn.ModuleList((double(3, width), double(width, 2 * width), double(2 * width, 4 * width)))
        self.up = nn.ModuleList(
            (
                nn.ConvTranspose2d(4 * width, 2 * width, 2, 2),
                # Square and without bias: a file does not tell that it is transposed.
                nn.ConvTranspose2d(2 * width, 2 * width, 3, 2, padding=1, output_padding=1, bias=False),
            )
        )
        self.decoder = nn.ModuleList((double(4 * width, 2 * width), double(3 * width, width)))
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x):
        first = self.encoder[0](x)
        second = self.encoder[1](functional.max_pool2d(first, 2))
        x = self.encoder[2](functional.max_pool2d(second, 2))
        x = self.decoder[0](torch.cat((self.up[0](x), second), 1))
        return self.head(self.decoder[1](torch.cat((self.up[1](x), first), 1)))


def double(inputs, outputs):
    """Two 3×3 convolutions, each with norm and ReLU."""
    layers = []
    for channels in (inputs, outputs):
        layers += [nn.Conv2d(channels, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


def audio_cnn(classes=10):
    """M5 of Dai et al. 2016: strided 1-d convolutions on the raw wave."""
    layers = [nn.Conv1d(1, 32, 80, 16), nn.BatchNorm1d(32), nn.ReLU(), nn.MaxPool1d(4)]
    for inputs, outputs in ((32, 32), (32, 64), (64, 64)):
        layers += [nn.Conv1d(inputs, outputs, 3, padding=1), nn.BatchNorm1d(outputs), nn.ReLU(), nn.MaxPool1d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(64, classes))
