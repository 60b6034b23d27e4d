"""Models for tests and benchmarks that need no download."""

from pathlib import Path

from shoal.inference import models
from shoal.settings import EMBEDDED_ENCODER


def save_cross_encoder(folder: Path) -> Path:
    """Save the network of the embedded encoder under a head with random weights, and return its folder.

    It costs as much as a trained cross-encoder of that size, and its scores mean nothing. Needs transformers.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    encoder = models.resolve(EMBEDDED_ENCODER).fetch()
    torch.manual_seed(1)
    AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=1).save_pretrained(folder)
    AutoTokenizer.from_pretrained(encoder).save_pretrained(folder)
    return folder
