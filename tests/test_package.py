"""The package as a whole: imports are quick, names do not collide, arrows run downward."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import fusionscope

ROOT = Path(fusionscope.__file__).parent
RANK = {
    "batch": 0,
    "tracing": 1,
    "measures": 2,
    "nn": 2,
    "data": 2,
    "dissection": 3,
    "engine": 4,
    "report": 4,
    "cli": 5,
}


def test_import_and_help_do_not_import_torch() -> None:
    code = (
        "import sys, fusionscope\n"
        "from fusionscope.cli import main\n"
        "for command in ('dissect', 'study', 'trace'):\n"
        "    try:\n        main([command, '--help'])\n    except SystemExit as stop:\n        assert stop.code == 0\n"
        "heavy = {'torch', 'numpy', 'pandas', 'sklearn', 'altair'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Examples:") == 3


def test_no_submodule_hides_a_public_function() -> None:
    for found in pkgutil.walk_packages(fusionscope.__path__, "fusionscope."):
        importlib.import_module(found.name)
    for room in (fusionscope, *(importlib.import_module(f"fusionscope.{name}") for name in RANK if name != "batch")):
        for name in getattr(room, "__all__", []):
            value = getattr(room, name)
            assert not isinstance(value, type(sys)), f"{room.__name__}.{name} is a module"
            assert name in dir(room) or name == "__version__"


def test_rooms_can_be_reached_from_the_package() -> None:
    code = "import fusionscope as fs; print(fs.measures.functional.hsic1.__name__, fs.errors.InputError.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "hsic1 InputError\n", done.stderr


def test_arrows_run_downward() -> None:
    # A dissection's own report() is the one place that looks up, inside the method.
    allowed = {("dissection", "report")}
    for path in ROOT.rglob("*.py"):
        room = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if room not in RANK:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fusionscope."):
                other = (node.module or "").split(".")[1]
                if other in RANK and other != room and (room, other) not in allowed:
                    assert RANK[other] < RANK[room], f"{path.name} in {room} imports {other}"


def test_no_file_is_past_400_lines() -> None:
    long = {str(p.relative_to(ROOT)): n for p in ROOT.rglob("*.py") if (n := len(p.read_text().splitlines())) > 400}
    assert not long
