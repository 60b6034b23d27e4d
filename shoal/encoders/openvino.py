"""Any sentence-transformers bi-encoder on OpenVINO, on a CPU."""

from shoal.encoders._transformer import TransformerEncoder, load_transformer
from shoal.settings import EncoderSettings


def load(model: str, settings: EncoderSettings) -> TransformerEncoder:
    """Load a model by preset, local path or hub name; raises what `load_transformer` raises."""
    return load_transformer(model, settings)
