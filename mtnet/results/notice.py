"""What every output says about itself."""

from __future__ import annotations

from mtnet.structures import ModelInfo

NOT_A_DEVICE = "Research use only. Not a medical device."


def training_notice(model: ModelInfo) -> str:
    """One sentence that fits 64 characters where the training data's name is short.

    ``Research use only. Trained on drawn data.``
    """
    trained = model.training_data.strip().rstrip(".")
    if not trained:
        return NOT_A_DEVICE
    if not trained.lower().startswith("trained"):
        trained = f"Trained on {trained}"
    return f"Research use only. {trained[0].upper()}{trained[1:]}."


def full_notice(model: ModelInfo) -> str:
    """The same and that it is no medical device: ``Research use only. Trained on drawn data. Not a medical device.``"""
    short = training_notice(model)
    return short if short == NOT_A_DEVICE else f"{short} Not a medical device."
