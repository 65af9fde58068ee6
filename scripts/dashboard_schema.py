#!/usr/bin/env python3
"""Prints the dashboard as TypeScript, for Grafana's own types (@grafana/schema) to be held against it: `make lint`.

A literal may have no property that its type does not know. Options, and what is custom to a field, are another type for every kind of panel.
"""

import json
from pathlib import Path

PLUGINS = {
    "bargauge": "BarGauge", "logs": "Logs", "stat": "Stat", "state-timeline": "StateTimeline", "table": "Table",
    "text": "Text", "timeseries": "TimeSeries",
}  # fmt: skip
FIELDS = ("state-timeline", "table", "timeseries")
# JSON has no enums: a member of one is its value.
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
    """The dashboard, then its parts by their own types."""
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
