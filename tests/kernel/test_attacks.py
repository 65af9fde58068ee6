"""What any local user can do to the probe: names without end, floods, uids without end. Nothing is lost, nobody is hidden."""

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import time
from itertools import pairwise

from senders import CORES, NO_SUCH_PID, attack, forked, run, send, set_name, victim
from waiting import wait_for

ATTACKER, VICTIM = 20_001, 20_002  # uids
SUBUIDS = 100_000
FLOOD_S = 30
MILLION = 1_000_000
PAGES_KB = 4096  # twice the page: no two builds of it find the same room in the heap
AGED = frozenset({"signal": "SIGRTMIN+16", "result": "ESRCH"}.items())


def flood():
    while True:
        send("kill", NO_SUCH_PID, 15)


def numbered(count, pace_s=0.01):
    """One failed call after the other, each with a pid of its own."""
    for number in range(count):
        send("kill", NO_SUCH_PID - number, 9)
        time.sleep(pace_s)


def told(daemon, comm):
    """The numbers of `numbered`, in the order in which they were logged."""
    return [NO_SUCH_PID - int(event["KILLSNOOP_TPID"]) for event in daemon.events(comm)]


def test_a_million_names(start, record_property):
    """The page is bounded, memory is flat, the sum is exact; names seen before are still counted under their own label."""
    daemon = start("--events.target=none")

    def names(first, count):
        for number in range(first, first + count):
            set_name(b"ks-%d" % number)
            # Each second one with a signal number of its own that is none.
            send("kill", NO_SUCH_PID, 9 if number % 2 else 100 + number)

    def peak():
        """The page, and the most memory seen while it is read: the heap takes ten builds of it to find its size."""
        readings = [(daemon.signals(), int(daemon.status("VmRSS"))) for _ in range(20)]
        return readings[-1][0], max(kb for _, kb in readings)

    run(lambda: numbered(7, 0), b"ks-early")
    run(lambda: names(0, 20_000))  # more than there are counters
    full, before_kb = peak()
    share = (MILLION - 20_000) // CORES
    for pid in [forked(lambda n=n: names(20_000 + n * share, share)) for n in range(CORES)]:
        assert os.waitpid(pid, 0)[1] == 0
    run(lambda: numbered(5, 0), b"ks-early")
    names_kb = int(daemon.status("VmRSS")) - before_kb  # no page has been built since
    found, after_kb = peak()
    pages_kb = after_kb - before_kb
    record_property("rss_grown_kb", (names_kb, pages_kb))
    assert set(full) == set(found)
    assert len(found) < 10_000 + 66 * 8
    assert found["ks-early", "SIGKILL", "ESRCH"] == 12
    ours = {("SIGKILL", "ESRCH"), ("invalid", "ESRCH"), ("invalid", "EINVAL")}
    calls = {
        key: n for key, n in found.items() if key[1:] in ours and (key[0].startswith("ks-") or key[0] == "(other)")
    }
    assert sum(calls.values()) == 20_000 + share * CORES + 12
    assert daemon.value("killsnoop_series_overflow_total", family="signals") > 900_000
    assert names_kb < 1024
    assert pages_kb < PAGES_KB


def test_names_that_are_idle_make_room(start):
    """They age out, and new ones get their counters; a busy one stays; no sum goes down, no name's own count does."""
    daemon = start("--metrics.max-series=40", "--metrics.series-ttl=12", "--events.target=none")
    sent, readings = 0, []

    def call(name, times=1):
        nonlocal sent
        run(lambda: [send("kill", NO_SUCH_PID, 50) for _ in range(times)], name)
        sent += times

    def read():
        samples = daemon.samples()
        found = {
            dict(labels)["comm"]: n
            for (name, labels), n in samples.items()
            if name == "killsnoop_signals_total" and ("signal", "SIGRTMIN+16") in labels
        }
        found[None] = samples.get(("killsnoop_signals_aged_total", AGED), 0)
        readings.append(found)
        return found

    for number in range(60):
        call(b"ks-old%d" % number, 3)
    held = {name for name in read() if name and name.startswith("ks-old")}
    assert 0 < len(held) <= 40
    named_again = held.copy().pop()
    # New names look for old ones that are idle, and after a while they have their counters.
    for number in range(400):
        call(b"ks-new%d" % (number % 20))
        call(b"ks-busy")
        call(named_again.encode())
        if sum(name.startswith("ks-new") for name in read() if name) == 20:
            break
        time.sleep(0.1)
    last = read()
    assert sum(name.startswith("ks-new") for name in last if name) == 20
    assert last[None] > 0
    assert {named_again} <= {name for name in last if name and name.startswith("ks-old")} < held
    assert sum(last.values()) == sent
    assert daemon.value("killsnoop_series_recycled_total", family="signals") >= 20
    sums = [sum(reading.values()) for reading in readings]
    assert sums == sorted(sums)
    for earlier, later in pairwise(readings):
        assert all(later[name] >= calls for name, calls in earlier.items() if name in later)
        assert earlier[None] <= later[None]
    assert "ks-busy" in last
    total = sum(daemon.signals().values()) + last[None]
    daemon.stop()
    assert int(re.search(r"stopped: (\d+) signals counted", daemon.stderr.read_text())[1]) >= total


