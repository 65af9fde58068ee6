"""Logged events."""


def record(kind="delivery", **fields):
    """A logged event; field names without their prefix."""
    values = {
        "EVENT": kind, "TIMESTAMP": "2026-11-22T03:00:00.000000Z", "PID": "3325", "COMM": "bash", "UID": "0",
        "SIGNAL": "SIGKILL", "SIG": "9", "TPID": "812", "TCOMM": "nginx", "RES": "0", "RESULT": "success",
        "OUTCOME": "delivered", "ORIGIN": "syscall", "SYSCALL": "kill", "UNIT": "ssh.service", "TARGET_UNIT": "nginx.service",
    } | fields  # fmt: skip
    return {f"KILLSNOOP_{name}": value for name, value in values.items() if value is not None}


def death(tcomm="nginx", tpid="812", second=0, **fields):
    time = f"2026-11-22T03:{second // 60:02d}:{second % 60:02d}.000000Z"
    values = {"TCOMM": tcomm, "TPID": tpid, "OUTCOME": "died", "ELAPSED_MS": "1.432", "TIMESTAMP": time}
    return record("death", **values | fields)


def exit_after(tcomm="nginx", tpid="812", second=0, **fields):
    """An exit soon after a SIGTERM that systemd sent."""
    values = {"SIGNAL": "SIGTERM", "SIG": "15", "PID": "1", "COMM": "systemd", "UNIT": None, "EXIT_STATUS": "0",
              "OUTCOME": None, "ELAPSED_MS": "800.000"}  # fmt: skip
    return death(tcomm, tpid, second, **values | {"EVENT": "exit"} | fields)
