"""YAML that jsonargparse and PyYAML read alike."""

from __future__ import annotations

import re
from typing import Any

import yaml


class _Dumper(yaml.SafeDumper):
    """Quotes text such as ``1e-4``: a number in YAML 1.2 and jsonargparse, but text in PyYAML. Escapes line breaks, so
    that text stays on one line."""


_FLOAT = re.compile(r"[-+]?([0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+|\.[0-9_]+([eE][-+]?[0-9]+)?)$")
_Dumper.add_representer(
    str,
    lambda own, text: own.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"'),
)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def yaml_text(value: Any, **style: Any) -> str:
    """YAML that jsonargparse and PyYAML read as the value that was given."""
    return str(yaml.dump(value, Dumper=_Dumper, **({"sort_keys": False, "allow_unicode": True} | style)))


def yaml_scalar(value: Any) -> str:
    """Format a value as one line of YAML."""
    return yaml_text(value, default_flow_style=True, width=float("inf")).removesuffix("\n").removesuffix("\n...")
