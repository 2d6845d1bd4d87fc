"""Models of transformers, from a folder or the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from ..errors import MissingExtra

Kind = Literal["AutoModel", "AutoModelForSequenceClassification", "AutoModelForCausalLM"]


def load_model(
    kind: Kind,
    name: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
) -> tuple[Any, Any]:
    """(tokenizer, model in evaluation mode) of a folder, or of a name on the hub, where
    HF_HUB_OFFLINE is heeded.

    Raises: MissingExtra without transformers; OSError for a model that is not there; ValueError for
            one that is not of this kind.
    """
    transformers = _transformers()
    logging = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model = getattr(transformers, kind).from_pretrained(name, revision=revision)
    finally:
        if shown:
            logging.enable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(name, revision=revision)
    return tokenizer, model.to(device, dtype).eval()


def load_tokenizer(name: str | Path, *, revision: str | None = None) -> Any:
    """The tokenizer alone. Raises: as load_model does."""
    return _transformers().AutoTokenizer.from_pretrained(name, revision=revision)


def is_decoder(name: str | Path, revision: str | None = None) -> bool:
    """Whether transformers knows a model of this kind as a causal language model and not as one
    that fills in masked tokens.

    Raises: as load_model does.
    """
    config = _transformers().AutoConfig.from_pretrained(name, revision=revision)
    from transformers.models.auto import modeling_auto as auto

    causal, masked = auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return config.model_type in causal and config.model_type not in masked


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise MissingExtra(
            f"load_model: {error.name} is not installed; pip install spex-core[text]"
        ) from error
    return transformers
