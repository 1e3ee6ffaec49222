"""Straight through: operations without a useful derivative, found while a model runs and differentiated all the same.

BPDA (Athalye, Carlini and Wagner, ICML 2018, §4) for a model that declares nothing: its values stay what they are, and
an operation whose derivative is zero, or that autograd does not follow, gets the derivative of a stand-in.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary
from typing_extensions import override

from robustdeq.attacks.stand_ins import Call, StandIn, carried_on, stand_in
from robustdeq.base.derivative import derivative
from robustdeq.base.errors import InputError
from robustdeq.base.shapes import Logits, Pixels

_OURS = ("robustdeq.attacks.", "robustdeq.base.", "robustdeq.deq.", "robustdeq.solvers.")
"""Our packages that detach what they differentiate by themselves."""
_LIBRARIES = ("torch", "jaxtyping", "contextlib", "functools")
_DECORATING = "torch.utils._contextlib"
"""Where torch wraps the functions that its contexts decorate."""
_HARMLESS = frozenset(
    {"zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "new_zeros", "new_ones"}
    | {"new_empty", "new_full", "new_tensor", "isnan", "isinf", "isfinite", "requires_grad_"}
)
"""Operations whose results owe a tensor no more than its shape, or whether it is finite."""
_LEAVING = frozenset({"numpy", "tolist", "item", "__float__", "__int__", "__array__"})
"""Operations behind which a tensor is no longer torch's."""
_DATA = vars(torch._C.TensorBase)["data"].__get__


class Operation(NamedTuple):
    """An operation without a useful derivative.

    Attributes:
        name: what torch calls it.
        where: file and line of the code that calls it.
    """

    name: str
    where: str

    def __str__(self) -> str:
        return f"{self.name} ({self.where})"


class StraightThrough(nn.Module):
    """A model x → logits, with the derivatives of stand-ins where its own operations have none.

    Args:
        model: the model, such as one behind a defense.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = model.training

    def forward(self, x: Pixels) -> Logits:
        """The logits of the model as they are, with that gradient."""
        return _Straight.apply(x, self.model, _Watch()) if torch.is_grad_enabled() else self.model(x)


def operations_without_derivative(model: nn.Module, x: Pixels) -> tuple[Operation, ...]:
    """The operations between x and the logits of a model that have no useful derivative, in the order of their use.

    Args:
        model: the model, in eval mode.
        x: images.

    Raises:
        InputError: the model does not run where its operations are watched.
    """
    watch = _Watch()
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        derivative(_Straight.apply(leaf, model, watch).sum(), leaf)
    return tuple(watch.found)


class _Straight(torch.autograd.Function):
    """Runs a model, forward and backward, under watch."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, model: nn.Module, watch: _Watch) -> Tensor:
        ctx.watch, ctx.leaf = watch, x.detach().requires_grad_()
        ctx.logits = _under(watch, lambda: model(ctx.leaf))
        return ctx.logits.detach().clone()

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (on_logits,) = cotangents
        return _under(ctx.watch, lambda: derivative(ctx.logits, ctx.leaf, on_logits, retain=True)), None, None


def _under(watch: _Watch, run: Callable[[], Tensor]) -> Tensor:
    try:
        with torch.enable_grad(), watch:
            return run()
    except Exception as error:
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(
            f"the model cannot be differentiated straight through what has no derivative: {said}"
        ) from error


class _Watch(TorchFunctionMode):
    """Sees every operation of the model that it is entered for, and replaces the derivatives that are of no use.

    Attributes:
        found: the operations whose derivatives were replaced; a dict for its order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[Operation, None] = {}
        self._known = WeakTensorKeyDictionary()
        self._enabled = True
        self._blind = False

    @override
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch._C._set_grad_enabled:
            return self._set_grad_enabled(bool(args[0]))
        call = Call(func, args, kwargs or {})
        if not self._enabled:
            return call.run()
        if torch.is_inference_mode_enabled():
            self._blind = True
            with torch.inference_mode(False), torch.enable_grad():
                return self._watched(call)
        return self._watched(call)

    def _set_grad_enabled(self, enabled: bool) -> None:
        """Our own code may switch gradients off; where the model does, they stay, and it is noted if it matters."""
        module, _ = _caller()
        ours = module.startswith(_OURS)
        self._blind = not (ours or enabled)
        if ours or enabled:
            self._enabled = enabled
            torch._C._set_grad_enabled(enabled)

    def _note(self, name: str) -> bool:
        """Note an operation of the model; false for one of our own."""
        module, where = _caller()
        if not module.startswith(_OURS):
            self.found[Operation(name, where)] = None
            return True
        return False

    def _watched(self, call: Call) -> Any:
        tensors = call.tensors
        known: dict[int, StandIn] = {id(tensor): self._known[tensor] for tensor in tensors if tensor in self._known}
        if known and call.name not in _HARMLESS:
            return self._stood_for(call.run(), lambda made: carried_on(call, made, known))
        if not any(tensor.requires_grad for tensor in tensors):
            return call.run()
        name, others = call.name, call.args[1:]
        own: Any = next(iter(call.args), None)
        if name == "detach" or call.function == _DATA:
            return own.clone() if self._note("detach") else call.run()
        if name in _LEAVING:
            self._note(name)
            return call.run(own.detach(), *others)
        if call.in_steps_in_place:
            self._note(name.removesuffix("_"))
            return own.add_((call.run(own.detach().clone(), *others) - own).detach())
        made = call.run()
        followed = any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in tree_leaves(made))
        if self._blind and followed:
            self._blind = False
            self._note("no_grad")
        if not isinstance(made, Tensor) or name in _HARMLESS or (followed and not call.in_steps):
            return made
        return self._stood_for(made, lambda made: stand_in(call, made)) if self._note(name) else made

    def _stood_for(self, made: Any, find: Callable[[Tensor], StandIn | None]) -> Any:
        """A result with the derivative of its stand-in, or, where it can have none, remembered with it."""
        try:
            found = find(made) if isinstance(made, Tensor) else None
        except Exception:
            found = None
        if found is None:
            return made
        if made.is_floating_point():
            return found.value + torch.where(found.value == made, 0, made - found.value).detach()
        self._known[made] = found
        return made


def _caller() -> tuple[str, str]:
    """The module, and the file and line, of the code that called torch, or that a context of torch decorates."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        module = frame.f_globals.get("__name__", "")
        if module == _DECORATING and "func" in frame.f_locals:
            decorated = inspect.unwrap(frame.f_locals["func"])
            code = getattr(decorated, "__code__", frame.f_code)
            return decorated.__module__, f"{Path(code.co_filename).name}:{code.co_firstlineno}"
        if module != __name__ and module.split(".")[0] not in _LIBRARIES:
            return module, f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
        frame = frame.f_back
    return "", "unknown"