def test_a_flood_hides_nobody_else(start, record_property):
    """One uid calls kill() on every core for half a minute; another one's 1,000 calls at 100 a second are logged, all of
    them, in order."""
    daemon = start()
    with attack(flood, uid=ATTACKER):
        wait_for(lambda: daemon.ledger()["rate_limited"] > 0, "the flood to be over its limit")
        before_s, began_s = daemon.on_cpu_s(), time.monotonic()
        sender = forked(lambda: numbered(1000), b"ks-quiet", VICTIM)
        slowest_s = 0.0
        while time.monotonic() - began_s < FLOOD_S:
            asked_s = time.monotonic()
            page = daemon.get()
            slowest_s = max(slowest_s, time.monotonic() - asked_s)
            time.sleep(1)
        share = (daemon.on_cpu_s() - before_s) / (time.monotonic() - began_s)
        assert os.waitpid(sender, os.WNOHANG) == (sender, 0)  # it has long ended
        assert 'comm="ks-quiet"' in page
    record_property("cpu_share_of_a_core", round(share, 3))
    record_property("slowest_scrape_s", round(slowest_s, 3))
    assert slowest_s < 1
    assert told(daemon, "ks-quiet") == list(range(1000))
    assert daemon.signals("ks-quiet") == {("ks-quiet", "SIGKILL", "ESRCH"): 1000}
    assert daemon.signals("ks-attack")["ks-attack", "SIGTERM", "ESRCH"] > 100_000
    ledger = daemon.settled_ledger()
    assert sum(ledger.values()) == daemon.attempted()
    assert share < 0.1


def test_many_who_flood_share_what_one_may_cost(start, record_property):
    """Twenty uids flood at once, some twice as fast as one may log, some a little slower: logging costs no more of a core
    than one uid's flood; who does not flood has every event logged, in order, even if first seen in a crowd of newcomers.

    They rest in between: the daemon could have most of a core.
    """
    daemon = start()

    def paced_flood(pace_s):
        while True:
            send("kill", NO_SUCH_PID, 15)
            time.sleep(pace_s)

    def newcomer():
        for uid in range(ATTACKER + 200, ATTACKER + 250):
            os.setresuid(uid, 0, 0)
            send("kill", NO_SUCH_PID, 15)
        os.setresuid(ATTACKER + 300, 0, 0)
        set_name(b"ks-newcomer")
        numbered(2500)

    run(lambda: numbered(1, 0), b"ks-quiet", VICTIM)
    with contextlib.ExitStack() as stack:
        for uid in range(20):
            pace_s = 0.002 if uid % 2 else 0.001
            flooder = attack(lambda pace_s=pace_s: paced_flood(pace_s), uid=ATTACKER + 100 + uid, processes=1)
            stack.enter_context(flooder)
        before_s, began_s = daemon.on_cpu_s(), time.monotonic()
        late = forked(newcomer, b"ks-crowd")
        run(lambda: numbered(2500), b"ks-quiet", VICTIM)  # for 25 seconds: what was saved up counts, too
        share = (daemon.on_cpu_s() - before_s) / (time.monotonic() - began_s)
        assert os.waitpid(late, 0)[1] == 0
    record_property("cpu_share_of_a_core", round(share, 3))
    assert share < 0.1
    assert told(daemon, "ks-quiet") == [0, *range(2500)]
    assert told(daemon, "ks-newcomer") == list(range(2500))
    ledger = daemon.settled_ledger()
    assert ledger["ring_full"] == 0
    assert sum(ledger.values()) == daemon.attempted()


def test_a_flood_is_known_for_one_whatever_the_rate(start):
    """A CPU caches for a jiffy that a bucket is over its limit, and skips it: a heavy sender must still count as heavy,
    though the rate allows more events than there are jiffies."""
    daemon = start("--events.rate=5000")
    run(lambda: numbered(1, 0), b"ks-quiet", VICTIM)
    with contextlib.ExitStack() as stack:
        for uid in range(4):
            stack.enter_context(attack(flood, uid=ATTACKER + 100 + uid, processes=1))
        wait_for(lambda: daemon.ledger()["rate_limited"] > 1_000_000, "the floods to be over their limits")
        run(lambda: numbered(500), b"ks-quiet", VICTIM)
    assert told(daemon, "ks-quiet") == [0, *range(500)]
    ledger = daemon.settled_ledger()
    assert ledger["ring_full"] == 0
    assert sum(ledger.values()) == daemon.attempted()


