"""However conversations come, go and change places, a row holds its own conversation from the first column on."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trpd_agents.conversation_cache import ConversationCache

HEADS, SIZE, LAYERS = 2, 3, 2


class Book:
    """A cache, and what should be in it: token n of a conversation is stored as a number that names both."""

    def __init__(self) -> None:
        self.cache = ConversationCache(LAYERS, torch.device("cpu"))
        self.content: dict[int, list[float]] = {}

    def feed(self, conversations: list[int], counts: list[int]) -> None:
        names = self.cache.rows(conversations)
        rows, columns, values = [], [], []
        for c, row, count in zip(conversations, names, counts, strict=True):
            for _ in range(count):
                rows.append(row)
                columns.append(len(self.content[c]))
                self.content[c].append(1000.0 * c + len(self.content[c]) + 1)
                values.append(self.content[c][-1])
        if not rows:
            return
        self.cache.expect(torch.tensor(rows), torch.tensor(columns), max(columns) + 1)
        states = torch.tensor(values).view(1, 1, -1, 1).expand(1, HEADS, len(values), SIZE)
        for layer in range(LAYERS):
            self.cache.cache.update(states + layer, -states, layer)
        for row, count in zip(names, counts, strict=True):
            self.cache.lengths[row] += count

    def check(self) -> None:
        assert sorted(self.cache.conversations) == sorted(self.content)
        for c, values in self.content.items():
            (row,) = self.cache.rows([c])
            assert self.cache.conversations[row] == c and c in self.cache
            assert self.cache.lengths[row] == len(values)
            for n, layer in enumerate(self.cache.cache.layers):
                if values:
                    assert layer.key_buffer[row, :, : len(values)].unique(dim=0).shape[0] == 1
                    assert layer.key_buffer[row, 0, : len(values), 0].tolist() == [v + n for v in values]
                    assert layer.value_buffer[row, 1, : len(values), 2].tolist() == [-v for v in values]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_sequence_of_changes(data):
    book, fresh = Book(), 0
    for _ in range(data.draw(st.integers(1, 12))):
        names = sorted(book.content)
        change = data.draw(st.sampled_from(["join", "feed", "leave", "swap", "share"]))
        if change == "join":
            new = list(range(fresh, fresh + data.draw(st.integers(1, 4))))
            fresh += len(new)
            book.cache.join(new)
            book.content.update({c: [] for c in new})
        elif change == "feed" and names:
            book.feed(names, [data.draw(st.sampled_from([0, 1, 3, 70])) for _ in names])
        elif change == "leave" and names:
            gone = data.draw(st.lists(st.sampled_from(names), unique=True))
            book.cache.leave([*gone, 999])
            for c in gone:
                del book.content[c]
        elif change == "swap" and len(names) > 1:
            chosen = data.draw(st.permutations(range(len(names))))
            half = data.draw(st.integers(0, len(names) // 2))
            book.cache.swap(chosen[:half], chosen[half : 2 * half])
        elif change == "share" and any(book.content.values()):
            source = data.draw(st.sampled_from([c for c in names if book.content[c]]))
            empty = [c for c in names if not book.content[c]]
            length = data.draw(st.integers(1, len(book.content[source])))
            book.cache.share(book.cache.rows([source])[0], book.cache.rows(empty), length)
            for c in empty:
                book.content[c] = book.content[source][:length]
        book.check()


def test_storage_is_given_back_when_the_last_one_leaves():
    book = Book()
    book.cache.join([4, 5])
    book.content = {4: [], 5: []}
    book.feed([4, 5], [30, 2])
    book.cache.leave([4, 5])
    assert len(book.cache) == 0
    assert all(not hasattr(layer, "key_buffer") for layer in book.cache.cache.layers)


@pytest.mark.parametrize("leaving", [[0], [5], [0, 1, 2], [1, 3, 5], [0, 1, 2, 3, 4]])
def test_rows_in_use_are_always_the_first_ones(leaving):
    cache = ConversationCache(LAYERS, torch.device("cpu"))
    cache.join(list(range(6)))
    cache.leave(leaving)
    staying = set(range(6)) - set(leaving)
    assert set(cache.rows(staying)) == set(range(len(staying)))
