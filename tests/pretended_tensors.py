"""The tensors of a pretended GPU, and what an operator does with tensors."""

from functools import lru_cache

import torch

aten = torch.ops.aten
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
FILLING = {aten.masked_fill.Tensor, aten.masked_fill_.Tensor, aten.fill.Tensor, aten.fill_.Tensor}


class Tensor(torch.Tensor):
    """A tensor on the device; ``held``, on the CPU, has its numbers."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, data, requires_grad=False, **_):
        return torch.nn.Parameter(data, requires_grad)  # accelerate calls type(parameter)(data)

    def __init__(self, *_, **__):
        pass

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        gpu = next(x.gpu for x in tensors_in(args, kwargs) if isinstance(x, Tensor))
        return gpu.run(func, args, kwargs or {})

    def __deepcopy__(self, memo):
        copy, is_parameter = self.detach().clone(), isinstance(self, torch.nn.Parameter)
        return memo.setdefault(id(self), torch.nn.Parameter(copy, self.requires_grad) if is_parameter else copy)

    def __repr__(self, **_):
        return f"{self.held!r} on {self.device}"

    def tolist(self):
        return self.cpu().tolist()

    def numpy(self, **_):
        raise TypeError(f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() first.")

    def untyped_storage(self):
        return self.held.untyped_storage()

    def data_ptr(self):
        return self.held.data_ptr()

    def record_stream(self, stream):
        self.memory.told.add(stream.number)


def tensors_in(*values) -> list[torch.Tensor]:
    """The tensors among an operator's arguments or results."""
    found = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, (tuple, list)):
            found += tensors_in(*value)
        elif isinstance(value, dict):
            found += tensors_in(*value.values())
    return found


def replace_tensors(value, by):
    """An operator's arguments or results with other tensors."""
    if isinstance(value, torch.Tensor):
        return by(value)
    if isinstance(value, (tuple, list)):
        return type(value)([replace_tensors(x, by) for x in value])
    if isinstance(value, dict):
        return {name: replace_tensors(x, by) for name, x in value.items()}
    return value


def hold(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.held if isinstance(tensor, Tensor) else tensor


@lru_cache(None)
def traits(func) -> tuple[list, set]:
    """Of an operator: (position, name) of the arguments that it writes to, and its tags."""
    written = [
        (position, argument.name)
        for position, argument in enumerate(func._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    return written, set(func.tags)


def changed(func, args, kwargs) -> list[torch.Tensor]:
    """The arguments that an operator writes to."""
    written, _ = traits(func)
    return tensors_in([args[at] if at < len(args) else kwargs.get(name) for at, name in written]) if written else []


def refuse_mixed(func, args, kwargs, tensors) -> None:
    """Raises as CUDA does where operands lie on two devices; indices and plain numbers may lie on the CPU."""
    if all(isinstance(x, Tensor) for x in tensors):
        return
    if func in INDEXING:
        tensors = tensors_in(args[0], args[2:])
        if not isinstance(args[0], Tensor):
            raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
    takes_numbers = func in INDEXING | FILLING or torch.Tag.pointwise in traits(func)[1]
    written = changed(func, args, kwargs)
    for x in tensors:
        if not isinstance(x, Tensor) and (x.ndim or not takes_numbers or any(x is y for y in written)):
            there = next(y.device for y in tensors if isinstance(y, Tensor))
            raise RuntimeError(
                "Expected all tensors to be on the same device, "
                f"but found at least two devices, {there} and {x.device}! ({func})"
            )


def makes_the_host_wait(func, tensors) -> bool:
    """Whether the answer, or its shape, is a number on the host."""
    if func in INDEXING:
        return any(x.dtype in (torch.bool, torch.uint8) for x in tensors[1:])
    return not traits(func)[1].isdisjoint({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape})
