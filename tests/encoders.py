"""Small encoders and tokenizers for the tests: made here, random, nothing is downloaded."""

from __future__ import annotations

import functools

import torch

PASSAGE = """The cät sat on the unbelievably soft mat, purring.  A dog -- not a quiet one -- came;
nobody knew whose.

It barked, and barked again! Then (as dogs do) it slept. 日本 🙂 end"""

SIZES = {
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 300,
    "num_labels": 3,
    "initializer_range": 0.15,  # outputs that depend on the input as those of trained models do
}
DISTIL = {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4}


def _configurations() -> dict:
    import transformers as t

    return {
        "bert": (t.BertModel, t.BertForSequenceClassification, t.BertConfig(**SIZES)),
        "roberta": (
            *(t.RobertaModel, t.RobertaForSequenceClassification),
            t.RobertaConfig(**SIZES, pad_token_id=1),
        ),
        "distilbert": (
            *(t.DistilBertModel, t.DistilBertForSequenceClassification),
            t.DistilBertConfig(**SIZES | DISTIL),
        ),
        "electra": (t.ElectraModel, t.ElectraForSequenceClassification, t.ElectraConfig(**SIZES)),
        "albert": (
            *(t.AlbertModel, t.AlbertForSequenceClassification),
            t.AlbertConfig(**SIZES, embedding_size=16),
        ),
        "mpnet": (t.MPNetModel, t.MPNetForSequenceClassification, t.MPNetConfig(**SIZES)),
    }


@functools.cache
def model(name: str, head: bool = False):
    """A random encoder, or a random sequence classifier of three classes, ready to run."""
    plain, classifier, configuration = _configurations()[name]
    torch.manual_seed(1)
    return (classifier if head else plain)(configuration).eval()


@functools.cache
def tokenizer(kind: str):
    """ "wordpiece" with BERT's special tokens and lower case, or "bytes" with RoBERTa's."""
    import tokenizers as t
    import transformers

    if kind == "wordpiece":
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        made = t.Tokenizer(t.models.WordPiece(unk_token="[UNK]"))
        made.normalizer = t.normalizers.BertNormalizer(lowercase=True)
        made.pre_tokenizer = t.pre_tokenizers.BertPreTokenizer()
        trainer = t.trainers.WordPieceTrainer(vocab_size=150, special_tokens=special)
        made.decoder = t.decoders.WordPiece()
        ends = t.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        names = dict(zip(("pad", "unk", "cls", "sep", "mask"), special, strict=True))
    else:
        special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        made = t.Tokenizer(t.models.BPE())
        made.pre_tokenizer = t.pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = t.trainers.BpeTrainer(
            vocab_size=330,
            special_tokens=special,
            initial_alphabet=t.pre_tokenizers.ByteLevel.alphabet(),
        )
        made.decoder = t.decoders.ByteLevel()
        ends = t.processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=False)
        names = dict(zip(("cls", "pad", "sep", "unk", "mask"), special, strict=True))
    made.train_from_iterator([PASSAGE] * 3, trainer)
    made.post_processor = ends
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        model_max_length=200,
        model_input_names=["input_ids", "attention_mask"]
        + (["token_type_ids"] if kind == "wordpiece" else []),
        **{f"{name}_token": token for name, token in names.items()},
    )


def tokenizer_of(name: str):
    return tokenizer("bytes" if name == "roberta" else "wordpiece")
