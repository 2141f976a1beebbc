"""What the pretended device must find, planted: a harness that refuses nothing proves nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from pretend_device import DEVICE, MixedDevices, is_there, meetings
from pretend_graph import NotCapturable, PretendGraphs

X = torch.arange(6.0).view(2, 3)
AT = torch.tensor([0, 1])

MIXED: dict[str, Callable[[torch.Tensor], object]] = {
    "an operand on the CPU": lambda x: x + X,
    "and the other way round": lambda x: X + x,
    "in place on the CPU": lambda x: X.clone().add_(x),
    "a mask made on the CPU": lambda x: x.masked_fill(X > 2, 0.0),
    "a condition made on the CPU": lambda x: torch.where(X > 2, x, 0.0),
    "from_numpy without to": lambda x: x * torch.from_numpy(np.ones((2, 3), np.float32)),
    "an index for gather": lambda x: x.gather(1, AT[:, None]),
    "an index for index_select": lambda x: x.index_select(0, AT),
    "an index for scatter": lambda x: x.scatter(1, AT[:, None], 0.0),
    "an index into the CPU's": lambda x: X[x[:, 0].long() * 0],
    "parts of a concatenation": lambda x: torch.cat([x, X]),
    "ids for an embedding": lambda x: torch.nn.functional.embedding(AT, x),
    "a product": lambda x: x @ X.T,
    "a scalar where numbers are wanted": lambda x: torch.stack([x[0, 0], X[0, 0]]),
    "boundaries for searchsorted": lambda x: torch.searchsorted(x, X),
    "values for index_put": lambda x: x.clone().index_put_((AT.to(DEVICE),), X),
    "a generator of the CPU's": lambda x: torch.rand(3, device=DEVICE, generator=torch.Generator()),
}


@pytest.mark.parametrize("name", MIXED)
def test_mixed_devices_are_refused(name):
    with pytest.raises(MixedDevices):
        MIXED[name](X.to(DEVICE))


@pytest.mark.parametrize("name", MIXED)
def test_and_not_in_inference_alone(name):
    with torch.inference_mode(), pytest.raises(MixedDevices):
        MIXED[name](X.to(DEVICE))


@pytest.mark.parametrize("read", [torch.Tensor.numpy, np.asarray, lambda x: np.concatenate([np.zeros((1, 3)), x])])
def test_numpy_cannot_look_at_the_device(read):
    with pytest.raises((TypeError, RuntimeError)):
        read(X.to(DEVICE))


ALLOWED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "a number": lambda x: x + 1.5,
    "a scalar tensor": lambda x: x * torch.tensor(2.0),
    "a scalar condition's value": lambda x: torch.where(x > 2, x, torch.tensor(0.0)),
    "an index from the CPU": lambda x: x[AT],
    "a mask from the CPU as an index": lambda x: x[X > 2],
    "an assignment by index": lambda x: x.clone().index_put_((AT,), torch.tensor(7.0)),
    "copying in": lambda x: x.clone().copy_(X * 2),
    "a list": lambda x: x + torch.tensor([1.0, 2.0, 3.0], device=x.device),
    "a range": lambda x: torch.arange(3, device=x.device) * x,
    "attention": lambda x: torch.nn.functional.scaled_dot_product_attention(x[None], x[None], x[None], is_causal=True),
    "sorting": lambda x: x.topk(2, dim=1).values,
}


@pytest.mark.parametrize("name", ALLOWED)
def test_what_cuda_allows_gives_the_cpus_result(name):
    found = ALLOWED[name](X.to(DEVICE))
    assert found.device == DEVICE and is_there(found)
    torch.testing.assert_close(found.cpu(), ALLOWED[name](X))


def test_what_comes_back_is_ordinary():
    x = X.to(DEVICE)
    assert type(x.cpu()) is torch.Tensor and type(x.to("cpu")) is torch.Tensor
    assert x.tolist() == X.tolist() and float(x.sum()) == float(X.sum())


def test_gradients_are_on_the_device_and_right():
    layers = [torch.nn.Linear(3, 4), torch.nn.Linear(3, 4)]
    layers[1].load_state_dict(layers[0].state_dict())
    layers[1].to(DEVICE)
    for layer, x in zip(layers, (X, X.to(DEVICE)), strict=True):
        layer(x).log_softmax(-1)[:, 0].sum().backward()
    assert is_there(layers[1].weight.grad)
    torch.testing.assert_close(layers[1].weight.grad.cpu(), layers[0].weight.grad)


def test_moving_and_casting_keep_shared_weights_shared():
    pair = torch.nn.Sequential(torch.nn.Linear(3, 3, bias=False), torch.nn.Linear(3, 3, bias=False))
    pair[1].weight = pair[0].weight
    pair.to(DEVICE)
    assert pair[1].weight is pair[0].weight and is_there(pair[0].weight)
    pair.to(torch.bfloat16)
    assert pair[1].weight is pair[0].weight and pair(X.to(DEVICE).bfloat16()).cpu().dtype == torch.bfloat16


def test_autocast_changes_dtypes_as_on_cuda():
    x, layer = X.to(DEVICE), torch.nn.Linear(3, 4).to(DEVICE)
    with torch.autocast(DEVICE.type, torch.bfloat16):
        y = layer(x)
        assert y.dtype == (y @ y.T).dtype == (x + 1).bfloat16().dtype == torch.bfloat16
        assert y.log_softmax(-1).dtype == y.pow(2).dtype == y.sum().dtype == torch.float32
    with pytest.raises(RuntimeError):
        layer(y[:, :3])  # half precision that got out of autocast


WAITS: dict[str, Callable[[torch.Tensor], object]] = {
    "item": lambda x: int(x[0, 0]),
    "to the host": lambda x: x.cpu(),
    "from the host": lambda x: X.to(x.device),
    "a list to the device": lambda x: torch.tensor([1, 2], device=x.device),
    "nonzero": lambda x: x.nonzero(),
    "a mask as an index": lambda x: x[x > 2],
    "an index on the CPU": lambda x: x[AT],
    "repeats that are counted": lambda x: x[0].repeat_interleave(x[0].long()),
}


@pytest.mark.parametrize("name", WAITS)
def test_waiting_is_counted_and_cannot_be_captured(name):
    x = X.to(DEVICE)
    with meetings() as count:
        x + x
        assert not count
        WAITS[name](x)
    assert sum(count.values()) == 1

    def program() -> torch.Tensor:
        WAITS[name](x)
        return x + 1

    with pytest.raises(NotCapturable):
        PretendGraphs()(program)


def test_a_graph_reads_memory_and_nothing_else():
    x, factor = X.to(DEVICE), 2.0
    out = torch.zeros_like(x)

    def program() -> torch.Tensor:
        out.add_(x)
        return x.t().contiguous() * factor

    replay = PretendGraphs()(program)
    out.zero_()
    factor = 3.0
    x.add_(1)
    torch.testing.assert_close(replay().cpu(), (X + 1).t() * 2)
    torch.testing.assert_close(out.cpu(), X + 1)


def test_a_graph_does_not_keep_what_it_reads():
    def begin() -> Callable[[], torch.Tensor]:
        x = X.to(DEVICE)
        return PretendGraphs()(lambda: x + 1)

    with pytest.raises(NotCapturable, match="given back"):
        begin()()


def test_a_replay_leaves_nothing_of_other_graphs_results():
    x, graphs = X.to(DEVICE), PretendGraphs()
    first, second = graphs(lambda: x + 1), graphs(lambda: x * 2)
    kept = first()
    second()
    assert bool(kept.isnan().all())
    torch.testing.assert_close(first().cpu(), X + 1)
