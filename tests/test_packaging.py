"""Debian package and RPM: versions, files and dependencies agree with the rest of the project."""

import re
import subprocess
from pathlib import Path

import pytest

from killsnoopd import __version__

TOP = Path(__file__).parent.parent
CONTROL = (TOP / "debian/control").read_text()
RULES = (TOP / "debian/rules").read_text()
CHANGES = (TOP / "debian/changelog").read_text()
SPEC = (TOP / "packaging/killsnoopd.spec").read_text()
# As in Fedora's rpm and its systemd-rpm-macros.
MACROS = {
    "_prefix": "/usr", "_bindir": "/usr/bin", "_datadir": "/usr/share", "_mandir": "/usr/share/man",
    "_sysconfdir": "/etc", "_unitdir": "/usr/lib/systemd/system", "_journalcatalogdir": "/usr/lib/systemd/catalog",
    "_sysusersdir": "/usr/lib/sysusers.d", "_docdir": "/usr/share/doc",
    "name": "killsnoopd", "private": "%{_prefix}/lib/%{name}",
}  # fmt: skip


def expanded(text):
    while "%{" in text:
        text = re.sub(r"%\{(\w+)\}", lambda match: MACROS[match[1]], text)
    return text


def section(name):
    return re.search(rf"^%{name}\n(.*?)(?=\n%[a-z]+\n|\Z)", SPEC, re.M | re.S)[1]


def names(text):
    """Names of packages in a list with versions."""
    return set(re.findall(r"^\s*([a-z][\w.+-]+)", text, re.M))


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Every path that `make install` creates."""
    root = tmp_path_factory.mktemp("root")
    subprocess.run(
        ["make", "-C", TOP, "install", f"DESTDIR={root}", "PREFIX=/usr", "SYSCONFDIR=/etc"],
        check=True,
        capture_output=True,
    )
    return {f"/{path.relative_to(root)}" for path in root.rglob("*") if path.is_file()}


def test_one_version():
    """killsnoopd's version is that of the newest entry in each changelog."""
    assert re.match(r"killsnoopd \((\S+)\) ", CHANGES)[1] == __version__
    assert re.search(r"^## (\d[\w.]*)", (TOP / "CHANGELOG.md").read_text(), re.M)[1] == __version__
    assert re.search(r"^Version: +(\S+)$", SPEC, re.M)[1] == __version__
    assert re.search(r"^\* .* - (\S+)-\d+$", SPEC, re.M)[1] == __version__


def test_released_in_all_lists_or_in_none():
    """Debian's changelog says UNRELEASED until the release."""
    heading = re.search(r"^## .*$", (TOP / "CHANGELOG.md").read_text(), re.M)[0]
    assert ("not released" in heading) == ("UNRELEASED" in CHANGES.partition("\n")[0])


def test_the_dependencies_are_those_of_install_packages():
    """`make run` installs the packages' dependencies, on Debian and on Fedora."""
    debian, fedora = re.findall(r'^\tpackages="(python3-b[^"]*)"', (TOP / "scripts/install-packages").read_text(), re.M)
    depends = CONTROL.partition("\nDepends: ")[2].partition("\nRecommends")[0]
    assert names(depends) == set(debian.split())
    assert set(re.findall(r"^Requires: +(\S+)", SPEC, re.M)) - {"python3"} == set(fedora.split())


def test_what_a_flag_needs_is_recommended():
    """--web.config.file needs YAML and bcrypt: both packages recommend them, pip has an extra."""
    assert set(re.search(r"^Recommends: (.*),$", CONTROL, re.M)[1].split(", ")) == {"python3-yaml", "python3-bcrypt"}
    assert set(re.findall(r"^Recommends: +(\S+)", SPEC, re.M)) == {"python3-pyyaml", "python3-bcrypt"}
    extra = re.search(r"^web = \[(.*?)\]", (TOP / "pyproject.toml").read_text(), re.M)[1]
    assert set(re.findall(r'"(\w+)>=', extra)) == {"PyYAML", "bcrypt"}
    tested = (TOP / "scripts/install-packages").read_text()
    assert "python3-yaml python3-bcrypt" in tested
    assert "python3-pyyaml python3-bcrypt" in tested


def test_the_packages_that_build_the_package():
    """`make deb` installs the build dependencies of debian/control."""
    listed = re.search(r'packages="(build-essential [^"]*)"', (TOP / "scripts/install-packages").read_text())[1].split()
    asked = names(CONTROL.partition("Build-Depends: ")[2].partition("\nRules")[0])
    provided_by = {"debhelper-compat": "debhelper", "dh-sequence-python3": "dh-python"}
    assert {provided_by.get(name, name) for name in asked} <= set(listed)


def test_the_spec_lists_every_file(installed):
    """rpmbuild fails on an installed file that is not listed, and on a listed one that is not installed."""
    entries = [expanded(line.split()[-1]) for line in section("files").splitlines() if "/" in line]
    entries = [entry for entry in entries if entry.startswith("/")]
    assert len(entries) == len(set(entries))
    patterns = [re.escape(entry).replace(r"\*", "[^/]*") + (".*" if entry.endswith("/") else "") for entry in entries]
    assert [path for path in sorted(installed) if not any(re.fullmatch(pattern, path) for pattern in patterns)] == []
    assert [pattern for pattern in patterns if not any(re.fullmatch(pattern, path) for path in installed)] == []


def test_what_other_programs_read_is_not_compressed(installed):
    """debhelper compresses large documents, but not the rules and the dashboard."""
    kept = re.findall(r"-X(\S+)", re.search(r"^\tdh_compress (.*)$", RULES, re.M)[1])
    documents = [path for path in installed if path.startswith("/usr/share/doc/") and path.endswith((".yml", ".json"))]
    assert len(documents) > 5
    assert all(any(part in path for part in kept) for path in documents)


def test_an_upgrade_restarts_the_daemon_alone():
    """Socket and probe keep running: a stopped probe loses its counters."""
    calls = re.findall(r"^\tdh_installsystemd (.*)$", RULES, re.M)
    assert calls == ["killsnoopd.service", "--no-restart-after-upgrade --no-stop-on-upgrade killsnoopd.socket"]
    assert re.findall(r"^%systemd_postun\w* .*$", SPEC, re.M) == ["%systemd_postun_with_restart killsnoopd.service"]


def test_removal_stops_the_probe():
    """An upgrade does not."""
    prerm = (TOP / "debian/killsnoopd.prerm").read_text().partition("#DEBHELPER#")[2]
    assert re.search(r'^if \[ "\$1" = remove \].*\n\tdeb-systemd-invoke stop killsnoopd-probe.service', prerm, re.M)
    assert "%systemd_preun killsnoopd.socket killsnoopd.service killsnoopd-probe.service" in SPEC


def test_every_unit_is_enabled_or_needed_by_one_that_is():
    """Both packages enable every unit that has an [Install] section."""
    units = {path.name for path in (TOP / "deploy").glob("*.*") if "\n[Install]\n" in path.read_text()}
    assert units == {"killsnoopd.service", "killsnoopd.socket"}
    assert set(re.search(r"^%systemd_post (.*)$", SPEC, re.M)[1].split()) == units
    assert {call.split()[-1] for call in re.findall(r"^\tdh_installsystemd (.*)$", RULES, re.M)} == units
