"""A device that is none: tensors of the device type `pretend` hold ordinary ones, and refuse what CUDA would refuse.

Nobody who runs the tests needs a GPU, and yet what goes wrong on one first is to be seen: operands on different
devices, `.numpy()` on a device's tensor, an index made on the wrong side, a dtype that autocast leaves behind. So this
is a backend in Python under the dispatch key that PyTorch keeps for foreign devices. Whatever is asked of it is checked
by CUDA's rules and then computed by the CPU's own kernels, so results must be the CPU's, bit for bit in most cases.

Importing this module registers the device for the whole process, for good and before the first backward pass of all
(autograd counts devices once): the tests that use it run in a process of their own.

CUDA's rules, as far as they are kept here: a tensor of no dimensions may be on the CPU where an operation works element
by element; an index may be on the CPU when what is indexed is not; copies may cross; nothing else may. Host and device
meet at a copy to the host, at `.item()`, and where a result's shape depends on values: `meetings` counts those.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "pretend"
DEVICE = torch.device("cpu")  # until it is registered, below

aten = torch.ops.aten


class MixedDevices(RuntimeError):
    """What CUDA would have refused."""


class PretendTensor(torch.Tensor):
    """A tensor of the pretended device; `inner` is what it holds."""

    inner: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # what leaves the device is an ordinary tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> PretendTensor:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})

    # What PyTorch has for tensors with memory of their own, and not for those of a backend in Python.

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.inner.untyped_storage()

    def __repr__(self, **settings: Any) -> str:
        return f"pretend({self.inner!r})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.detach().cpu().__reduce_ex__(protocol)  # what loading with map_location="cpu" would find

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            copied: torch.Tensor = PretendTensor(self.inner.clone())
            if isinstance(self, torch.nn.Parameter):
                copied = torch.nn.Parameter(copied, self.requires_grad)
            memo[id(self)] = copied.requires_grad_(self.requires_grad)
        return memo[id(self)]


@dataclass(frozen=True)
class Operation:
    """Something that was computed: what was asked for, and what it was on the tensors inside."""

    func: Any
    args: Any
    kwargs: Any
    inner_args: Any
    inner_kwargs: Any
    found: Any  # inner tensors
    waits: bool  # the host waited for the device


observers: list[Callable[[Operation], None]] = []
"""Called with every operation on the device once it is done."""


@contextmanager
def observed(observer: Callable[[Operation], None]) -> Iterator[None]:
    observers.append(observer)
    try:
        yield
    finally:
        observers.remove(observer)


@contextmanager
def meetings() -> Iterator[Counter[str]]:
    """Counts where the host waits for the device, by operation."""
    count: Counter[str] = Counter()
    with observed(lambda operation: count.update([str(operation.func)] if operation.waits else [])):
        yield count


# What may mix devices, and what makes the host wait.

_COPIES = {aten.copy_.default, aten._to_copy.default, aten._copy_from.default}
_BY_INDEX = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
    aten._unsafe_index.Tensor,
}
_SCALARS = {aten.fill_.Tensor, aten.fill.Tensor, aten.masked_fill.Tensor, aten.masked_fill_.Tensor, aten.where.self}
_WAITS = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.equal.default,
    aten.is_nonzero.default,
    aten.bincount.default,
    aten._unique2.default,
    aten.unique_consecutive.default,
}
_RESHAPES = {"resize_", "set_", "t_", "transpose_", "squeeze_", "unsqueeze_", "swapaxes_"}


def each(value: Any) -> Iterator[Any]:
    """The values in nested lists, tuples and dictionaries."""
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from each(part)
    elif isinstance(value, dict):
        yield from each(list(value.values()))
    else:
        yield value


def changed(value: Any, change: Callable[[Any], Any]) -> Any:
    """The same nesting of changed values."""
    if isinstance(value, (list, tuple)):
        parts = [changed(part, change) for part in value]
        return parts if isinstance(value, list) else tuple(parts)
    if isinstance(value, dict):
        return {name: changed(part, change) for name, part in value.items()}
    return change(value)


def is_there(value: Any) -> bool:
    return isinstance(value, PretendTensor)


def check(func: Any, args: Any, kwargs: Any) -> None:
    """Raise what CUDA would raise about the devices of operands."""
    generator = kwargs.get("generator")
    if generator is not None and generator.device.type != NAME:
        raise MixedDevices(f"{func}: expected a {NAME!r} generator, found one of {generator.device.type!r}")
    tensors = [x for x in each((args, kwargs)) if isinstance(x, torch.Tensor)]
    there = [x for x in tensors if is_there(x)]
    here = [x for x in tensors if not is_there(x)]
    if not there or not here or func in _COPIES:
        return
    if func in _BY_INDEX:
        indexed, indices = args[0], args[1]
        if not is_there(indexed):
            raise MixedDevices(f"{func}: an index on {NAME!r} into a tensor on the CPU")
        here = [x for x in here if x.ndim and not any(x is index for index in indices)]
    elif torch.Tag.pointwise in func.tags or func in _SCALARS or "_foreach_" in str(func):
        here = [x for x in here if x.ndim]
        if func._schema.is_mutable and args and isinstance(args[0], torch.Tensor) and not is_there(args[0]):
            here = [args[0]]
    if here:
        shapes = [f"{tuple(x.shape)} on {x.device.type}" for x in tensors]
        raise MixedDevices(f"{func}: expected all tensors to be on the same device, found {', '.join(shapes)}")


def waits(func: Any, args: Any, kwargs: Any, to_host: bool) -> bool:
    """Whether the host waits for the device here, or copies to it from memory that is not pinned."""
    if func in _COPIES:
        copied = [x for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor)]
        return to_host or not all(is_there(x) for x in copied)
    if func in _BY_INDEX:
        return any(x is not None and (x.dtype in (torch.bool, torch.uint8) or not is_there(x)) for x in args[1])
    if func is aten.repeat_interleave.Tensor:
        return kwargs.get("output_size") is None
    return func in _WAITS


def _inside(value: Any) -> Any:
    if is_there(value):
        return value.inner
    return torch.device("cpu") if isinstance(value, torch.device) and value.type == NAME else value


@cache
def _is_composite(func: Any) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")


def compute(func: Any, args: Any, kwargs: Any) -> Any:
    """`func` on what the tensors hold, once CUDA's rules allow it."""
    if _is_composite(func):
        return func.decompose(*args, **kwargs)  # in inference mode nobody has done so yet
    check(func, args, kwargs)
    flat = list(each((args, kwargs)))
    named = next((x for x in flat if isinstance(x, torch.device)), None)
    if func in (aten.copy_.default, aten._copy_from.default):
        target = args[0] if func is aten.copy_.default else args[1]
        stays = is_there(target)
    else:
        stays = any(map(is_there, flat)) if named is None else named.type == NAME
    if func._schema.name.removeprefix("aten::") in _RESHAPES:
        raise NotImplementedError(f"{func}: the pretended device cannot change a tensor's shape in place")
    wrapper_of = {id(x.inner): x for x in flat if is_there(x)}
    inner_args, inner_kwargs = changed((args, kwargs), _inside)
    inner_kwargs.pop("pin_memory", None)
    if func is aten._copy_from.default:
        inner_args[1].copy_(inner_args[0])
        found = inner_args[1]
    else:
        found = func(*inner_args, **inner_kwargs)
    if observers:
        host = waits(func, args, kwargs, not stays)
        operation = Operation(func, args, kwargs, inner_args, inner_kwargs, found, host)
        for observer in list(observers):
            observer(operation)
    for inner, wrapper in ((x.inner, x) for x in wrapper_of.values()):
        if inner.shape != wrapper.shape:
            raise NotImplementedError(f"{func}: the pretended device cannot change a tensor's shape in place")

    def outside(x: Any) -> Any:
        if id(x) in wrapper_of:
            return wrapper_of[id(x)]
        return PretendTensor(x) if stays and isinstance(x, torch.Tensor) else x

    return changed(found, outside)