def test_a_flood_does_not_hide_its_own_kill(start):
    """Among a uid's own events, what kills comes before what failed."""
    daemon = start("--events.rate=20", "--events.burst=20")
    with victim() as target, attack(flood):  # both as root
        wait_for(lambda: daemon.ledger()["rate_limited"] > 10_000, "the flood to be over its limit")
        os.kill(target, signal.SIGKILL)
        wait_for(lambda: os.waitid(os.P_PID, target, os.WEXITED | os.WNOHANG | os.WNOWAIT), "the victim to die")
        wait_for(lambda: f'"KILLSNOOP_TPID": "{target}"' in daemon.stdout.read_text(), "the event")
    kinds = {event["KILLSNOOP_EVENT"] for event in daemon.events() if event["KILLSNOOP_TPID"] == str(target)}
    assert kinds == {"delivery", "death"}


def test_a_flood_leaves_room_while_nobody_reads(start):
    """The daemon is stopped, or the journal slow, and one uid floods with what may kill: others' events find room all the
    same, for who has spent his burst gets the less the more waits to be logged."""
    daemon = start()

    def deadly_flood():
        signal.signal(signal.SIGTERM, lambda *_: None)
        while True:
            send("kill", os.getpid(), signal.SIGTERM)

    os.kill(daemon.pid, signal.SIGSTOP)
    with attack(deadly_flood, uid=ATTACKER):
        time.sleep(5)
        run(lambda: numbered(500), b"ks-quiet", VICTIM)
    os.kill(daemon.pid, signal.SIGCONT)
    assert told(daemon, "ks-quiet") == list(range(500))
    ledger = daemon.settled_ledger()
    assert ledger["ring_full"] == 0
    assert ledger["rate_limited"] > 100_000
    assert sum(ledger.values()) == daemon.attempted()


def test_uids_without_end_push_nobody_out(start, record_property):
    """A process that may choose its uid tries a hundred thousand of them; a uid seen before has every event logged."""
    daemon = start()

    def change_uids():
        libc = ctypes.CDLL(None)
        for uid in range(1_000_000, 1_000_000 + 60 * MILLION):
            libc.setresuid(uid, 0, 0)
            send("kill", NO_SUCH_PID, 15)

    run(lambda: numbered(1, 0), b"ks-quiet", VICTIM)
    with attack(change_uids):
        sender = forked(lambda: numbered(500), b"ks-quiet", VICTIM)
        assert os.waitpid(sender, 0)[1] == 0
        wait_for(lambda: sum(daemon.signals("ks-attack").values()) > 100_000, "a hundred thousand uids")
    assert told(daemon, "ks-quiet") == [0, *range(500)]
    logged = len(daemon.events("ks-attack"))
    record_property("logged_of_the_attack", logged)
    record_property("calls_of_the_attack", sum(daemon.signals("ks-attack").values()))
    ledger = daemon.settled_ledger()
    assert ledger["ring_full"] == 0
    assert sum(ledger.values()) == daemon.attempted()


def test_all_uids_of_a_user_namespace_are_one(start):
    """A user's own namespace maps 60,000 uids; they share one bucket, which runs empty."""
    daemon = start("--events.rate=10", "--events.burst=100")
    ready, go = os.pipe(), os.pipe()

    def change_uids():
        libc = ctypes.CDLL(None)
        for _ in range(1000):  # as himself: that is his burst
            send("kill", NO_SUCH_PID, 15)
        assert libc.unshare(0x10000000) == 0  # CLONE_NEWUSER
        os.write(ready[1], b".")
        os.read(go[0], 1)
        for uid in range(1, 20_000):
            assert libc.setresuid(uid, 0, 0) == 0
            send("kill", NO_SUCH_PID, 15)

    began_s = time.monotonic()
    pid = forked(change_uids, b"ks-subuids", ATTACKER)
    os.read(ready[0], 1)
    # What newuidmap(1) does for a user, after /etc/subuid.
    subprocess.run(["sh", "-c", f"echo '0 {SUBUIDS} 60000' > /proc/{pid}/uid_map"], check=True)
    os.write(go[1], b".")
    assert os.waitpid(pid, 0)[1] == 0
    lasted_s = time.monotonic() - began_s
    events = daemon.events("ks-subuids")
    assert 100 <= len(events) <= 100 + 10 * (lasted_s + 1)
    assert {int(event["KILLSNOOP_UID"]) for event in events} <= {ATTACKER, *range(SUBUIDS, SUBUIDS + 60_000)}
    assert sum(daemon.signals("ks-subuids").values()) == 20_999
