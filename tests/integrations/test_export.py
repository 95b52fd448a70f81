"""Exports: what they hold, what they leave out, that they are whole, and that others read them."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagen_async.batch.schema import NAME
from imagen_async.cli import main
from imagen_async.emulator import Emulator
from imagen_async.errors import ConfigurationError
from imagen_async.integrations import parquet
from imagen_async.integrations.export import SUFFIXES, export
from imagen_async.integrations.parquet import Columns, ParquetShard
from imagen_async.integrations.whole_folder import replacing
from imagen_async.wire.image_header import inspect, suffix
from imagen_async.wire.request import GenerationRequest
from tests.batch.runs import core_on, run_all, view

REPOSITORY = Path(__file__).parents[2]
EVERY = list(SUFFIXES)


async def generate(out: Path, prompts: list[str], image_format: str) -> None:
    """Run a batch; of the prompt "half" one of two links stays dead, "no" is rejected."""
    faults = [{"fault": "file_expired", "prompt": "half"}, {"fault": "400", "prompt": "no"}]
    async with Emulator(draw="tiny", image_format=image_format, faults=faults) as emulator:
        core = core_on(emulator, concurrency=1)
        requests = [GenerationRequest(prompt, n=2, response_format="url") for prompt in prompts]
        await run_all(core, requests, out)
        pictures = emulator.gateway.gallery._pictures.values()
        for picture in [each for each in pictures if each.fault][:1]:
            picture.fault = None
            await run_all(core, requests, out)
        await core.aclose()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs: six whole images of settled items, one of an item in doubt, one failed item."""
    root = tmp_path_factory.mktemp("runs")
    asyncio.run(generate(root / "shard-0", ["a fox", "half", "no"], "png"))
    asyncio.run(generate(root / "shard-1", ["ein Käse", "a boat"], "jpeg"))
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """A copy of the two runs, to be done with what one likes."""
    return Path(shutil.copytree(made, tmp_path / "runs"))


@pytest.fixture
def run(root: Path) -> Path:
    """The second run alone: four images, all settled."""
    return root / "shard-1"


def tar_members(folder: Path) -> dict[str, bytes]:
    """Return the members of all tar files in an export, by name and in their order."""
    found: dict[str, bytes] = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                assert member.name not in found
                assert (member.mtime, member.uid, member.gid, member.uname) == (0, 0, 0, "")
                file = tar.extractfile(member)
                assert file
                found[member.name] = file.read()
    return found


def contents(folder: Path) -> dict[str, str]:
    """Return the digest of each file in a folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def rewrite(run: Path, **changes: Any) -> list[dict[str, Any]]:
    """Change fields of the first row of a run's list; return the rows."""
    rows = view(run, "metadata")
    rows[0].update(changes)
    (run / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def test_a_tar_holds_the_settled_images_of_all_runs(root: Path) -> None:
    """Each is there once, byte for byte, beside its row; what is in doubt is named and left out."""
    result = export(root, "webdataset")
    members = tar_members(result.path)

    assert list(members) == sorted(members)
    rows = [json.loads(data) for name, data in members.items() if name.endswith(".json")]
    assert [row["prompt"] for row in rows] == ["a fox"] * 2 + ["ein Käse"] * 2 + ["a boat"] * 2
    for number, row in enumerate(rows):
        image = (root / row["file_name"]).read_bytes()
        assert members[f"{number:09}{suffix(inspect(image).media_type)}"] == image
        assert row["sha256"] == hashlib.sha256(image).hexdigest()
    assert (result.images, result.skipped) == (6, {"not settled": 1})
    assert result.path == root / "export" / "webdataset"
    (skipped,) = view(result.path, "skipped")
    assert skipped["reason"] == "not settled"
    assert (root / skipped["file_name"]).is_file()
    assert len(members) == 12


@pytest.mark.parametrize("to", EVERY)
def test_an_export_can_be_repeated(run: Path, to: str) -> None:
    """The second one has the same bytes, takes the first one's place, and leaves nothing else."""
    if to != "webdataset":
        pytest.importorskip("pyarrow")
    first = contents(export(run, to).path)
    assert contents(export(run, to).path) == first
    assert [path.name for path in (run / "export").iterdir()] == [to]


def test_shards_are_as_large_as_asked(run: Path) -> None:
    """A file is ended before it would be too large; keys go on in the next one."""
    sizes = [row["bytes"] for row in view(run, "metadata")]
    result = export(run, "webdataset", shard_bytes=sizes[0] + sizes[1])
    names = sorted(path.name for path in result.path.glob("*.tar"))
    assert names == [f"train-0000{number}-of-00002.tar" for number in range(2)]
    assert (result.shards, result.bytes, len(tar_members(result.path))) == (2, sum(sizes), 8)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.unlink(), "missing"),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), "not of the listed size"),
        (lambda path: path.write_bytes(bytes(path.stat().st_size)), "not a whole image"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "missing"),
        (lambda path: (path.unlink(), path.symlink_to(sys.executable)), "outside the folder"),
        (lambda path: (path.unlink(), path.symlink_to(path)), "missing"),
    ],
)
def test_what_is_not_whole_is_left_out(run: Path, damage: Any, reason: str) -> None:
    """A file that is not the image that the list tells of is counted, named and not taken."""
    name = view(run, "metadata")[0]["file_name"]
    damage(run / name)
    result = export(run, "webdataset")
    assert (result.images, result.skipped) == (3, {reason: 1})
    assert view(result.path, "skipped") == [{"file_name": name, "reason": reason}]


