"""Distances of features from those of other images."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from mtnet.inference.training_distance import FeatureModel, FeatureTap


def drawn(count, width=40, seed=0):
    """Features that vary along three directions, and a little along all others."""
    rng = np.random.default_rng(seed)
    directions = np.random.default_rng(9).normal(size=(3, width))
    return 5 + rng.normal(size=(count, 3)) @ directions + 0.1 * rng.normal(size=(count, width))


def test_an_image_like_the_others_is_about_one_away():
    model = FeatureModel.of(drawn(400))
    assert model.score(drawn(400, seed=1)).mean() == pytest.approx(1.0, rel=0.1)


def test_with_all_components_kept_it_is_the_mahalanobis_distance():
    features = np.random.default_rng(0).normal(size=(200, 5)) @ np.random.default_rng(1).normal(size=(5, 5))
    model = FeatureModel.of(features)
    covariance = np.cov((features / model.scale).T)
    away = (features - features.mean(axis=0)) / model.scale
    expected = np.sqrt(np.einsum("ni,ij,nj->n", away, np.linalg.inv(covariance), away) / 5)
    np.testing.assert_allclose(model.score(features), expected, rtol=0.02)


def test_what_leaves_the_directions_in_which_others_vary_is_far_however_little_it_moves():
    model = FeatureModel.of(drawn(100))
    along = drawn(1, seed=5)
    off = along + np.random.default_rng(3).normal(size=along.shape)
    assert model.score(off)[0] > 3 * model.score(along)[0]


def test_it_survives_json_and_refuses_what_is_damaged():
    model = FeatureModel.of(drawn(50))
    document = json.loads(json.dumps(model.to_dict()))
    again = FeatureModel.from_dict(document)
    np.testing.assert_allclose(again.score(drawn(9, seed=2)), model.score(drawn(9, seed=2)), rtol=1e-3)
    with pytest.raises(ValueError, match="Features have shape"):
        model.score(np.zeros((1, 3)))
    with pytest.raises(ValueError, match="not finite"):
        FeatureModel.from_dict({**document, "rest_variance": 0.0})
    with pytest.raises(ValueError, match="too few"):
        FeatureModel.of(drawn(7))


class TwoLevels(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = Levels()

    def forward(self, image):
        return self.encoder(image)[1]


class Levels(nn.Module):
    def forward(self, image):
        return [image, nn.functional.avg_pool2d(image * 2, 4)]


def test_the_tap_notes_the_mean_of_every_channel_of_every_level_and_then_lets_go():
    net = TwoLevels()
    image = torch.arange(2 * 3 * 8 * 8, dtype=torch.float32).reshape(2, 3, 8, 8)
    with FeatureTap(net) as tap:
        net(image)
        net(image[:1])
    net(image)
    mean = image.mean((2, 3)).numpy()
    np.testing.assert_allclose(tap.rows, np.concatenate([np.hstack([mean, 2 * mean]), np.hstack([mean, 2 * mean])[:1]]))


def test_a_network_without_an_encoder_has_no_features():
    with FeatureTap(nn.Linear(2, 2)) as tap:
        pass
    assert tap.rows is None
