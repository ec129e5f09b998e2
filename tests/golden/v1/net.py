from torch import nn


def network():
    return nn.Sequential(nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 12))


def wide():
    return nn.Sequential(nn.Linear(24, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 12))