def test_a_cut_image_of_unlisted_size_is_left_out(run: Path) -> None:
    """Where the list tells no size, the format's own end is looked for."""
    (row, *_) = rewrite(run, bytes=None)
    path = run / row["file_name"]
    path.write_bytes(path.read_bytes()[:-2])
    assert export(run, "webdataset").skipped == {"not a whole image": 1}


@pytest.mark.parametrize("name", ["../shard-0/{}", "/etc/passwd", "a\0b", "\ud800", "", "images"])
def test_a_name_that_leads_elsewhere_is_left_out(root: Path, run: Path, name: str) -> None:
    """Nothing outside the exported folder is read, and no name stops the export."""
    other = view(root / "shard-0", "metadata")[0]["file_name"]
    rewrite(run, file_name=name.format(other))
    result = export(run, "webdataset")
    assert (result.images, sum(result.skipped.values())) == (3, 1)


def test_torn_and_repeated_lines(run: Path) -> None:
    """A list that is being written is read: a torn line is none, and an image is taken once."""
    with (run / "metadata.jsonl").open("rb+") as file:
        first = file.readline()
        file.seek(0, os.SEEK_END)
        file.write(first + b'{"file_name": 7}\n[]\n' + first[:50])
    result = export(run, "webdataset")
    assert (result.images, result.skipped) == (4, {"not a row": 3})


@pytest.mark.parametrize("case", ["nothing", "empty", "file", "none done", "unlisted"])
def test_nothing_to_export(run: Path, tmp_path: Path, case: str) -> None:
    """It is said plainly, nothing is written, and an earlier export stays."""
    folder = tmp_path / "empty"
    if case == "empty":
        folder.mkdir()
    elif case == "file":
        folder.write_text("x")
    elif case != "nothing":
        folder = run
        before = contents(export(run, "webdataset").path)
        (run / "metadata.jsonl").unlink()
        if case == "none done":
            shutil.copy(run.parent / "shard-0" / "metadata.jsonl", run)
    with pytest.raises(ConfigurationError, match=r"holds no batch|no image to export"):
        export(folder, "webdataset")
    if folder is run:
        assert contents(run / "export" / "webdataset") == before
    else:
        assert not (folder / "export").exists()


@pytest.mark.parametrize("where", ["run", "foreign", "extra", "link", "file"])
def test_nothing_foreign_is_replaced(run: Path, tmp_path: Path, where: str) -> None:
    """A place that holds anything but an earlier export is refused and left as it is."""
    out = tmp_path / "out"
    if where == "run":
        out = run
    elif where == "file":
        out.write_text("mine")
    else:
        out.mkdir()
        if where != "foreign":
            export(run, "webdataset", out)
        if where == "link":
            (out / "elsewhere").symlink_to(run)
        else:
            (out / "notes.txt").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(ConfigurationError, match="choose another folder"):
        export(run, "webdataset", out)
    assert contents(tmp_path) == before
    assert not list(tmp_path.rglob("*.part"))


