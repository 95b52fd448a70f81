"""Which disks are refused for shards, by what the system says is mounted."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from imagen_async.batch import shard_root
from imagen_async.batch.mounts import lock_problem, shared_lock_problem
from imagen_async.batch.recovery import Terms
from imagen_async.batch.shards import Shard
from imagen_async.errors import ConfigurationError

MOUNTS = r"""
/dev/vda1 / ext4 rw,relatime 0 0
store:/a /a nfs4 rw,vers=4.2,local_lock=none 0 0
store:/b /b nfs rw,vers=3,nolock,local_lock=all 0 0
store:/f /f nfs rw,vers=3,local_lock=flock 0 0
10.0.0.1@tcp:/l /l lustre rw,localflock 0 0
//smb/share /my\040share cifs rw,nobrl 0 0
s3fs /b/bucket fuse.s3fs rw 0 0
/dev/vdb /b/bucket/local ext4 rw 0 0
short line
"""


@pytest.mark.parametrize(
    ("folder", "problem"),
    [
        ("/home/out", None),
        ("/a/out", None),
        ("/b/out", "nfs is mounted with local_lock=all"),
        ("/f/out", None),
        ("/l", "lustre is mounted with localflock"),
        ("/my share/out", "cifs is mounted with nobrl"),
        ("/b/bucket/out", "fuse.s3fs keeps no locks"),
        ("/b/bucket/local/out", None),
        ("/bb/out", None),
    ],
)
def test_what_the_mount_table_says(folder: str, problem: str | None) -> None:
    """The innermost mount decides, by its kind and its options."""
    assert lock_problem(MOUNTS, PurePosixPath(folder)) == problem


def test_no_mount_table_says_nothing(tmp_path: Path) -> None:
    """Where nothing can be told, nothing is refused."""
    assert lock_problem("", PurePosixPath("/a")) is None
    assert shared_lock_problem(tmp_path) is None


def test_shards_are_refused_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that does not lock among machines holds no shards; nothing is written."""

    def problem(_: Any) -> str:
        return "nfs is mounted with nolock"

    monkeypatch.setattr(shard_root, "shared_lock_problem", problem)
    with pytest.raises(ConfigurationError, match=r"nolock, so two machines could buy"):
        shard_root.claim_root(tmp_path, Shard(0, of=2), Terms(endpoint="http://e/v1"))
    assert list(tmp_path.iterdir()) == []
