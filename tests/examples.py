"""An event as the event path knows it: bash kills nginx."""

from killsnoopd.event import Event, Place, Sender, Target

NOWHERE = Place(0, ())
BASH = Sender(
    pid=3325, tid=3325, uid=0, ppid=3300, loginuid=1000, sessionid=2, ns_pid=None, start_ns=0,
    comm="bash", thread_comm="bash", parent_comm="sshd", place=NOWHERE, exe_dev=0, exe_names=(),
)  # fmt: skip
NGINX = Target(pid=812, uid=33, ns_pid=None, start_ns=0, comm="nginx", place=NOWHERE)
KILL = Event(
    kind="delivery", time_ns=1_500_000_123, sig=9, code=0, res=0, origin="syscall", syscall="kill", target_arg=812,
    outcome="delivered", compat=False, died_after_ns=None, escalation_ns=None, namespace_end=False,
    inferred=False, self_test=False,
    sender=BASH, target=NGINX,
)  # fmt: skip
