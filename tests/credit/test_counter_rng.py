import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from trpd_agents.counter_rng import uniform

QUICK = settings(deadline=None, max_examples=30, derandomize=True)

MASK = 2**64 - 1


def reference(*keys: int) -> float:
    """SplitMix64 written from its definition, in Python's unbounded integers."""
    state = 0
    for key in keys:
        z = (state + (key + 1) * 0x9E3779B97F4A7C15) & MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        state = z ^ (z >> 31)
    return (state >> 11) * 2.0**-53


any_key = st.integers(-(2**63), 2**63 - 1)


def test_one_key_counts_through_the_published_splitmix64_stream_of_seed_0():
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert uniform(torch.arange(3)).tolist() == [(x >> 11) * 2.0**-53 for x in published]


@QUICK
@given(st.lists(any_key, min_size=1, max_size=4))
def test_ints_and_tensors_agree_with_the_reference(keys):
    assert uniform(*keys).item() == reference(*keys)
    assert uniform(*(torch.tensor([k]) for k in keys)).tolist() == [reference(*keys)]
    assert uniform(keys[0], *(torch.tensor([k]) for k in keys[1:])).flatten().tolist() == [reference(*keys)]


def test_keys_beyond_64_bits_wrap():
    assert uniform(2**64 + 5) == uniform(5) and uniform(2**64 - 1) == uniform(-1)


def test_small_integer_types_and_numpy_ints_name_the_same_number():
    ids = torch.tensor([-3, 0, 100], dtype=torch.int8)
    assert torch.equal(uniform(1, ids), uniform(1, ids.long()))
    assert uniform(torch.arange(3).numpy()[2]) == uniform(2)


@QUICK
@given(st.lists(st.tuples(any_key, any_key), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_the_batch_around_a_key_changes_nothing(pairs, shuffler):
    def draw(rows):
        a, b = torch.tensor(rows).unbind(1)
        return dict(zip(rows, uniform(9, a, b).tolist(), strict=True))

    shuffled = list(pairs)
    shuffler.shuffle(shuffled)
    together = draw(pairs)
    assert together == draw(shuffled)
    assert all(draw([pair])[pair] == value for pair, value in together.items())


def test_keys_broadcast():
    ids, positions = torch.tensor([4, -9]), torch.arange(5)
    grid = uniform(0, ids[:, None], positions)
    assert grid.shape == (2, 5) and grid.dtype == torch.float64
    assert grid[1, 3] == uniform(0, -9, 3)


@pytest.mark.parametrize("slot", range(4))
def test_numbers_are_uniform_along_every_key_and_independent_of_the_neighbours(slot):
    keys: list = [3, 1, 4, 1]
    keys[slot] = torch.arange(-20_000, 20_000)
    u = uniform(*keys).numpy()
    assert u.min() >= 0 and u.max() < 1
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    pairs = torch.histogramdd(torch.stack([torch.from_numpy(u[:-1]), torch.from_numpy(u[1:])], 1), [10, 10]).hist
    assert stats.chisquare(pairs.flatten().numpy()).pvalue > 1e-3
    # the same positions under another name are unrelated
    keys[(slot + 1) % 4] += 1
    assert abs(stats.pearsonr(u, uniform(*keys).numpy()).statistic) < 4 / 40_000**0.5


def test_order_and_number_of_keys_matter():
    assert len({uniform(*keys).item() for keys in [(1, 2), (2, 1), (1, 2, 0), (0, 1, 2), (1,)]}) == 5


def test_keys_that_are_no_integers_are_refused():
    with pytest.raises(TypeError, match="float32"):
        uniform(torch.rand(3))
    with pytest.raises(TypeError):
        uniform(0.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="at least one key"):
        uniform()
