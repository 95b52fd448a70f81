"""Blocking clients in processes of their own: their exits, Ctrl-C, forks and spawned children."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from imagen_async.emulator import Emulator

Spawn = Callable[..., subprocess.Popen[str]]
WAIT = 30.0
"""Seconds that a script may take to get where it goes, on a machine that has much to do."""
EXIT_WITHIN = 10.0
"""Seconds that an interpreter may take to end; ``benchmarks/sync.py exits`` holds it to 2."""

EXITS = {
    "closed": "imagen.generate('a fox'); imagen.close()",
    "not closed": "imagen.generate('a fox')",
    "forgotten": "imagen.generate('a fox'); del imagen",
    "never used": "pass",
    "saved a file and not closed": "imagen.generate_to('shots', 'a fox')",
    "inside a block": "with imagen: imagen.generate('a fox')",
    "in the middle of a stream": (
        "outcomes = imagen.generate_many(['a fox'] * 99).__enter__(); next(outcomes)"
    ),
    "closed in atexit": "imagen.generate('a fox'); atexit.register(imagen.close)",
    "used in atexit": "imagen.generate('a fox'); atexit.register(imagen.generate, 'a crow')",
    "closed before atexit": "atexit.register(imagen.close); imagen.close()",
}


@pytest.mark.parametrize("lines", EXITS.values(), ids=EXITS)
def test_a_script_ends_without_a_word(spawn: Spawn, gateway: Emulator, lines: str) -> None:
    """However a script leaves its client, it ends soon, with code 0 and nothing on stderr."""
    script = f"import atexit\nfrom imagen_async import Imagen\nimagen = Imagen()\n{lines}\n"
    # Not -X dev: on a busy machine asyncio's debug mode reports slow steps.
    process = spawn(f"{script}print('last line', flush=True)", "-W", "error")
    assert process.stdout is not None
    assert process.stdout.readline() == "last line\n"
    began = time.monotonic()
    _, complaints = process.communicate(timeout=WAIT)

    assert complaints == ""
    assert process.returncode == 0
    assert time.monotonic() - began < EXIT_WITHIN


def test_a_first_call_in_atexit_says_what_to_do(spawn: Spawn, gateway: Emulator) -> None:
    """Where Python starts no thread any more, a client's first call is a clear error, no hang."""
    process = spawn(
        """
        import atexit
        from imagen_async import ConfigurationError, Imagen
        imagen = Imagen()
        def late():
            try:
                print("images", len(imagen.generate("a fox").images))
            except ConfigurationError as error:
                print(error)
        atexit.register(late)
        """
    )
    out, complaints = process.communicate(timeout=WAIT)

    assert (process.returncode, complaints) == (0, "")
    assert out == "images 1\n" or "before the interpreter ends" in out


def test_a_script_that_fails_ends(spawn: Spawn, gateway: Emulator) -> None:
    """After an exception the interpreter ends with its traceback and nothing else."""
    process = spawn(
        """
        from imagen_async import Imagen
        imagen = Imagen()
        imagen.generate("a fox")
        raise LookupError("mine")
        """
    )
    _, complaints = process.communicate(timeout=WAIT)

    assert process.returncode == 1
    assert complaints.splitlines()[-1] == "LookupError: mine"
    assert complaints.count("Traceback") == 1


