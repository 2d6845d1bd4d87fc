"""Small causal language models with random weights, and a tokenizer learnt from a few lines."""

from __future__ import annotations

from typing import Any

import torch

TEXT = (
    "The old ferry crossed the narrow strait twice a day, and nobody on it ever looked back. "
    "A keeper counted the passengers by hand; her ledger held no other entry than the date. "
    "Winter came early that year."
)
VOCABULARY = 400


def tokenizer() -> Any:
    """Byte-level BPE, as GPT-2's: any text round-trips."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([TEXT, "yes no yes no maybe Question: Answer: Was it cold?"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>")


def llama(dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """Two layers, four heads that share two keys."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return _made(LlamaForCausalLM, LlamaConfig, dtype, **changes)


def mistral(dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    from transformers import MistralConfig, MistralForCausalLM

    return _made(MistralForCausalLM, MistralConfig, dtype, **changes)


def qwen(dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """As Llama with biases of the queries, keys and values."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return _made(Qwen2ForCausalLM, Qwen2Config, dtype, **changes)


def gpt2(dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """Absolute positions."""
    from transformers import GPT2Config, GPT2LMHeadModel

    size = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
    return _made(GPT2LMHeadModel, GPT2Config, dtype, size, **changes)


def classifier(dtype: torch.dtype = torch.float32) -> Any:
    """Llama with two classes, at the last token."""
    from transformers import LlamaConfig, LlamaForSequenceClassification

    names = {"id2label": {0: "bad", 1: "good"}, "label2id": {"bad": 0, "good": 1}}
    return _made(LlamaForSequenceClassification, LlamaConfig, dtype, **names)


def mamba() -> Any:
    """No attention at all."""
    from transformers import MambaConfig, MambaForCausalLM

    size = {"hidden_size": 32, "state_size": 4, "num_hidden_layers": 2}
    return _made(MambaForCausalLM, MambaConfig, torch.float32, size)


SIZE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}


def _made(
    model: Any, config: Any, dtype: torch.dtype, size: dict[str, int] = SIZE, **changes: Any
) -> Any:
    """Weights larger than at the usual start, so that what a model says depends on its input."""
    torch.manual_seed(0)
    special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None, "vocab_size": VOCABULARY}
    settings = {"initializer_range": 0.1, **size, **special, **changes}
    made = model(config(**settings))
    return made.to(dtype).eval()
