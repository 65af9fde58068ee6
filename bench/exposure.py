#!/usr/bin/env python3
"""What each line of a unit is worth: its `systemd-analyze security` score with and without that line.

python3 bench/exposure.py deploy/killsnoopd.service deploy/killsnoopd-probe.service
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

SCORED = re.compile(r"^(?!Type|EnvironmentFile|Exec|Restart|Timeout|WatchdogSec|RemainAfterExit|User)[A-Z]\w+=")


def exposure(name: str, text: str) -> str:
    """The score of a unit: 0 is closed, 10 is open; source: systemd-analyze(1)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_text(text)
        command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(path)]
        output = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return re.search(r"Overall exposure level for \S+: ([\d.]+)", output)[1]


def main() -> None:
    """Entry point."""
    for unit in map(Path, sys.argv[1:]):
        text = unit.read_text()
        print(f"{unit.name}: {exposure(unit.name, text)}")
        for line in text.partition("[Service]\n")[2].partition("\n[Install]")[0].splitlines():
            if SCORED.match(line):
                print(f"  {exposure(unit.name, text.replace(line, '', 1))} without {line}")


if __name__ == "__main__":
    main()
