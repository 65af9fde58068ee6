"""docs/event.schema.json, for tests: it must name every field."""

import json
from pathlib import Path

import jsonschema

SCHEMA = json.loads((Path(__file__).parent.parent / "docs/event.schema.json").read_text())
STRICT = jsonschema.Draft202012Validator(
    SCHEMA | {"patternProperties": {"^_": {}}, "additionalProperties": False},
)


def faults(event):
    """What is wrong with an event."""
    return [f"{'/'.join(map(str, error.path))}: {error.message}" for error in STRICT.iter_errors(event)]