def test_a_call_in_a_daemon_thread_does_not_hold_the_exit(spawn: Spawn) -> None:
    """An answer that is still awaited by a daemon thread keeps no interpreter alive."""
    with Emulator(draw="tiny", latency=120.0) as gateway:
        process = spawn(
            f"""
            import threading, time
            from imagen_async import Imagen
            imagen = Imagen(base_url={gateway.base_url!r})
            threading.Thread(target=imagen.generate, args=("a fox",), daemon=True).start()
            while not imagen.stats().in_flight:
                time.sleep(0.001)
            print("last line", flush=True)
            """
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "last line\n"
        began = time.monotonic()
        process.communicate(timeout=WAIT)

    assert process.returncode == 0
    assert time.monotonic() - began < EXIT_WITHIN


def interrupt(process: subprocess.Popen[str], line: str) -> None:
    """Press Ctrl-C once a script has said a line."""
    assert process.stdout is not None
    assert process.stdout.readline() == f"{line}\n"
    time.sleep(0.05)  # from the line to the wait behind it
    process.send_signal(signal.SIGINT)


def test_ctrl_c_cancels_the_call_and_leaves_the_client_usable(spawn: Spawn) -> None:
    """The first Ctrl-C ends the call after its cleanup; the next call works."""
    with Emulator(draw="tiny") as gateway:
        gateway.fail_next("stall")
        process = spawn(
            f"""
            from imagen_async import Imagen
            def on_event(event):
                if type(event).__name__ == "Sent":
                    print(event.request.prompt, flush=True)
            with Imagen(base_url={gateway.base_url!r}, on_event=on_event) as imagen:
                try:
                    imagen.generate("a fox")
                except KeyboardInterrupt:
                    stats = imagen.stats()
                    print(stats.in_flight, stats.queued, stats.dropped, flush=True)
                imagen.generate("a crow")
            print("done", flush=True)
            """
        )
        interrupt(process, "a fox")
        out, complaints = process.communicate(timeout=WAIT)

        assert out.splitlines() == ["0 0 1", "a crow", "done"]
        assert (process.returncode, complaints) == (0, "")
        assert gateway.ledger["a fox"].posts == 1


def test_a_second_ctrl_c_leaves_at_once(spawn: Spawn, gateway: Emulator) -> None:
    """Cleanup that hangs is not waited for when Ctrl-C comes again, nor is it at the exit."""
    process = spawn(
        """
        import time
        from imagen_async import Imagen
        def on_event(event):
            print("hangs", flush=True)
            time.sleep(300)
        with Imagen(on_event=on_event) as imagen:
            imagen.generate("a fox")
        """
    )
    interrupt(process, "hangs")
    time.sleep(0.05)
    assert process.poll() is None
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, complaints = process.communicate(timeout=WAIT)

    assert process.returncode == -signal.SIGINT
    assert complaints.splitlines()[-1].startswith("KeyboardInterrupt")
    assert time.monotonic() - began < EXIT_WITHIN


@pytest.mark.parametrize("where", ["reading", "working"])
def test_ctrl_c_in_a_batch_finishes_what_is_in_flight(
    spawn: Spawn, tmp_path: Path, where: str
) -> None:
    """The first Ctrl-C in a batch's block sends nothing more and journals what was sent."""
    work = {"reading": "pass", "working": "time.sleep(300)"}[where]
    with Emulator(draw="tiny", latency=0.3) as gateway:
        process = spawn(
            f"""
            import json, time
            from imagen_async import Imagen, Limits
            with Imagen(base_url={gateway.base_url!r}, limits=Limits(concurrency=4)) as imagen:
                try:
                    with imagen.batch((f"fox {{n}}" for n in range(99)), out="shots") as run:
                        for outcome in run:
                            print("one", flush=True)
                            {work}
                except KeyboardInterrupt:
                    report = run.report
                    print(json.dumps([report.stopped_by, report.done, report.unknown]), flush=True)
                imagen.generate("still usable")
            """
        )
        interrupt(process, "one")
        out, complaints = process.communicate(timeout=WAIT)
        stopped_by, done, unknown = json.loads(out.splitlines()[-1])

        assert (process.returncode, complaints) == (0, "")
        assert (stopped_by, unknown) == ("interrupted", 0)
        assert done == gateway.ledger.total.charged - 1 < 99
    assert len(list(tmp_path.glob("shots/images/*/*.png"))) == done


def test_a_second_ctrl_c_in_a_batch_cancels(spawn: Spawn) -> None:
    """While a batch waits for what is in flight, Ctrl-C cancels it and lists it as unknown."""
    with Emulator(draw="tiny", latency=120.0) as gateway:
        process = spawn(
            f"""
            from imagen_async import Imagen
            def on_event(event):
                if type(event).__name__ == "Sent":
                    print("sent", flush=True)
            with Imagen(base_url={gateway.base_url!r}, on_event=on_event) as imagen:
                with imagen.batch(["a fox"], out="shots") as run:
                    try:
                        next(run)
                    except KeyboardInterrupt:
                        print("first", flush=True)
                        raise
            """
        )
        interrupt(process, "sent")
        interrupt(process, "first")
        _, complaints = process.communicate(timeout=WAIT)

        assert process.returncode == -signal.SIGINT
        assert complaints.splitlines()[-1].startswith("KeyboardInterrupt")
        listed = Path("shots/unknown.jsonl").read_text()
        assert json.loads(listed)["prompt"] == "a fox"


FORK = """
import gc, json, os, sys
from imagen_async import ForkedClientError, Imagen
with Imagen() as imagen:
    for n in range(4):
        imagen.generate(f"parent {n}")
    with imagen.generate_many(f"stream {n}" for n in range(20)) as outcomes:
        next(outcomes)
        child = os.fork()
        if child == 0:
            refused = 0
            for use in (
                lambda: imagen.generate("child"),
                lambda: imagen.read(None),
                lambda: imagen.batch(["child"], out="child").__enter__(),
                lambda: list(outcomes),
                lambda: outcomes.__exit__(None, None, None),
            ):
                try:
                    use()
                except ForkedClientError:
                    refused += 1
            imagen.close()
            with Imagen() as own:
                own.generate("child's own")
            if sys.argv[-1] == "collect":
                del imagen, outcomes, use
                gc.collect()
            sys.stdout.write(f"refused {refused}\\n")
            sys.stdout.flush()
            os._exit(0) if sys.argv[-1] == "_exit" else sys.exit(0)
        assert os.waitpid(child, 0)[1] == 0
        rest = list(outcomes)
    after = [imagen.generate(f"after {n}").request.prompt for n in range(20)]
print(json.dumps([sorted(o.request.prompt for o in rest), after]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
@pytest.mark.parametrize("end", ["_exit", "exit", "collect"])
def test_after_a_fork_the_child_sends_nothing_and_the_parent_goes_on(
    spawn: Spawn, gateway: Emulator, end: str
) -> None:
    """The child is told to make its own client, which works; the parent gets its own answers."""
    # Python 3.12 and later warn of any fork beside threads.
    process = spawn(FORK.replace("sys.argv[-1]", repr(end)), "-W", "ignore::DeprecationWarning")
    out, complaints = process.communicate(timeout=WAIT)

    assert (process.returncode, complaints) == (0, "")
    refused, answers = out.splitlines()
    assert refused == "refused 5"
    rest, after = json.loads(answers)
    assert len(rest) == 19
    assert all(prompt.startswith("stream ") for prompt in rest)
    assert after == [f"after {number}" for number in range(20)]
    assert "child" not in gateway.ledger
    assert gateway.ledger["child's own"].posts == 1
    gateway.assert_charged_once()


def test_a_spawned_child_makes_its_own_client(spawn: Spawn, gateway: Emulator) -> None:
    """multiprocessing's spawn works beside a client that is in use."""
    process = spawn(
        """
        import multiprocessing
        from imagen_async import Imagen

        def work(prompt):
            with Imagen() as imagen:
                return imagen.generate(prompt)

        if __name__ == "__main__":
            with Imagen() as imagen:
                imagen.generate("parent")
                with multiprocessing.get_context("spawn").Pool(2) as pool:
                    brought = pool.map(work, ["one", "two"])
                imagen.generate("parent again")
            print([generation.request.prompt for generation in brought])
        """
    )
    out, complaints = process.communicate(timeout=WAIT)

    assert (process.returncode, complaints) == (0, "")
    assert out == "['one', 'two']\n"
    gateway.assert_charged_once()