# Registration

_libraries: list[torch.library.Library] = []


class _Module:
    """What PyTorch asks of a device's module."""

    @staticmethod
    def is_initialized() -> bool:
        return True

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def current_device() -> int:
        return 0

    @staticmethod
    def device_count() -> int:
        return 1

    @staticmethod
    def _is_in_bad_fork() -> bool:
        return False

    @staticmethod
    def manual_seed_all(seed: int) -> None:
        pass

    @staticmethod
    def get_rng_state(device: Any = None) -> torch.Tensor:
        return torch.get_rng_state()

    @staticmethod
    def set_rng_state(state: torch.Tensor, device: Any = None) -> None:
        torch.set_rng_state(state)

    @staticmethod
    def get_amp_supported_dtype() -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


# Made here in one go: what PyTorch does by itself is to make an empty tensor and give it a shape later.
_MADE = ("arange", "arange.start", "arange.start_step", "randperm", "eye")

# As CUDA's autocast does it, of what language models use.
_LOWER = "linear matmul mm addmm bmm baddbmm addbmm addmv mv einsum linalg_vecdot scaled_dot_product_attention".split()
_FULL = "exp log log1p expm1 reciprocal rsqrt softplus layer_norm nll_loss cross_entropy_loss prod softmax.int "
_FULL += "log_softmax.int cumprod cumsum sum sum.dim_IntList linalg_vector_norm norm.Scalar norm.ScalarOpt_dim "
_FULL += "pow.Tensor_Scalar pow.Tensor_Tensor pow.Scalar"


