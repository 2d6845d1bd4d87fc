"""Value functions that ship: what a mask means for one kind of input.

Nothing optional is imported before it is used.
"""

from .calls import ServerError
from .causal_scorers import AnswerLogprob, ClassLogit, ClassMargin, LabelLogprobs, LogitDifference
from .components import Components
from .distributed import Distributed
from .encoders import Encoder, as_encoder, load_encoder, load_minilm
from .heads import sentence_heads, text_heads
from .image import ImageRegions
from .isolated import Isolated
from .language import CausalText, load_causal
from .loading import load_tokenizer
from .ranked import Ranked
from .scorers import Logit, Margin, Similarity
from .served import ServedText
from .server import CostCapReached, Server
from .table import TableColumns
from .text import EncoderText, TextSimilarity
from .tokens import chat_affixes
from .training import FitAndScore, TrainingGroups, even_groups

__all__ = [
    "AnswerLogprob",
    "CausalText",
    "ClassLogit",
    "ClassMargin",
    "Components",
    "CostCapReached",
    "Distributed",
    "Encoder",
    "EncoderText",
    "FitAndScore",
    "ImageRegions",
    "Isolated",
    "LabelLogprobs",
    "Logit",
    "LogitDifference",
    "Margin",
    "Ranked",
    "ServedText",
    "Server",
    "ServerError",
    "Similarity",
    "TableColumns",
    "TextSimilarity",
    "TrainingGroups",
    "as_encoder",
    "chat_affixes",
    "even_groups",
    "load_causal",
    "load_encoder",
    "load_minilm",
    "load_tokenizer",
    "sentence_heads",
    "text_heads",
]
