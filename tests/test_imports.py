"""The wings of the package: imports run one way, without a circle."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import killsnoopd

ROOT = Path(killsnoopd.__file__).parent
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in ROOT.rglob("*.py")
    if path.name != "__init__.py"
}
TOP = "top floor"
# What a wing may import besides itself. The daemon puts everything together and may import everything.
ARROWS = {
    TOP: set(),
    "probe": {TOP},
    "events": {TOP, "probe"},
    "metrics": {TOP, "probe"},
    "web": {TOP, "metrics"},
    "query": {TOP, "events"},
}
FREE = ("check", "daemon", "__main__")


def wing(module):
    return module.partition(".")[0] if "." in module else TOP


def imports(module):
    """The modules of the package that a module imports, at its top or in a function."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "killsnoopd":
            base = node.module.removeprefix("killsnoopd").removeprefix(".")
            for alias in node.names:
                inside = f"{base}.{alias.name}".removeprefix(".")
                found.add(inside if inside in MODULES else base)
    return {name for name in found if name in MODULES}


def test_arrows():
    """A wing imports only the wings that it may."""
    wrong = {
        (module, imported)
        for module in MODULES
        if module not in FREE
        for imported in imports(module)
        if wing(imported) not in ARROWS[wing(module)] | {wing(module)}
    }
    assert wrong == set()


def test_no_circle():
    """The modules can be ordered so that each comes after those it imports."""
    order = list(TopologicalSorter({module: imports(module) for module in MODULES}).static_order())
    assert order.index("probe.libbpf") < order.index("probe.attached") < order.index("daemon")


def test_every_module_has_a_test():
    """Each module has a test file of the same name, or is tested as part of the whole by tests/kernel."""
    here = Path(__file__).parent
    tested = {
        "__main__": "kernel/running.py", "privileges": "kernel/test_powerless.py", "settings": "probe/test_program.py",
        "probe.objects": "probe/test_handover.py", "probe.libbpf": "kernel/test_powerless.py",
        "probe.pins": "kernel/test_pins.py", "probe.start": "kernel/test_refusals.py",
        "probe.self_test": "kernel/test_refusals.py", "web.connection": "web/test_connections.py",
        "web.config_file": "web/test_config.py", "web.tls": "web/test_config.py", "web.passwords": "web/test_secured.py",
        "web.policy": "web/test_server.py", "failure": "test_install.py",
        "query.output": "query/test_command.py",
    }  # fmt: skip
    for module in MODULES:
        *folders, name = module.split(".")
        path = here.joinpath(*folders, f"test_{name}.py")
        assert path.exists() or (here / tested[module]).exists(), module
