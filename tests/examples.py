"""An event as the event path knows it: bash kills nginx."""

from event_record import record

from killsnoopd.event import decode

KILL = decode(
    record(
        time_ns=1_500_000_123, pid=3325, tid=3325, uid=0, ppid=3300, loginuid=1000, sessionid=2, start_ns=0, cgroup=0,
        exe_dev=0, thread_comm=b"bash", target_arg=812, tpid=812, tuid=33, tstart_ns=0, tcgroup=0,
    )
)  # fmt: skip
BASH, NGINX = KILL.sender, KILL.target
