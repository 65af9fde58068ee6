"""Keeps --web.config.file current: read at start, and again when it or a file that it names changes."""

import logging
import ssl
from asyncio import BaseTransport
from pathlib import Path

from killsnoopd.failure import Exit, Failure
from killsnoopd.web import tls
from killsnoopd.web.config import WebConfig, parse
from killsnoopd.web.passwords import Passwords

log = logging.getLogger("killsnoopd")


class WebConfigFile:
    """The current web configuration; empty without a path. The constructor raises Failure if the file is invalid.

    Each request and each connection checks whether a file has changed, so a new certificate needs no signal. An invalid
    file, perhaps half written, is logged once, and the former configuration stays in force.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._config = WebConfig()
        self._context: ssl.SSLContext | None = None
        self._seen: dict[Path, object] = {}  # the files read, and their stamps
        self.passwords = Passwords(_checkpw)
        if path:
            try:
                self._read(path)
            except (OSError, ValueError) as error:
                raise Failure(Exit.CONFIG, f"{_wrong(path, error)}; fix it or remove the flag") from None

    def fresh(self) -> WebConfig:
        """The current configuration. Costs a stat(2) for each file."""
        if any(_stamp(path) != stamp for path, stamp in self._seen.items()):
            self.reload()
        return self._config

    def tls(self) -> ssl.SSLContext | None:
        """The TLS context for a new connection; None for plain HTTP."""
        self.fresh()
        return self._context

    def admits(self, transport: BaseTransport) -> bool:
        """Whether the client's certificate on a new connection is accepted."""
        return self._config.tls is None or tls.admits(self._config.tls, transport)

    def reload(self) -> None:
        """Read the file again. If it is invalid, log that and keep the former configuration."""
        if not self._path:
            return
        try:
            self._read(self._path)
        except (OSError, ValueError, Failure) as error:
            log.error("%s; the previous configuration stays in use", _wrong(self._path, error))
        else:
            log.info("reloaded %s", self._path)

    def _read(self, path: Path) -> None:
        seen: dict[Path, object] = {}

        def read(file: Path) -> bytes:
            seen[file] = _stamp(file)  # first: a file that changes meanwhile is then read again
            return file.read_bytes()

        try:
            config = parse(read(path).decode(), path.parent, read)
            context = tls.context(config.tls) if config.tls else None
            if config.users:
                _need_bcrypt()
        finally:
            self._seen = seen
        self.passwords.forget()
        self._config, self._context = config, context


def _stamp(path: Path) -> object:
    """A value that changes when the file is changed or replaced; None if it cannot be read."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev


def _wrong(path: Path, error: Exception) -> str:
    if isinstance(error, Failure):
        return str(error)
    return f"--web.config.file={path}: {error.strerror if isinstance(error, OSError) else error}"


def _need_bcrypt() -> None:
    try:
        import bcrypt  # noqa: F401
    except ImportError:
        raise Failure(
            Exit.CONFIG, "basic_auth_users needs bcrypt: install python3-bcrypt (with pip: killsnoopd[web])"
        ) from None


def _checkpw(password: bytes, hashed: bytes) -> bool:
    import bcrypt

    return bool(bcrypt.checkpw(password, hashed))
