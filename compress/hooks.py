"""Read what a module computes, or put something else in its place, for the length of a `with` block."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn


def tensor_of(output: Any) -> Tensor:
    """The hidden state of a layer's output: Hugging Face layers may give a tuple that starts with it."""
    return output[0] if isinstance(output, tuple) else output


@contextmanager
def record(module: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the outputs of `module`."""
    seen: list[Tensor] = []
    handle = module.register_forward_hook(lambda _m, _i, output: seen.append(tensor_of(output)))
    try:
        yield seen
    finally:
        handle.remove()


@contextmanager
def rewrite(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Have `module` give `change` of its output, a new tensor; what follows and `record` see that one."""

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        changed = change(tensor_of(output))
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def taps(model: nn.Module, names: Iterable[str]) -> Iterator[dict[str, list[Tensor]]]:
    """Record several modules of `model` by dotted name."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(record(model.get_submodule(name))) for name in names}
