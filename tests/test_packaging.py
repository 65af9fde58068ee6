"""The Debian package: that their versions, files and dependencies are those of everything else."""

import re
from pathlib import Path

from killsnoopd import __version__

TOP = Path(__file__).parent.parent
CONTROL = (TOP / "debian/control").read_text()
RULES = (TOP / "debian/rules").read_text()
CHANGES = (TOP / "debian/changelog").read_text()


def names(text):
    """Names of packages in a list with versions."""
    return set(re.findall(r"^\s*([a-z][\w.+-]+)", text, re.M))


def test_one_version():
    """killsnoopd's own, and that of the newest entry in each list of changes."""
    assert re.match(r"killsnoopd \((\S+)\) ", CHANGES)[1] == __version__
    assert re.search(r"^## (\d[\w.]*)", (TOP / "CHANGELOG.md").read_text(), re.M)[1] == __version__


def test_released_in_all_lists_or_in_none():
    """What is not released yet is UNRELEASED for Debian, too."""
    heading = re.search(r"^## .*$", (TOP / "CHANGELOG.md").read_text(), re.M)[0]
    assert ("not released" in heading) == ("UNRELEASED" in CHANGES.partition("\n")[0])


def test_the_dependencies_are_those_of_install_packages():
    """`make run` installs what the packages depend on."""
    debian, _ = re.findall(r'^\tpackages="(python3-b[^"]*)"', (TOP / "scripts/install-packages").read_text(), re.M)
    depends = CONTROL.partition("\nDepends: ")[2].partition("\nDescription")[0]
    assert names(depends) == set(debian.split())


def test_the_packages_that_build_the_package():
    """`make deb` installs what debian/control asks for."""
    listed = re.search(r'packages="(build-essential [^"]*)"', (TOP / "scripts/install-packages").read_text())[1].split()
    asked = names(CONTROL.partition("Build-Depends: ")[2].partition("\nRules")[0])
    provided_by = {"debhelper-compat": "debhelper", "dh-sequence-python3": "dh-python"}
    assert {provided_by.get(name, name) for name in asked} <= set(listed)


def test_an_upgrade_restarts_the_daemon_alone():
    """The socket and the probe stay: a probe that is stopped forgets its counters."""
    calls = re.findall(r"^\tdh_installsystemd (.*)$", RULES, re.M)
    assert calls == ["killsnoopd.service", "--no-restart-after-upgrade --no-stop-on-upgrade killsnoopd.socket"]


def test_removal_stops_the_probe():
    """But only removal."""
    prerm = (TOP / "debian/killsnoopd.prerm").read_text().partition("#DEBHELPER#")[2]
    assert re.search(r'^if \[ "\$1" = remove \].*\n\tdeb-systemd-invoke stop killsnoopd-probe.service', prerm, re.M)


def test_every_unit_is_enabled_or_needed_by_one_that_is():
    """The package enables the units that can be enabled."""
    units = {path.name for path in (TOP / "deploy").glob("*.*") if "\n[Install]\n" in path.read_text()}
    assert units == {"killsnoopd.service", "killsnoopd.socket"}
    assert {call.split()[-1] for call in re.findall(r"^\tdh_installsystemd (.*)$", RULES, re.M)} == units
