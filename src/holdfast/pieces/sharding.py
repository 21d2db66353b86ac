"""Weights that are spread over processes: read whole, written whole, and worked on in part.

A parameter is one of three. A plain one is whole on every process (one process, DDP). A
``DTensor`` (FSDP2) holds some rows here. A parameter of DeepSpeed's ZeRO stage 3 is an empty
tensor outside of the forward pass, and holds a slice of its flattened numbers elsewhere
(Rajbhandari et al. 2020, arXiv 1910.02054). Nothing but this module asks which one it is.

The *part* of a weight is what this process holds of it: the weight itself where it is plain.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.errors import UsageError


def spread(parameter: Any) -> bool:
    """Whether no process holds all of this weight."""
    return _is_dtensor(parameter) or _is_zero(parameter)


def full(parameter: Any) -> Tensor:
    """The whole weight, on every process, detached. All processes must ask for it together."""
    if _is_zero(parameter):
        from deepspeed.runtime.zero import GatheredParameters

        with GatheredParameters([parameter]):
            gathered: Tensor = parameter.detach().clone()
        return gathered
    value: Tensor = parameter.detach()
    if _is_dtensor(value):
        value = value.full_tensor()  # type: ignore[attr-defined]
    return value


@torch.no_grad()
def write(parameter: Tensor, value: Tensor) -> None:
    """Give a weight a whole value, [shape of the weight], that every process has."""
    held = part(parameter)
    held.copy_(cut(parameter, value.to(held.device)))
    if _is_zero(parameter):
        from deepspeed.utils import safe_set_local_fp32_param

        if parameter.requires_grad and hasattr(parameter, "_z3_optimizer"):
            safe_set_local_fp32_param(parameter, held.float())  # the optimizer's own copy
        _renew(parameter)


def part(parameter: Any) -> Tensor:
    """What this process holds of a weight: writing into it writes a plain weight or a DTensor."""
    if _is_zero(parameter):
        held: Tensor = parameter.ds_tensor.detach()
        if parameter.ds_tensor.status.name != "AVAILABLE":
            raise UsageError(
                "this needs the weights in memory and DeepSpeed keeps them on a disk (nvme); "
                "set offload_param to cpu or none."
            )
        return held
    value: Tensor = parameter.detach()
    if _is_dtensor(value):
        value = value.to_local()  # type: ignore[attr-defined]
    return value


def cut(parameter: Any, whole: Tensor) -> Tensor:
    """What :func:`part` is of the weight, of a tensor that broadcasts to the weight's shape.

    For a plain weight or a DTensor it broadcasts to the part, for ZeRO-3 it has its shape, with
    zeros where the part is padded.
    """
    if _is_zero(parameter):
        shape, count = parameter.ds_shape, parameter.ds_tensor.ds_numel
        flat = whole.expand(shape).reshape(-1)
        first = count * parameter.ds_zero_partition_rank
        mine = flat[first : first + count]
        return nn.functional.pad(mine, (0, count - len(mine)))
    if not _is_dtensor(parameter):
        return whole
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    lengths, offsets = compute_local_shape_and_global_offset(
        parameter.shape,
        parameter.device_mesh,
        parameter.placements,
    )
    whole = whole.reshape((1,) * (parameter.dim() - whole.dim()) + tuple(whole.shape))
    for dim, (length, offset) in enumerate(zip(lengths, offsets, strict=True)):
        if whole.shape[dim] != 1 or parameter.shape[dim] == 1:
            whole = whole.narrow(dim, min(offset, whole.shape[dim]), length)
    return whole


def clear_gradient(parameter: Tensor, where: Tensor) -> None:
    """Zero a weight's gradient where ``where``, a bool that is cut to the part, is True."""
    if _is_zero(parameter):
        from deepspeed.utils import safe_get_local_grad, safe_set_local_grad

        gradient = safe_get_local_grad(parameter)
        if gradient is not None:
            safe_set_local_grad(parameter, gradient.reshape(-1).masked_fill(where, 0))
    elif parameter.grad is not None:
        part(parameter.grad).masked_fill_(where, 0)