def test_an_empty_folder_and_a_link_can_be_named(run: Path, tmp_path: Path) -> None:
    """The folder takes the export, and a link goes on pointing at it."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    for _ in range(2):
        assert export(run, "webdataset", tmp_path / "link").path == tmp_path / "real"
    assert len(tar_members(tmp_path / "link")) == 8


def test_two_exports_to_one_place(run: Path, tmp_path: Path) -> None:
    """The second is refused while the first writes, whose files stay."""
    with replacing(tmp_path / "out") as part:
        (part / "mine").touch()
        with pytest.raises(ConfigurationError, match="another export"):
            export(run, "webdataset", tmp_path / "out")
        assert (part / "mine").exists()


@pytest.mark.parametrize("to", EVERY)
def test_a_full_disk(run: Path, to: str) -> None:
    """It is said, the parts are removed, and an earlier export stays."""
    if to != "webdataset":
        pytest.importorskip("pyarrow")
    before = contents(export(run, to).path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
    try:
        with pytest.raises(ConfigurationError, match=r"cannot write to .*EFBIG.*make room"):
            export(run, to)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert contents(run / "export" / to) == before
    assert [path.name for path in (run / "export").iterdir()] == [to]


KILLED = """
import os, pathlib, signal, sys
from imagen_async.integrations import export, webdataset, whole_folder

def dying(place, name, number):
    inner = getattr(place, name)
    def call(*arguments, **options):
        nonlocal number
        number -= 1
        if number < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return inner(*arguments, **options)
    setattr(place, name, call)

places = {"add": webdataset.TarShard, "finish": export, "rename": pathlib.Path}
dying(places[sys.argv[3]], sys.argv[3], int(sys.argv[4]))
export.export(pathlib.Path(sys.argv[1]), "webdataset", pathlib.Path(sys.argv[2]))
"""


@pytest.mark.parametrize(
    "moment", [("add", 0), ("add", 3), ("finish", 0), *(("rename", number) for number in range(3))]
)
def test_a_killed_export(run: Path, tmp_path: Path, moment: tuple[str, int]) -> None:
    """Nothing that looks whole is left beside the earlier export, which the next one replaces."""
    out = tmp_path / "out"
    earlier = contents(export(run, "webdataset", out).path)
    command = [sys.executable, "-c", KILLED, str(run), str(out), *map(str, moment)]
    ended = subprocess.run(command, cwd=REPOSITORY, check=False, timeout=60)

    assert ended.returncode == -signal.SIGKILL
    if moment == ("rename", 2):  # between the two renames
        assert not out.exists()
        assert contents(tmp_path / ".out.old") == earlier
        (run / "metadata.jsonl").rename(run / "away")
        with pytest.raises(ConfigurationError):
            export(run, "webdataset", out)
        (run / "away").rename(run / "metadata.jsonl")
    assert contents(out) == earlier
    assert contents(export(run, "webdataset", out).path) == earlier
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "out"}


def test_parquet_holds_images_and_columns(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images, metadata and columns of the user's own come back with their types."""
    pq = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(parquet, "GROUP_ROWS", 4)
    wild = "\ud800 \u2028"
    own = {"score": 0.5, "image": wild, "tags": ["a", 1], "big": 2**70, wild: True, "mixed": 1}
    rewrite(root / "shard-0", **own)
    rewrite(root / "shard-1", score=2**60, mixed="x")
    result = export(root, "parquet")
    (path,) = result.path.glob("*.parquet")
    table = pq.read_table(path)

    assert pq.ParquetFile(path).num_row_groups == 2
    for image in table["image"].to_pylist():
        assert image["bytes"] == (root / image["path"]).read_bytes()
    first, _, third, *_ = table.drop_columns("image").to_pylist()
    assert (first["score"], first["image_"], first["tags"]) == (0.5, "? \u2028", '["a", 1]')
    assert (first["big"], first["? \u2028"]) == (str(2**70), True)
    assert (first["mixed"], third["mixed"], third["score"], third["big"]) == (
        "1",
        "x",
        2.0**60,
        None,
    )
    assert {name: str(table.schema.field(name).type) for name in ("width", "prompt", "id")} == {
        "width": "int64",
        "prompt": "string",
        "id": "null",
    }


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=4,
)
KEYS = st.sampled_from(["a", "image", "image_", "\ud800", "\ud801"])


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.dictionaries(KEYS, JSON), min_size=1, max_size=4))
def test_any_columns_can_be_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    """Whatever JSON the rows hold, and however it is mixed, no value stops an export."""
    pq = pytest.importorskip("pyarrow.parquet")
    path = tmp_path_factory.mktemp("any") / "x.parquet"
    columns = Columns()
    for row in rows:
        columns.see(row)
    shard = ParquetShard(path, columns.types())
    for number, row in enumerate(rows):
        shard.add("", {**row, "file_name": "f"}, memoryview(bytes(number)), ".png")
    shard.close()
    table = pq.read_table(path)
    assert [len(image["bytes"]) for image in table["image"].to_pylist()] == list(range(len(rows)))
    assert table.num_columns == 1 + len({name for row in rows for name in row})


