"""What several steps refuse before a run is opened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from kdflow.catalogue.losses import LOSSES
from kdflow.config.objective import ObjectiveConfig
from kdflow.config.training import TrainingConfig
from kdflow.errors import ParameterError
from kdflow.needs import Found, Planned

if TYPE_CHECKING:
    from kdflow.dataset import Dataset


def check_network(
    config: TrainingConfig, dataset: Dataset, inputs: Mapping[str, Found | Planned]
) -> None:
    """Refuse images that the network or the views cannot take, a dropout that the network does not
    have, and a loss that teaches nothing about so few classes."""
    from kdflow import network, views

    if isinstance(config, ObjectiveConfig):
        least = LOSSES[config.loss].smallest_classes(config.weights)
        if dataset.classes < least:
            raise ParameterError(
                f"loss: expected {least} classes or more with {config.loss}, which does not depend"
                f" on the logits of fewer, got {dataset.classes}; use loss=kd"
            )
    views.check_fit(config.view_set, dataset.image_shape)
    network.check_fit(
        config.network,
        dataset.image_shape,
        dataset.classes,
        config.dropout,
        keeps_weights=config.keeps_weights,
    )
