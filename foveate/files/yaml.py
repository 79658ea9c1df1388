"""Reading YAML that people write by hand, as the plain values that JSON has and nothing else."""

from __future__ import annotations

from typing import Any

import yaml

__all__ = ["YamlError", "plain_yaml"]


class YamlError(ValueError):
    """A text that is not YAML, or uses more of it than JSON could say."""


class _Loader(yaml.SafeLoader):
    """Refuses what would be silently lost or could grow without limit: repeated keys, keys that are no text, and aliases."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise YamlError(f"it has an alias in line {self.peek_event().start_mark.line + 1}; write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if key.tag != "tag:yaml.org,2002:str":
                raise YamlError(f"it has a key in line {line} that is not text; put it in quotes")
            if key.value in seen:
                raise YamlError(f"it has the key {key.value!r} twice, the second time in line {line}")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def plain_yaml(text: str) -> Any:
    """The one document of a text in YAML 1.1.

    Raises:
        YamlError: it is not YAML, repeats a key, has a key that is not text, or an alias.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except YamlError:
        raise
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise YamlError(f"it is not YAML ({' '.join(str(error).split())})") from error
    except (AttributeError, LookupError) as error:  # of PyYAML, where a tag such as !!int does not fit its value
        raise YamlError(f"it is not YAML ({type(error).__name__}: a tag does not fit its value)") from error
