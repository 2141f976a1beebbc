"""Text to token ids when some of the text is a template's and the rest is somebody else's.

The template's own control tokens are control tokens; the same characters inside content (an observation that says
`<|im_end|>`) are plain text. A tokenizer cuts text at its added tokens before anything else, so cutting there
ourselves gives the very ids that tokenising the whole would give, unless the content spells a control token.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from transformers import PreTrainedTokenizerBase

_ANCHOR = "\n"


class Encoder:
    """Encodes template text (`control`) and content (`plain`) with one tokenizer, without adding BOS or EOS."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer = tokenizer
        added = {token.content: (index, token) for index, token in tokenizer.added_tokens_decoder.items()}
        self.added_ids = {content: index for content, (index, _) in added.items()}
        patterns = []
        for content in sorted(added, key=len, reverse=True):
            token = added[content][1]
            before, after = (r"\s*" if token.lstrip else ""), (r"\s*" if token.rstrip else "")
            patterns.append(before + re.escape(content) + after)
        self.added = re.compile("|".join(patterns) or r"(?!)")
        self._guarded = re.compile(r"(?!)")
        self._anchor: tuple[int, ...] = ()
        if patterns:
            self._anchor = self._find_anchor()

    def guard(self, template_text: str) -> None:
        """Keep every added token of `template_text` out of guarded content, also those that are not marked as
        special."""
        tokens = {match.group().strip() for match in self.added.finditer(template_text)}
        spelled = [token for token in tokens if self.added_ids.get(token) in self.plain(token)]
        self._guarded = re.compile("|".join(re.escape(t) for t in sorted(spelled, key=len, reverse=True)) or r"(?!)")

    def control(self, text: str) -> list[int]:
        """Ids of template text; control tokens in it are real."""
        return self._encode(text, split_special=False)

    def plain(self, text: str) -> list[int]:
        """Ids of content; special tokens spelled in it are plain text."""
        return self._encode(text, split_special=True)

    def guarded(self, text: str) -> list[int]:
        """Like `plain`, and the tokens named to `guard` are plain text as well."""
        ids: list[int] = []
        begin = 0
        while match := self._guarded.search(text, begin):
            cut = match.start() + 1
            ids += self.plain(text[begin:cut])
            begin = cut
        return ids + self.plain(text[begin:])

    def first_control_token(self, text: str) -> tuple[int, str] | None:
        """The added token that `text` begins with, white space aside, and what follows it; None if it begins
        otherwise."""
        match = re.compile(rf"\s*(?P<token>{self.added.pattern})").match(text)
        if match is None:
            return None
        return self.added_ids[match.group("token").strip()], text[match.end() :]

    def _encode(self, text: str, split_special: bool) -> list[int]:
        if not text:
            return []
        if not text.isascii():
            text = text.encode("utf-8", "replace").decode()  # lone surrogates, which no tokenizer takes
        ids = self._ids(_ANCHOR + text if self._anchor else text, split_special)
        n = len(self._anchor)
        if tuple(ids[:n]) != self._anchor:  # the text's beginning has merged with the anchor
            return self._ids(text, split_special)
        return ids[n:]

    def _ids(self, text: str, split_special: bool) -> list[int]:
        encoded = self.tokenizer(text, add_special_tokens=False, split_special_tokens=split_special, verbose=False)
        return list(encoded["input_ids"])

    def _find_anchor(self) -> tuple[int, ...]:
        """Ids of a prefix to encode with and drop, for SentencePiece-style tokenizers that put a space before the
        first word.

        Without it each separately encoded piece would gain a space that it does not have within the whole.
        """
        control = next(iter(self.added_ids))
        whole = self.control(f"{control}probe")
        if whole[1:] == self.plain("probe"):
            return ()
        anchor = tuple(self.plain(_ANCHOR))
        return anchor if whole[1:] == self.plain(f"{_ANCHOR}probe")[len(anchor) :] else ()


@dataclass(frozen=True)
class Frame:
    """Template text around one piece of content, tokenised once: `before + encode(near + content + far) + after`."""

    before: tuple[int, ...]
    near: str
    far: str
    after: tuple[int, ...]


class Framer:
    """Fills frames with content; caches by content, since episodes meet the same observations again and again."""

    def __init__(self, encoder: Encoder, cache_size: int = 8192):
        self.encoder = encoder
        self._content = lru_cache(cache_size)(lambda text: tuple(encoder.guarded(text)))

    def frame(self, left: str, right: str) -> Frame:
        """The frame of content between the template texts `left` and `right`."""
        cut = max((match.end() for match in self.encoder.added.finditer(left)), default=0)
        first = self.encoder.added.search(right)
        end = first.start() if first else len(right)
        before, after = self.encoder.control(left[:cut]), self.encoder.control(right[end:])
        return Frame(tuple(before), left[cut:], right[:end], tuple(after))

    def fill(self, frame: Frame, content: str) -> list[int]:
        return [*frame.before, *self._content(frame.near + content + frame.far), *frame.after]
