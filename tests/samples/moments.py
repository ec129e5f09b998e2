"""Moments of small networks, computed by a few lines of their own."""

import torch
from torch import nn
from torch.nn import functional

from rmt_compress.decomposition.moments import LayerMoments, Moments


def random_moments(inputs, outputs, rng, *, mean=True, count=1000):
    """Of a layer of so many inputs and outputs: correlated, of rather different scales."""

    def moment(size):
        mix = torch.from_numpy(rng.standard_normal((size, 3 * size))) * torch.logspace(0, 1, size)[:, None].double()
        return mix @ mix.T / (3 * size)

    centre = torch.from_numpy(rng.standard_normal(inputs)) if mean else torch.zeros(inputs).double()
    return LayerMoments(moment(inputs) + torch.outer(centre, centre), centre, moment(outputs), count)


def moments_of(model, x):
    """Of the Linear and Conv2d layers of a classifier: C and the mean, and G of labels drawn from its softmax."""
    seen, felt, hooks = {}, {}, []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            hooks.append(module.register_forward_hook(_watch(f"{name}.weight", seen, felt)))
    logits = model(x)
    labels = torch.multinomial(logits.detach().softmax(1), 1, generator=torch.Generator().manual_seed(5))[:, 0]
    functional.cross_entropy(logits, labels, reduction="sum").backward()
    model.zero_grad()
    for hook in hooks:
        hook.remove()
    layers = {}
    for name, vectors in seen.items():
        gradients = felt[name].grad.movedim(1, -1).flatten(0, -2).double()
        layers[name] = LayerMoments(
            vectors.T @ vectors / len(vectors),
            vectors.mean(0),
            gradients.T @ gradients / len(gradients),
            len(vectors),
        )
    return Moments(layers)


def _watch(name, seen, felt):
    def hook(module, given, output):
        x = given[0].detach().double()
        if isinstance(module, nn.Conv2d):
            x = functional.unfold(x, module.kernel_size, module.dilation, module.padding, module.stride).mT
        seen[name] = x.flatten(0, -2)
        output.retain_grad()
        felt[name] = output

    return hook
