"""The role in deploy/ansible, compared with what it installs."""

import re
from pathlib import Path

import yaml

TOP = Path(__file__).parent.parent
ROLE = TOP / "deploy/ansible/killsnoopd"


def tasks():
    return yaml.safe_load((ROLE / "tasks/main.yml").read_text())


def test_it_starts_the_units_that_can_be_enabled():
    """The same units as both packages."""
    units = {path.name for path in (TOP / "deploy").glob("*.*") if "\n[Install]\n" in path.read_text()}
    (started,) = [task["loop"] for task in tasks() if "loop" in task]
    assert set(started) == units


def test_it_writes_the_flags_as_the_unit_reads_them():
    """It writes them before the package is installed: installing starts the daemon, and dpkg keeps the file."""
    template = (ROLE / "templates/default.j2").read_text()
    shipped = (TOP / "deploy/killsnoopd.default").read_text()
    assert re.search(r'^ARGS="(.*)"$', shipped, re.M)
    assert re.search(r'^ARGS="\{\{ killsnoopd_flags \| join\(\' \'\) \}\}"$', template, re.M)
    order = [name for task in tasks() for name in task if name in ("ansible.builtin.template", "ansible.builtin.apt")]
    assert order == ["ansible.builtin.template", "ansible.builtin.apt"]
    (apt,) = [task["ansible.builtin.apt"] for task in tasks() if "ansible.builtin.apt" in task]
    assert apt["dpkg_options"] == "force-confold"
    (path,) = [task["ansible.builtin.template"]["dest"] for task in tasks() if "ansible.builtin.template" in task]
    assert f"EnvironmentFile=-{path}\n" in (TOP / "deploy/killsnoopd.service").read_text()


def test_its_variables_are_documented():
    """docs/packaging.md lists each."""
    variables = set(yaml.safe_load((ROLE / "defaults/main.yml").read_text()))
    section = (TOP / "docs/packaging.md").read_text().partition("## Ansible")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)`", section, re.M)) == variables
    used = {name for path in ROLE.rglob("*.*") for name in re.findall(r"\bkillsnoopd_[a-z_]+\b", path.read_text())}
    assert used == variables


def test_what_notifies_is_handled():
    """Each notified handler exists."""
    handlers = yaml.safe_load((ROLE / "handlers/main.yml").read_text())
    assert {task["notify"] for task in tasks() if "notify" in task} == {handler["name"] for handler in handlers}
