"""Settings laid over the nested values of a recipe, before they are checked: `key.path=value`."""

from typing import Any

import yaml


def assign(values: dict[str, Any], setting: str) -> None:
    """Lay `key.path=value` over nested `values`; the value is YAML, a number in the path indexes a list."""
    path, equals, text = setting.partition("=")
    if not equals or not path:
        raise ValueError(f"--set takes key.path=value, got {setting!r}")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    lay(values, path, value, f"--set {setting}")


def lay(values: dict[str, Any], path: str, value: Any, says: str) -> None:
    """Put `value` at the dotted `path` of nested `values`; errors begin with `says`, the words of the user."""
    *parents, last = path.split(".")
    node: Any = values
    for depth, key in enumerate(parents):
        where = ".".join(parents[: depth + 1])
        if isinstance(node, list):
            node = node[index(key, node, says)]
        elif isinstance(node, dict):
            node = node.setdefault(key, {})
        if isinstance(node, str) and depth + 1 == len(parents):
            raise ValueError(f"{says}: {where} is the text {node!r}, it has no keys")
    if isinstance(node, list):
        node[index(last, node, says)] = number(value)
    elif isinstance(node, dict):
        node[last] = number(value)
    else:
        raise ValueError(f"{says}: {'.'.join(parents)} is {node!r}, it has no keys")


def index(key: str, node: list[Any], says: str) -> int:
    if not key.isdigit() or int(key) >= len(node):
        raise ValueError(f"{says}: a list of {len(node)} is indexed with 0 to {len(node) - 1}, got {key!r}")
    return int(key)


def number(value: Any) -> Any:
    """YAML 1.1 reads 5e-5 as text; people mean the number."""
    try:
        return float(value) if isinstance(value, str) and value[:1] in "-+.0123456789" else value
    except ValueError:
        return value