@torch.no_grad()
def put_back(parameter: Tensor, where: Tensor, values: Tensor) -> None:
    """Write ``values`` into a part where ``where``, a bool that broadcasts to it, is True."""
    held = part(parameter)
    held.masked_scatter_(where.expand_as(held), values)
    if _is_zero(parameter):
        from deepspeed.utils import safe_get_local_fp32_param, safe_set_local_fp32_param

        kept = safe_get_local_fp32_param(parameter)  # the optimizer's own copy
        safe_set_local_fp32_param(parameter, kept.masked_scatter(where, values.to(kept.dtype)))
        _renew(parameter)


@contextmanager
def swapped(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Within, a model whose weights are spread computes with other values of some of them.

    ``functional_call`` cannot do this: the engines put the gathered weights in its place. Not
    between a forward and its backward pass, which would gather the wrong values.

    Args:
        weights: parts (:func:`cut`) by name.
    """
    named = {n: p for n, p in model.named_parameters() if n in weights}
    mine = {n: part(p).clone() for n, p in named.items()}
    _lay(model, named, weights)
    try:
        yield
    finally:
        _lay(model, named, mine)


def hollow(model: nn.Module) -> nn.Module:
    """A copy of a model whose weights are on the ``meta`` device: modules, names and buffers."""
    empty: dict[int, Any] = {}
    for parameter in model.parameters():
        shape = torch.empty_like(parameter, device="meta")
        empty[id(parameter)] = nn.Parameter(shape, requires_grad=parameter.requires_grad)
    return copy.deepcopy(model, empty)


def fill(copied: nn.Module, model: nn.Module) -> nn.Module:
    """Give a :func:`hollow` copy the whole weights of the model that it was made of, in place.

    All processes must do this together, and each gets all weights.
    """
    values = {name: full(parameter) for name, parameter in model.named_parameters()}
    made: dict[int, nn.Parameter] = {}
    for module_name, module in copied.named_modules():
        for leaf, parameter in list(module._parameters.items()):
            if parameter is None:
                continue
            if id(parameter) not in made:  # tied weights stay one
                name = f"{module_name}.{leaf}" if module_name else leaf
                made[id(parameter)] = nn.Parameter(values[name], parameter.requires_grad)
            module._parameters[leaf] = made[id(parameter)]
    return copied


def before_each_step(engine: Any, act: Callable[[], None]) -> None:
    """Have a DeepSpeed engine do ``act`` when gradients are complete, before they are clipped."""
    if "step" in vars(engine):
        return
    step = engine.step

    def stepped(*args: Any, **kwargs: Any) -> Any:
        act()
        return step(*args, **kwargs)

    engine.step = stepped


def gathered_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's state with whole tensors on the CPU: what one process would save."""
    state = optimizer.state_dict()
    return {
        "state": {
            i: {k: full(v).cpu() if isinstance(v, Tensor) else v for k, v in entry.items()}
            for i, entry in state["state"].items()
        },
        "param_groups": state["param_groups"],
    }


def scattered_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> dict[str, Any]:
    """The reverse of :func:`gathered_state`: the same for this optimizer's parameters."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return {
        "state": {
            i: {
                k: _like(parameters[i], v)
                if isinstance(v, Tensor) and v.shape == parameters[i].shape and v.dim()
                else v
                for k, v in entry.items()
            }
            for i, entry in state["state"].items()
        },
        "param_groups": state["param_groups"],
    }


def _like(parameter: Any, whole: Tensor) -> Tensor:
    """A whole tensor, spread as a parameter of its shape is."""
    if not _is_dtensor(parameter):
        return whole
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        cut(parameter, whole.to(parameter.device)).contiguous(),
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )


@torch.no_grad()
def _lay(model: nn.Module, named: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    """Write parts for the next forward pass alone: the optimizer's own copies stay."""
    from torch.distributed.fsdp import FSDPModule

    for name, parameter in named.items():
        part(parameter).copy_(values[name])
        if _is_zero(parameter):
            _renew(parameter)
    for module in model.modules():  # FSDP2 may still hold the values gathered before
        if isinstance(module, FSDPModule):
            module.reshard()


def _renew(parameter: Any) -> None:
    """Gather anew what ZeRO-3 keeps gathered because it is small."""
    from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

    if parameter.ds_status == ZeroParamStatus.AVAILABLE:
        parameter.partition()
        parameter.all_gather()


def _is_zero(parameter: Any) -> bool:
    return hasattr(parameter, "ds_tensor")


def _is_dtensor(parameter: Any) -> bool:
    return hasattr(parameter, "device_mesh") and hasattr(parameter, "to_local")