def _autocast_kernel(op: Any, dtype: Callable[[], torch.dtype]) -> Callable[..., Any]:
    key = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def kernel(*args: Any, **kwargs: Any) -> Any:
        to = dtype()

        def cast(x: Any) -> Any:
            wanted = is_there(x) and x.is_floating_point() and x.dtype not in (to, torch.float64)
            return x.to(to) if wanted else x

        with torch._C._ExcludeDispatchKeyGuard(key):
            if to is torch.float32 and kwargs.get("dtype") is not None:
                return op(*args, **kwargs)
            args, kwargs = changed((args, kwargs), cast)
            return op(*args, **kwargs)

    return kernel


def compute_of(func: Any, *args: Any, **kwargs: Any) -> Any:
    return compute(func, args, kwargs)


def _register() -> None:
    global DEVICE
    _setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    DEVICE = torch.device(NAME, 0)
    everything = torch.library.Library("_", "IMPL")
    everything.fallback(compute_of, "PrivateUse1")
    everything.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    of_aten = torch.library.Library("aten", "IMPL")
    # By itself, because torch.tensor(..., device=...) calls it where a fallback in Python cannot be reached.
    of_aten.impl("_copy_from", partial(compute_of, aten._copy_from.default), "PrivateUse1")
    for name in _MADE:
        op = getattr(aten.arange if "arange" in name else getattr(aten, name), name.partition(".")[2] or "default")
        of_aten.impl(name, partial(compute_of, op), "PrivateUse1")
    for names, dtype in ((_LOWER, lambda: torch.get_autocast_dtype(NAME)), (_FULL.split(), lambda: torch.float32)):
        for name in names:
            packet, _, overload = name.partition(".")
            op = getattr(getattr(aten, packet), overload or "default")
            of_aten.impl(name, _autocast_kernel(op, dtype), "AutocastPrivateUse1")
    _libraries.extend((everything, of_aten))
    # Moving or casting a module gives its parameters other contents; shared ones stay shared.
    torch.__future__.set_swap_module_params_on_conversion(True)


_register()


def moved(lm: Any) -> Any:
    """`lm` with its model on the device."""
    torch.nn.Module.to(lm.model, DEVICE)
    return lm
