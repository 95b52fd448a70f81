"""The public face and the shape of the house."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import imagen_async

PACKAGE = Path(imagen_async.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def trees() -> list[tuple[str, ast.Module]]:
    return [(name_of(path), ast.parse(path.read_text("utf-8"))) for path in MODULES]


def imports(tree: ast.AST) -> list[tuple[str, ast.stmt]]:
    """Return the absolute names that a module imports, with their statements."""
    found: list[tuple[str, ast.stmt]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used here"
            found.append((node.module or "", node))
    return found


def test_the_names_are_sorted_and_complete() -> None:
    """__all__ is sorted, and names exactly what the lazy table can give."""
    names = list(imagen_async.__all__)
    assert names == sorted(names)
    assert len(set(names)) == len(names)
    assert set(names) - {"__version__"} == set(imagen_async._ROOM_OF)
    assert set(names) <= set(dir(imagen_async))


def test_every_error_is_public() -> None:
    """Whatever the package raises can be caught by a public name."""
    errors = importlib.import_module("imagen_async.errors")
    tree = {
        name
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.ImagenError)
    }
    assert tree <= set(imagen_async.__all__)


@pytest.mark.parametrize("name", sorted(set(imagen_async.__all__) - {"__version__"}))
def test_every_name_is_there_and_documented(name: str) -> None:
    """A public name is importable and has a docstring; so have its public methods."""
    found = getattr(imagen_async, name)
    if name == "Event":  # a union of types
        return
    assert inspect.getdoc(found)
    for method, value in vars(found).items() if isinstance(found, type) else ():
        if not method.startswith("_") and (callable(value) or isinstance(value, property)):
            assert inspect.getdoc(getattr(found, method)), method


def test_an_unknown_name() -> None:
    """A name that is not there is an AttributeError, as for any module."""
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        imagen_async.nothing  # noqa: B018


def test_the_package_is_imported_lazily() -> None:
    """Importing the package, or asking for an error, does not import the network stack."""
    script = (
        "import sys, imagen_async; imagen_async.ImagenError; imagen_async.Limits;"
        "sys.exit('aiohttp' in sys.modules or 'anyio' in sys.modules)"
    )
    command = [sys.executable, "-c", script]
    assert subprocess.run(command, cwd=PACKAGE.parent, check=False).returncode == 0


def test_one_module_imports_the_http_client() -> None:
    """aiohttp's client is behind one door of three rooms; its server is the emulator's."""
    users = {
        name
        for name, tree in trees()
        for target, _ in imports(tree)
        if target.split(".")[0] == "aiohttp" and not target.startswith("aiohttp.web")
    }
    ours = {name for name in users if "emulator" not in name}
    port = {
        f"imagen_async.session.{name}" for name in ("transport", "transport_errors", "connection")
    }
    # The page that is served on loopback sends nothing.
    assert ours <= {*port, "imagen_async.testing", "imagen_async.batch.gallery.live"}


def test_modules_are_short() -> None:
    """A module has at most 400 lines."""
    long = {name_of(path): len(path.read_text("utf-8").splitlines()) for path in MODULES}
    assert {name: lines for name, lines in long.items() if lines > 400} == {}


def test_functions_are_short() -> None:
    """A function has at most 40 lines, its docstring aside."""
    long = []
    for name, tree in trees():
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            body = node.body
            documented = ast.get_docstring(node) is not None
            doc = (body[0].end_lineno or 0) - body[0].lineno + 1 if documented else 0
            lines = (node.end_lineno or 0) - node.lineno + 1 - doc
            if lines > 40:
                long.append(f"{name}.{node.name}: {lines}")
    assert long == []
