"""Train a small byte-level BPE for models trained from scratch, so that an action is a handful of tokens.

Any text is representable, byte by byte, and `decode(encode(text)) == text`. Merges may span whole recurring phrases
(`<tool_call>{"name": "go", "arguments": {"room": "`), because nothing but three things bounds a merge: an atom, a
digit and the header of a message. An atom is a name that a model has to copy; it is one token wherever it stands as a
word, with the same id after a space, a quote or a bracket, so copying it means repeating one id.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from trpd_agents.dialogue.chatml import CHAT_TEMPLATE, END, PAD, ROLES, START
from trpd_agents.errors import UserError

SPECIAL_TOKENS = (PAD, START, END)
MAX_TOKEN_BYTES = 128


def train_tokenizer(texts: Iterable[str], vocab_size: int, atoms: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """A tokenizer with the ChatML template of `trpd_agents.dialogue.chatml`, trained on `texts`.

    `texts` are best whole rendered conversations: the special tokens in them are recognised and take no part in
    merges. `vocab_size` is an upper bound on the number of tokens, all included (special tokens, 256 bytes, message
    headers, atoms, merges); fewer come out when the texts hold fewer pairs that occur twice. Ids 0, 1, 2 are
    `<|endoftext|>` (padding), `<|im_start|>` and `<|im_end|>` (end of turn). The same arguments give the same
    tokenizer.

    Raises `UserError` for an empty atom, one with outer whitespace or a special token in it, or a vocabulary too
    small for what it must hold.
    """
    atoms = sorted(set(atoms), key=lambda atom: (-len(atom), atom))
    for atom in atoms:
        if not atom or atom != atom.strip() or any(token in atom for token in SPECIAL_TOKENS):
            raise UserError(
                f"atom {atom!r} cannot be one token: atoms are names without outer whitespace and without "
                f"{', '.join(SPECIAL_TOKENS)}"
            )
    splitter = _splitter(atoms)
    whole = [_byte_level(text) for text in (*(f"{role}\n" for role in ROLES), *atoms)]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    reserved = len(set(whole) - set(alphabet))
    least = len(SPECIAL_TOKENS) + len(alphabet) + reserved
    if vocab_size < least:
        raise UserError(
            f"vocab_size {vocab_size} is too small: {len(SPECIAL_TOKENS)} special tokens, {len(alphabet)} bytes and "
            f"{reserved} atoms and headers need {least}; ask for {least} plus room for merges"
        )

    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = splitter
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - reserved,
        min_frequency=2,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=alphabet,
        max_token_length=MAX_TOKEN_BYTES,
        show_progress=False,
    )
    learned.train_from_iterator(_between_special_tokens(texts, atoms), trainer)
    tokenizer = Tokenizer(_with_whole_words(learned, whole))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=[START],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def _splitter(atoms: Sequence[str]) -> pre_tokenizers.PreTokenizer:
    """Cut text where no merge may cross; what lies between the cuts is merged freely.

    One regular expression, so that a digit inside an atom (`room2`) is not cut out of it. `\\A` matches only right
    after a special token (text is cut there first) or at the very beginning, which is where headers stand.
    """
    cuts = [rf"\A(?:{'|'.join(ROLES)})\n", "[0-9]"]
    if atoms:
        cuts.insert(0, _as_words(atoms))
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("|".join(cuts)), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _as_words(atoms: Sequence[str]) -> str:
    """A pattern for any of `atoms` (longest first) with no word character on either side."""
    return rf"(?<!\w)(?:{'|'.join(re.escape(atom) for atom in atoms)})(?!\w)"


def _byte_level(text: str) -> str:
    """`text` as byte-level BPE spells it: one printable character a byte."""
    spelled = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    return "".join(piece for piece, _ in spelled)


def _between_special_tokens(texts: Iterable[str], atoms: Sequence[str]) -> Iterator[str]:
    """The parts of `texts` that merges are learned from. Atoms are left out too: they need no merges of their own."""
    if isinstance(texts, str):
        raise UserError("texts is one string; pass a list of texts")
    cuts = [re.escape(token) for token in SPECIAL_TOKENS] + ([_as_words(atoms)] if atoms else [])
    pattern = re.compile("|".join(cuts))
    for text in texts:
        yield from filter(None, pattern.split(text))


def _with_whole_words(learned: Tokenizer, whole: Sequence[str]) -> models.BPE:
    """The learned model plus the tokens `whole`, each of which stands for a piece of text that is exactly it.

    `ignore_merges` looks a piece up in the vocabulary before it merges anything, so these tokens need no merges, and
    no merge can produce one as a part of something longer.
    """
    state = json.loads(learned.to_str())["model"]
    vocab: dict[str, int] = state["vocab"]
    for token in whole:
        vocab.setdefault(token, len(vocab))
    merges = [(left, right) for left, right in state["merges"]]
    return models.BPE(vocab=vocab, merges=merges, ignore_merges=True)
