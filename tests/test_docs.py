"""The guides in docs/ are true: every block of code in them runs, in order, against an emulator.

Blocks of Python may await outside of a function, as in a notebook; a page's blocks share names, and
the tests that a page defines are run. Blocks of bash share one shell a page, which starts the real
``imagen-async``. A comment ``<!-- next: drop -->`` lays a fault of the emulator on the next one,
and ``# exits 3`` in a command's line says how it ends, if not well.
"""

import ast
import asyncio
import inspect
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import attrs
import pytest

import imagen_async
from imagen_async import AsyncImagen, Imagen
from imagen_async.emulator import Emulator

DOCS = Path(__file__).parents[1] / "docs"
if not DOCS.is_dir():
    pytest.skip("only the sources have docs/", allow_module_level=True)

PAGES = sorted(
    str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md") if "build" not in path.parts
)
FENCE = re.compile(r"(?:^<!-- next: (.+) -->\n+)?^```(.*)\n((?:.*\n)*?)^```$", re.MULTILINE)
CODE = {"python", "bash"}
TEXTS = {"text", "json"}

Namespace: TypeAlias = dict[str, Any]


@attrs.frozen
class Block:
    """One fenced block of a page."""

    language: str
    source: str
    line: int
    faults: tuple[str, ...]


def blocks_of(page: str) -> list[Block]:
    text = (DOCS / page).read_text()
    return [
        Block(
            match[2],
            match[3],
            text.count("\n", 0, match.start(3)),
            tuple(match[1].split(", ")) if match[1] else (),
        )
        for match in FENCE.finditer(text)
    ]


class Shell:
    """One bash that reads a block after the other, and tells which of its commands failed."""

    def __init__(self, folder: Path, base_url: str) -> None:
        self._folder = folder
        told, tell = os.pipe()
        self._told = os.fdopen(told)
        self._output = folder.parent / "output.txt"
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        with self._output.open("w") as output:
            self._bash = subprocess.Popen(
                ["bash", "--noprofile", "--norc", "-E", "-o", "pipefail"],
                cwd=folder,
                env=os.environ
                | {"PATH": path, "IMAGEN_BASE_URL": base_url, "IMAGEN_API_KEY": "sk-emulated"},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                pass_fds=[tell],
                text=True,
                start_new_session=True,
            )
        os.close(tell)
        self._say(f"trap 'echo $? >&{tell}' ERR\nDONE={tell}\n")

    def _say(self, text: str) -> None:
        assert self._bash.stdin is not None
        self._bash.stdin.write(text)
        self._bash.stdin.flush()

    def run(self, source: str) -> None:
        script = self._folder.parent / "block.sh"
        script.write_text(f"{source}\n:\n")  # whose own end is no failure
        self._say(f'. "{script}" </dev/null; echo done >&$DONE\n')
        failed = []
        for line in self._told:
            if line == "done\n":
                break
            failed.append(line.strip())
        expected = re.findall(r"# exits (\d+)", source)
        assert failed == expected, f"{source}\nended with {failed}:\n{self._output.read_text()}"

    def close(self) -> None:
        self._say("kill $(jobs -p) 2>/dev/null; wait; exit 0\n")
        self._bash.communicate()
        self._told.close()


