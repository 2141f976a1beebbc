"""Messages and tokens: chat templates fed by deltas, small tokenizers, and the check that two models share their
tokens."""

from trpd_agents.dialogue.chat import Dialogue
from trpd_agents.dialogue.chatml import CHAT_TEMPLATE
from trpd_agents.dialogue.tokenizer import train_tokenizer
from trpd_agents.dialogue.vocabulary import check_same_ends, check_same_ids, check_same_tokens, end_ids

__all__ = [
    "CHAT_TEMPLATE",
    "Dialogue",
    "check_same_ends",
    "check_same_ids",
    "check_same_tokens",
    "end_ids",
    "train_tokenizer",
]
