"""The exponential mean of the weights."""

import numpy as np
import torch
from torch import nn

from chemscale.bench.training.average import Average


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    return model


def test_early_steps_are_averaged_evenly_and_later_ones_fade():
    model = nn.Linear(1, 1, bias=False).double()
    average, mean = Average(model, 0.6), float(model.weight.detach())
    for step, value in enumerate(np.random.default_rng(0).normal(size=20), start=1):
        with torch.no_grad():
            model.weight.fill_(value)
        average.add(step)
        kept = min(0.6, (1 + step) / (10 + step))
        mean = kept * mean + (1 - kept) * value
        assert np.isclose(float(average.means["weight"]), mean, rtol=1e-12)


def test_the_mean_is_the_weights_themselves_when_the_rate_has_fallen_to_nothing():
    model = tied()
    average = Average(model, 0.9)
    with torch.no_grad():
        model[0].weight.add_(1.0)
    average.add(1000, rate_left=0.0)
    assert torch.equal(average.means["0.weight"], model[0].weight.detach())


def test_the_mean_takes_the_place_of_the_weights_and_leaves_it_as_it_was():
    model = tied()
    average = Average(model, 0.9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    average.add(1)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    means = {name: value.clone() for name, value in average.means.items()}
    assert set(means) == set(weights)  # the tied one under both names
    with average.in_place():
        assert all(torch.equal(value, means[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(average.means[name], value) for name, value in means.items())


def test_without_a_decay_there_is_no_mean():
    average = Average(tied(), 0.0)
    average.add(1)
    with average.in_place():
        assert not average.means
