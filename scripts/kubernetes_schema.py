#!/usr/bin/env python3
"""Validates built manifests: `--kubernetes VERSION` with Kubernetes' schemas; `--operator` prints a module, valid as
JavaScript and as TypeScript, that checks the Prometheus operator's objects with the operator's types.
"""

import json
import sys
from pathlib import Path

import kubernetes_validate
import yaml

OPERATOR = "monitoring.coreos.com/v1"


def documents(paths: list[str]) -> list[tuple[str, dict]]:
    """Every object, and its file."""
    return [(path, document) for path in paths for document in yaml.safe_load_all(Path(path).read_text())]


def main() -> None:
    """Print nothing if all objects are valid."""
    if sys.argv[1] == "--kubernetes":
        found = [(path, item) for path, item in documents(sys.argv[3:]) if item["apiVersion"] != OPERATOR]
        for path, item in found:
            try:
                kubernetes_validate.validate(item, sys.argv[2], strict=True)
            except kubernetes_validate.ValidationError as error:
                sys.exit(f"{path}: {item['kind']} at {'.'.join(map(str, error.path))}: {error.message}")
        assert {"DaemonSet", "NetworkPolicy", "PriorityClass", "Service"} <= {item["kind"] for _, item in found}
        return
    found = [(path, item) for path, item in documents(sys.argv[2:]) if item["apiVersion"] == OPERATOR]
    kinds = sorted({item["kind"] for _, item in found})
    assert kinds == ["PodMonitor", "PrometheusRule", "ServiceMonitor"]
    for kind in kinds:
        print(f'import {{ {kind} }} from "@kubernetes-models/prometheus-operator/{OPERATOR}/{kind}";')
    for path, item in found:
        own = json.dumps({key: value for key, value in item.items() if key not in ("apiVersion", "kind")})
        print(f"try {{ new {item['kind']}({own}).validate(); }}")
        print(f"catch (error) {{ throw new Error({json.dumps(f'{path}: ')} + error); }}")


if __name__ == "__main__":
    main()
