#!/usr/bin/env python3
"""What a fleet costs its Prometheus: series, memory and rule evaluation, with simulated hosts on loopback.

PROMTOOL=$(scripts/promtool) /usr/bin/python3 bench/fleet.py. For each row, a new Prometheus with the shipped rules
scrapes the hosts every five seconds, and is queried after a minute. The time of all rules is the least of several,
since other load only adds.
"""

import argparse
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests"), str(HERE.parent / "tests/prometheus")]

from fleet import Fleet, Host  # noqa: E402
from servers import RULES, Prometheus  # noqa: E402
from waiting import wait_for  # noqa: E402


def up(prometheus: Prometheus, hosts: int) -> bool:
    """Whether every host was scraped."""
    return prometheus.query("sum(up)").get(frozenset()) == hosts


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=50)
    parser.add_argument("--senders", default="10,100", help="process names on each host")
    parser.add_argument("--seconds", type=float, default=60)
    args = parser.parse_args()
    heads = ("hosts", "senders", "series/host", "head series", "of hosts", "of fleet", "RSS MB", "rules ms")
    print(" ".join(f"{head:>11}" for head in heads))
    for senders in map(int, args.senders.split(",")):
        hosts = [Host(number) for number in range(args.hosts)]
        for host in hosts:
            # Each sends SIGTERM; one of five also sends SIGKILL.
            host.signals = {(f"sender{n}", "SIGTERM", 0): 1 for n in range(senders)}
            host.signals |= {(f"sender{n}", "SIGKILL", 0): 1 for n in range(0, senders, 5)}
        with tempfile.TemporaryDirectory() as folder, Fleet(hosts) as fleet:
            config = {
                "global": {"scrape_interval": "5s", "scrape_timeout": "5s", "evaluation_interval": "5s"},
                "rule_files": [str(RULES / "*.yml")],
                "scrape_configs": [fleet.scrape_config()],
            }
            with Prometheus(Path(folder) / "prometheus", config) as prometheus:
                all_up = partial(up, prometheus, args.hosts)
                wait_for(all_up, "all hosts to be scraped")
                rules_s = []
                end = time.monotonic() + args.seconds
                while time.monotonic() < end:
                    time.sleep(2)
                    rules_s.append(prometheus.own("prometheus_rule_group_last_duration_seconds"))
                (scraped,) = prometheus.query("sum(scrape_samples_scraped)").values()
                (of_fleet,) = prometheus.query('count({__name__=~"job.*:killsnoop.*"})').values()
                (of_hosts,) = prometheus.query('count({__name__=~"instance.*:killsnoop.*"})').values()
                own = prometheus.own
                values = (
                    args.hosts,
                    senders,
                    scraped / args.hosts,
                    own("prometheus_tsdb_head_series"),
                    of_hosts,
                    of_fleet,
                    own("process_resident_memory_bytes") / 1e6,
                    min(rules_s) * 1e3,
                )
                print(" ".join(f"{value:11.0f}" for value in values), flush=True)


if __name__ == "__main__":
    main()