def test_parquet_without_its_library(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra to install is named before anything is written."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for to in ("parquet", "hf"):
        with pytest.raises(ConfigurationError, match=r"pip install 'imagen-async\[parquet\]'"):
            export(run, to)
    with pytest.raises(ConfigurationError, match="webdataset, parquet, hf"):
        export(run, "zip")
    assert not (run / "export").exists()


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Hugging Face's library, with a cache of its own and no network."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return pytest.importorskip("datasets")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("to", EVERY)
def test_datasets_reads_every_format(
    root: Path, tmp_path: Path, offline: Any, to: str, streaming: bool
) -> None:
    """It decodes the images and knows the prompts; of the hf format it needs the folder alone."""
    result = export(root, to, shard_bytes=400)
    options = {"split": "train", "cache_dir": str(tmp_path / "cache"), "streaming": streaming}
    if to == "hf":
        rows = list(offline.load_dataset(str(result.path), **options))
    else:
        files = str(result.path / "train-*")
        rows = list(offline.load_dataset(to, data_files=files, **options))

    assert result.shards > 1
    assert len(rows) == 6
    for row in rows:
        told = row["json"] if to == "webdataset" else row
        picture = next(row[name] for name in ("image", "png", "jpg") if row.get(name) is not None)
        assert picture.size == (told["width"], told["height"])
    prompts = {(row["json"] if to == "webdataset" else row)["prompt"] for row in rows}
    assert prompts == {"a fox", "ein Käse", "a boat"}


@pytest.mark.filterwarnings("ignore")
def test_webdataset_reads_the_tars(root: Path) -> None:
    """Its samples have an image that decodes and the row."""
    webdataset = pytest.importorskip("webdataset")
    image = pytest.importorskip("PIL.Image")
    result = export(root, "webdataset", shard_bytes=400)
    urls = [str(path) for path in sorted(result.path.glob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))

    assert len(samples) == 6
    for sample in samples:
        row = json.loads(sample["json"])
        data = sample.get("png") or sample["jpg"]
        assert image.open(io.BytesIO(data)).size == (row["width"], row["height"])
        assert hashlib.sha256(data).hexdigest() == row["sha256"]


def test_the_command(root: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It prints the path, says on the side what it left out, and ends with 3 if anything was."""
    assert main(["export", str(run), "--to", "webdataset"]) == 0
    assert capsys.readouterr() == (f"{run / 'export' / 'webdataset'}\n", "")
    assert main(["export", str(root), "--to", "webdataset", "--json"]) == 3
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert (told["images"], told["shards"], told["skipped"]) == (6, 1, {"not settled": 1})
    assert err.startswith("Note: left out 1 not settled; see ")
    assert main(["export", str(root / "nowhere"), "--to", "webdataset"]) == 2
    assert capsys.readouterr().err.startswith("Error: ")


def test_a_folder_is_a_run_by_its_journal(run: Path) -> None:
    """Lists alone prove no batch."""
    (run / NAME).unlink()
    with pytest.raises(ConfigurationError, match="holds no batch"):
        export(run, "webdataset")