@contextmanager
def ready(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Yield what runs one block of a page; the page's own tests are run at the end."""
    namespace: Namespace = {"__name__": page}
    monkeypatch.chdir(folder)
    with ExitStack() as stack:
        emulator = stack.enter_context(Emulator(draw="plain"))
        runner = stack.enter_context(asyncio.Runner())
        shell: Shell | None = None
        monkeypatch.setenv("IMAGEN_BASE_URL", emulator.base_url)
        monkeypatch.setenv("IMAGEN_API_KEY", "sk-emulated")

        def run(block: Block) -> None:
            nonlocal shell
            for fault in block.faults:
                emulator.fail_next(fault)
            if block.language == "bash":
                if shell is None:
                    shell = Shell(folder, emulator.base_url)
                    stack.callback(shell.close)
                shell.run(block.source)
                return
            code = compile(
                "\n" * block.line + block.source,
                str(DOCS / page),
                "exec",
                flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
                dont_inherit=True,
            )
            awaited = eval(code, namespace)
            if awaited is not None:
                runner.run(awaited)

        yield run
        fixtures = {"imagen_emulator": emulator}
        tests = [name for name in namespace if name.startswith("test_")]
        assert len(tests) == (DOCS / page).read_text().count("def test_")
        for name in tests:
            emulator.reset()
            wanted = inspect.signature(namespace[name]).parameters
            if "imagen_client" in wanted:
                fixtures["imagen_client"] = AsyncImagen(base_url=emulator.base_url)
            outcome = namespace[name](**{each: fixtures[each] for each in wanted})
            if inspect.isawaitable(outcome):
                runner.run(outcome)


@pytest.mark.timeout(300)  # a page starts a dozen processes
@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize("page", PAGES)
def test_every_block_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block of code of a page runs and ends as the page says; so do the tests in it."""
    ran = 0
    (tmp_path / "work").mkdir()
    with ready(page, tmp_path / "work", monkeypatch) as run:
        for block in blocks_of(page):
            if block.language in CODE:
                run(block)
                ran += 1
    assert ran == len(re.findall(r"^ *```(?:python|bash)", (DOCS / page).read_text(), re.MULTILINE))


@pytest.mark.parametrize("page", PAGES)
def test_every_fence_says_what_it_holds(page: str) -> None:
    """A block is code that runs, or text that is told; nothing is code that does not run."""
    fences = re.findall(r"^ *(?:```|~~~)", (DOCS / page).read_text(), re.MULTILINE)
    assert 2 * len(blocks_of(page)) == len(fences)
    assert {block.language for block in blocks_of(page)} <= CODE | TEXTS


def anchors_of(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as sites and repositories make them."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", title.lower()).strip() for title in titles]
    return {title.replace(" ", "-") for title in plain}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    """Each link to a file is to one of docs/, and its anchor is a heading there."""
    here = DOCS / page
    links = re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", here.read_text()))
    lost = []
    for link in links:
        path, _, anchor = link.partition("#")
        if re.match(r"https?:", link):
            continue
        target = (here.parent / path).resolve() if path else here
        inside = target.is_file() and target.is_relative_to(DOCS)
        if not inside or (anchor and anchor not in anchors_of(target)):
            lost.append(link)
    assert lost == []


def test_the_generated_parts_are_those_of_the_code() -> None:
    """Tables of options, settings and faults are as the code has them now."""
    module = runpy.run_path(str(DOCS / "generate.py"))
    behind = [
        path.name
        for path in DOCS.glob("reference/*.md")
        if module["filled"](path.read_text()) != path.read_text()
    ]
    assert behind == [], "run python docs/generate.py"


def trees() -> list[tuple[str, ast.Module]]:
    """Return every block of Python that a page runs."""
    blocks = [(page, block) for page in PAGES for block in blocks_of(page)]
    return [(page, ast.parse(each.source)) for page, each in blocks if each.language == "python"]


def methods_used(tree: ast.Module, kind: str) -> set[str]:
    """Return the methods that a block calls on names which it binds to a client of this kind."""
    clients, used = set(), set()
    for node in ast.walk(tree):
        pairs: list[tuple[ast.expr | None, ast.expr | None]] = []
        if isinstance(node, ast.withitem):
            pairs = [(node.context_expr, node.optional_vars)]
        elif isinstance(node, ast.Assign):
            pairs = [(node.value, node.targets[0])]
        for value, target in pairs:
            made = isinstance(value, ast.Call) and isinstance(value.func, ast.Name)
            if made and value.func.id == kind and isinstance(target, ast.Name):
                clients.add(target.id)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            used |= {node.attr} if node.value.id in clients else set()
    return used


def test_every_public_name_has_an_example_and_a_place_in_the_reference() -> None:
    """Each public name is in a block that runs, and is documented at one place of the reference."""
    used = {
        name
        for _, tree in trees()
        for node in ast.walk(tree)
        for name in (
            getattr(node, "id", None),
            getattr(node, "attr", None),
        )
    }
    public = set(imagen_async.__all__)
    assert public - used == set()

    told = [
        name
        for page in DOCS.glob("reference/*.md")
        for name in re.findall(r"^::: imagen_async\.(\w+)$", page.read_text(), re.MULTILINE)
    ]
    assert sorted(told) == sorted(public - {"__version__"})


@pytest.mark.parametrize("kind", [AsyncImagen, Imagen])
def test_every_method_has_an_example(kind: type) -> None:
    """Each public method of a client is called in a block that runs."""
    public = {name for name in vars(kind) if not name.startswith("_")}
    used = {name for _, tree in trees() for name in methods_used(tree, kind.__name__)}
    assert public - used == set()
