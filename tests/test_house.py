"""The house: who may import whom, what is public, and how files are named."""

import ast
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import chemscale

SOURCE = Path(chemscale.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
VERBS = sorted(name for name, where in chemscale._WHERE.items() if where == "chemscale.verbs")


def modules(room: str) -> list[str]:
    """Names of all modules of a wing."""
    found = []
    for path in sorted((SOURCE / room).rglob("*.py")):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        found.append(".".join(parts).removesuffix(".__init__"))
    return found


def python(code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def imported(path: Path) -> set[str]:
    """Modules that a file names in any import, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{path}: relative import"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize(
    ("names", "heavy"),
    [
        (["chemscale"], ("torch", "scipy", "numpy")),
        (["chemscale.cli"], ("torch", "scipy")),
        (["chemscale.verbs"], ("torch", "scipy")),
        (["chemscale.labelling", "chemscale.bench.using.label"], ("torch",)),
        (modules("table"), ("torch", "scipy")),
        (modules("desk"), ("torch", "scipy")),
    ],
    ids=["chemscale", "cli", "verbs", "label", "table", "desk"],
)
def test_imports_stay_light(names, heavy):
    code = f"import sys, {', '.join(names)}; print(*[n for n in {heavy!r} if n in sys.modules])"
    assert python(code).strip() == ""


@pytest.mark.parametrize(
    ("room", "forbidden"),
    [
        ("desk", ("chemscale.bench", "torch")),
        ("bench", ("chemscale.desk",)),
        ("table", ("chemscale.desk", "chemscale.bench", "torch", "scipy")),
    ],
)
def test_wings_meet_only_at_the_table(room, forbidden):
    for path in sorted((SOURCE / room).rglob("*.py")):
        for name in imported(path):
            assert not any(name == f or name.startswith(f + ".") for f in forbidden), (path, name)


def test_what_is_public_is_exported_once_and_sorted():
    assert chemscale.__all__ == sorted({*chemscale._WHERE, "__version__"})
    for name in chemscale.__all__:
        assert getattr(chemscale, name) is not None
    tree = ast.parse((SOURCE / "__init__.py").read_text())
    (typed,) = [node for node in tree.body if isinstance(node, ast.If)]
    told = {alias.asname: node.module for node in typed.body for alias in node.names}
    assert told == chemscale._WHERE, "what a type checker sees differs from what is loaded"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        _ = chemscale.fitt


def test_no_module_is_a_drawer_for_odds_and_ends():
    drawers = {"utils", "util", "helpers", "helper", "common", "misc"}
    assert not [path for path in FILES if drawers & {path.stem, path.parent.name}]


def test_no_module_hides_a_verb():
    assert VERBS
    hidden = [verb for verb in VERBS if (SOURCE / f"{verb}.py").exists()]
    hidden += [verb for verb in VERBS if (SOURCE / verb).exists()]
    assert not hidden


def test_verbs_stay_callable_whatever_is_imported():
    names = ", ".join([*modules("desk"), *modules("table"), "chemscale.cli", "chemscale.verbs"])
    code = f"import {names}; print(*[v for v in {VERBS!r} if not callable(getattr(chemscale, v))])"
    assert python(code).strip() == ""


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_file_is_longer_than_400_lines(path):
    assert len(path.read_text().splitlines()) <= 400


def test_a_method_says_what_it_does_or_overrides_one_that_does():
    classes: dict[str, list[ast.ClassDef]] = {}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                classes.setdefault(node.name, []).append(node)

    def told(name: str, method: str) -> bool:
        return any(
            getattr(part, "name", "") == method and ast.get_docstring(part) is not None
            for one in classes.get(name, [])
            for part in one.body
        ) or any(
            told(ast.unparse(base), method) for one in classes.get(name, []) for base in one.bases
        )

    silent = [
        f"{one.name}.{part.name}"
        for one in (one for same in classes.values() for one in same)
        for part in one.body
        if isinstance(part, ast.FunctionDef) and not one.name.startswith("_")
        if not part.name.startswith(("_", "test_")) and ast.get_docstring(part) is None
        if not any(told(ast.unparse(base), part.name) for base in one.bases)
    ]
    assert not silent


def test_help_comes_at_once():
    command = Path(sys.executable).with_name("chemscale")
    if not command.exists():
        pytest.skip("not installed as a command")
    seconds = []  # of a processor, so that a busy machine does not matter
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([command, "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.5
