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


def test_every_module_has_a_test_file():
    """Of the same name, in the folder of its wing. Only `python -m killsnoopd` has none."""
    here = Path(__file__).parent
    paths = {module: here.joinpath(*module.split(".")[:-1], f"test_{module.split('.')[-1]}.py") for module in MODULES}
    assert [module for module, path in paths.items() if not path.exists()] == ["__main__"]
