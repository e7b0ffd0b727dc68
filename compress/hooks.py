"""Read what a module computes, for the length of a `with` block."""

from collections.abc import Iterable, Iterator
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
def taps(model: nn.Module, names: Iterable[str]) -> Iterator[dict[str, list[Tensor]]]:
    """Record several modules of `model` by dotted name."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(record(model.get_submodule(name))) for name in names}
