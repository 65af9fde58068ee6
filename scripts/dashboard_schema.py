#!/usr/bin/env python3
"""Prints the dashboard as TypeScript, to be checked against Grafana's own types (@grafana/schema): `make lint`.

A literal may have only properties of its type. Options and custom field settings have a different type for each kind of
panel.
"""

import json
from pathlib import Path

PLUGINS = {
    "bargauge": "BarGauge", "logs": "Logs", "stat": "Stat", "state-timeline": "StateTimeline", "table": "Table",
    "text": "Text", "timeseries": "TimeSeries",
}  # fmt: skip
FIELDS = ("state-timeline", "table", "timeseries")
# JSON has no enums: use a member's value.
HEAD = """\
import type { Dashboard, AnnotationQuery } from "@grafana/schema";

type Plain<T> = unknown extends T ? T
  : T extends string ? `${T}`
  : T extends number ? number
  : T extends readonly (infer U)[] ? Plain<U>[]
  : T extends object ? { [K in keyof T]: Plain<T[K]> }
  : T;
// What Prometheus' data source adds to an annotation; its types are not published apart.
type PrometheusAnnotation = AnnotationQuery
  & { titleFormat?: string; textFormat?: string; tagKeys?: string; useValueForTime?: boolean; target?: { expr: string; interval: string } };
"""


def typed(name: str, kind: str, value: object) -> None:
    """A constant of a type."""
    print(f"export const {name}: {kind} = {json.dumps(value, indent=2)};")


def main() -> None:
    """The dashboard, then each of its parts with its own type."""
    board = json.loads((Path(__file__).parent.parent / "deploy/grafana-dashboard.json").read_text())
    panels = [
        inner for panel in board["panels"] for inner in (panel, *panel.get("panels", [])) if inner["type"] != "row"
    ]
    print(HEAD)
    for kind in sorted({panel["type"] for panel in panels}):
        folder = kind.replace("-", "")
        path = f"@grafana/schema/dist/esm/raw/composable/{folder}/panelcfg/x/{PLUGINS[kind]}PanelCfg_types.gen"
        print(f'import type * as {PLUGINS[kind]} from "{path}";')
    annotations = board["annotations"].pop("list")
    typed("dashboard", "Plain<Dashboard>", board)
    typed("annotations", "Plain<PrometheusAnnotation>[]", annotations)
    for panel in panels:
        plugin = PLUGINS[panel["type"]]
        typed(f"options{panel['id']}", f"Plain<Partial<{plugin}.Options>>", panel["options"])
        if panel["type"] in FIELDS:
            custom = panel["fieldConfig"]["defaults"]["custom"]
            typed(f"custom{panel['id']}", f"Plain<Partial<{plugin}.FieldConfig>>", custom)


if __name__ == "__main__":
    main()
