"""What must be quick, and what the program says of itself."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import click
import pytest

from imagen_async import __version__
from imagen_async.cli.commands import imagen_async
from imagen_async.emulator import DIALECTS, PROFILES
from imagen_async.wire.request import AspectRatio, ResponseFormat

HEAVY = ("aiohttp", "asyncio", "anyio", "cattrs", "rich", "ssl", "sqlite3")


def run_python(code: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    import os

    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], [], ["nope"]]
    + [[name, "--help"] for name in ("generate", "batch", "gallery", "serve")],
)
def test_help_and_version_do_not_load_the_network(arguments):
    """Help, version and usage errors import neither the network stack nor the event loop."""
    code = (
        "import sys; from imagen_async.cli import main; main(sys.argv[1:]);"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    ended = run_python(code, *arguments)
    assert ended.stdout.splitlines()[-1] == "[]"


def test_completion_does_not_load_the_network():
    """Completing a flag offers it, without the network stack."""
    code = (
        "import sys; from imagen_async.cli import main\n"
        "try: main()\n"
        f"finally: print([name for name in {HEAVY} if name in sys.modules])"
    )
    words = {"COMP_WORDS": "imagen-async generate --asp", "COMP_CWORD": "2"}
    ended = run_python(code, **words, _IMAGEN_ASYNC_COMPLETE="bash_complete")
    assert "--aspect-ratio" in ended.stdout
    assert ended.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_documented_line_completes_in_every_shell(cli, shell):
    """The variable that the help names makes the program print the shell's script."""
    assert "_IMAGEN_ASYNC_COMPLETE=bash_source imagen-async" in cli("--help").out
    code = "import sys; from imagen_async.cli import main; sys.exit(main([]))"
    ended = run_python(code, _IMAGEN_ASYNC_COMPLETE=f"{shell}_source")
    assert (ended.returncode, "imagen-async" in ended.stdout) == (0, True)


@pytest.mark.parametrize("name", ["generate", "batch", "serve", "gallery"])
def test_help_begins_with_examples_that_can_be_parsed(cli, name):
    """Each example is a command of the program's own, and the options come after them."""
    out = cli(name, "--help").out
    examples = re.findall(rf"imagen-async {name} (.*)$", out.partition("\n\n")[2], re.MULTILINE)
    assert examples
    assert out.index("Examples:") < out.index("  -h, --help")
    for example in examples:
        words = shlex.split(re.split("[#|]", example)[0])
        imagen_async.commands[name].make_context(name, words)


def test_every_option_of_a_command_is_in_a_group(cli):
    """Only help itself is left over."""
    for name in ("generate", "batch", "serve"):
        other = cli(name, "--help").out.partition("\nOther:\n")[2]
        assert re.findall(r"^  (-\S+)", other, re.MULTILINE) == ["-h,"]


def test_version_is_the_packages(cli):
    """--version prints the package's version."""
    assert cli("--version").out == f"imagen-async {__version__}\n"


def test_help_says_where_the_key_comes_from(cli):
    """The help names the variable, and there is no flag for the key."""
    out = cli("--help").out
    assert "IMAGEN_API_KEY" in out
    assert "--api-key" not in out + cli("generate", "--help").out


def test_without_click_one_line_says_what_to_install():
    """Without the extra the program says in one line how to get it."""
    code = (
        "import sys; sys.modules['click'] = None\n"
        "from imagen_async.cli import main; sys.exit(main([]))"
    )
    ended = run_python(code)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == (
        "Error: the command line needs click: pip install 'imagen-async[cli]'\n"
    )


def test_without_rich_progress_is_lines(gateway, tmp_path):
    """A batch runs without rich, with lines for its progress."""
    (tmp_path / "in.txt").write_text("a fox\n")
    code = (
        "import sys; sys.modules['rich'] = None; sys.stderr.isatty = lambda: True\n"
        "from imagen_async.cli import main; sys.exit(main(['batch', 'in.txt', '--out', 'shots']))"
    )
    ended = run_python(code)
    assert (ended.returncode, ended.stdout) == (0, "shots/index.html\n")
    assert "1 of 1 done" in ended.stderr


def test_choices_are_those_of_the_tables():
    """The choices, written out so that help is quick, are those that the package knows."""
    for command, flag, known in (
        ("generate", "aspect_ratio", AspectRatio),
        ("batch", "response_format", ResponseFormat),
        ("serve", "dialect", DIALECTS),
        ("serve", "profile", PROFILES),
    ):
        parameters = {found.name: found for found in imagen_async.commands[command].params}
        kind = parameters[flag].type
        assert isinstance(kind, click.Choice)
        assert list(kind.choices) == list(known)


def test_runs_as_a_module():
    """``python -m imagen_async`` is the same program."""
    ended = subprocess.run(
        [sys.executable, "-m", "imagen_async", "--version"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (0, f"imagen-async {__version__}\n")
