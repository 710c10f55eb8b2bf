"""Where the host would wait for a device, found on the CPU: tensors are followed from their transfer on.

A transfer does nothing on the CPU. Here a tensor that is sent to a device by name of one (`x.to(device)`),
and all that is computed from it, counts as being there; reading a value of it, asking how many of its
entries are true, and sending without `non_blocking` are waits.
"""

import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import mmalign

_PACKAGE = Path(mmalign.__file__).parent
_READ = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2", "unique_dim"}
_ON_THE_CPU = {"likelihoods.py:unit_ratio"}  # code that reads values only where that costs nothing
_READERS = {Tensor.tolist: "tolist", Tensor.cpu: "cpu", Tensor.numpy: "numpy"}


class Waits:
    """Places "file.py:function operation", one for every wait, in order."""

    def __init__(self) -> None:
        self.places: list[str] = []
        self._there: dict[int, Any] = {}  # storages of the device, held so that none is used again

    def send(self, tensors: Iterable[Tensor]) -> None:
        """These are on the device."""
        for one in tensors:
            storage = one.untyped_storage()
            self._there[storage._cdata] = storage

    def fetched(self, value: Tensor) -> Tensor:
        """A copy that is not on the device."""
        copy = value.detach().clone()
        self._there.pop(copy.untyped_storage()._cdata, None)
        return copy

    def sent(self, value: Any) -> bool:
        return isinstance(value, Tensor) and value.untyped_storage()._cdata in self._there

    def add(self, operation: str) -> None:
        frames = [f for f in traceback.extract_stack() if Path(f.filename).is_relative_to(_PACKAGE)]
        if not frames:  # a test's own
            self.places.append(operation)
            return
        place = f"{frames[-1].filename.rsplit('/', 1)[-1]}:{frames[-1].name}"
        if place not in _ON_THE_CPU:
            self.places.append(f"{place} {operation}")


class _Calls(TorchFunctionMode):
    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _READERS and self.waits.sent(args[0]):
            self.waits.add(_READERS[func])
            return func(self.waits.fetched(args[0]))
        if func is Tensor.to and any(isinstance(a, torch.device) for a in (*args, *kwargs.values())):
            found = func(*args, **kwargs)
            if not self.waits.sent(found):
                found = found.clone()
                self.waits.send([found])
                if not kwargs.get("non_blocking"):
                    self.waits.add("to")
            return found
        found = func(*args, **kwargs)
        if isinstance(kwargs.get("device"), torch.device) and isinstance(found, Tensor):
            self.waits.send([found])  # made there
            if func is torch.tensor:
                self.waits.add("tensor")
        return found


class _Operations(TorchDispatchMode):
    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        there = any(self.waits.sent(one) for one in given)
        name = func.overloadpacket.__name__
        if there and self._waits(name, args, kwargs or {}):
            self.waits.add(name)
        found = func(*args, **(kwargs or {}))
        if there:
            self.waits.send(one for one in tree_leaves(found) if isinstance(one, Tensor))
        return found

    def _waits(self, name: str, args: Any, kwargs: Any) -> bool:
        if name == "repeat_interleave":  # the one whose counts are a tensor
            return kwargs.get("output_size") is None
        if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            places = [one for one in args[1] if one is not None]
            return any(one.dtype in (torch.bool, torch.uint8) or not self.waits.sent(one) for one in places)
        return name in _READ


@contextmanager
def followed(sent: Iterable[Tensor]) -> Iterator[Waits]:
    """The waits inside the block, where some tensors are on the device from the start."""
    waits = Waits()
    waits.send(sent)
    with _Calls(waits), _Operations(waits):
        yield waits
