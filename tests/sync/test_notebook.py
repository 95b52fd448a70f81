"""The example notebook runs in a real kernel and shows what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from imagen_async.emulator import Emulator

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"

pytest.importorskip("ipykernel")
nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")


def read() -> Any:
    if not NOTEBOOK.exists():
        pytest.skip("only the sources have docs/")
    return nbformat.read(NOTEBOOK, as_version=4)


def outputs(notebook: Any, word: str) -> list[Any]:
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and word in cell.source]
    assert len(cells) == 1, word
    return list(cells[0].outputs)


def kinds(shown: list[Any]) -> set[str]:
    return {kind for output in shown for kind in output.get("data", {})}


def test_it_is_kept_without_outputs() -> None:
    """The notebook in the repository carries no output and no count of executions."""
    for cell in read().cells:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None


@pytest.mark.filterwarnings("default")  # the kernel's own clients are not held to our standard
def test_it_runs_and_shows_images_a_grid_and_progress(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Both clients work in a kernel; images and a batch's counts and grid are displayed."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = read()
    with Emulator() as gateway:
        monkeypatch.setenv("IMAGEN_BASE_URL", gateway.base_url)
        client = nbclient.NotebookClient(
            notebook,
            timeout=60,
            kernel_name="python3",
            resources={"metadata": {"path": str(tmp_path)}},
        )
        client.execute()
        gateway.assert_charged_once("A crow on a wire")

    first = outputs(notebook, "A person walking")
    assert "text/html" in kinds(first)
    warned = "".join(output.get("text", "") for output in first if output.output_type == "stream")
    assert warned.count("AsyncImagen") == 1
    assert "image/png" in kinds(outputs(notebook, "lighthouse"))
    assert "text/html" in kinds(outputs(notebook, "await async_imagen"))

    shown = outputs(notebook, "imagen.batch")
    grids = [output.data["text/html"] for output in shown if output.output_type == "display_data"]
    assert len(grids) == 1
    assert grids[0].count("<img") == 12
    assert "24 done, 0 failed" in grids[0]
    assert shown[-1].data["text/plain"] == "24"
    assert len(list(tmp_path.glob("shots/images/*/*"))) == 24
