"""The examples: whole, in step with their own hub, and right in what they compute."""

import csv
import json
import math
import tarfile
from pathlib import Path
from typing import Any

import nibabel as typed_nibabel
import numpy as np
import pytest
from PIL import Image

from peachctl import catalogue, wire
from peachctl.hub import Hub, check_service, find_services
from peachctl.workflow import check
from tests.conftest import Peach, node, workflow

nibabel: Any = typed_nibabel  # its annotations leave out what images have

EXAMPLES = Path(__file__).parent.parent / "examples"
NAMES = [one.name for one in catalogue.examples()]


@pytest.fixture(scope="module")
def example_hub() -> Hub:
    return find_services(EXAMPLES / "hub")


@pytest.fixture
def examples(peach: Peach) -> Peach:
    """`peachctl` with the example hub."""
    peach.hub = EXAMPLES / "hub"
    return peach


def outputs(peach: Peach, run: dict[str, Any], id: str) -> list[Path]:
    """What a node made, in the published folder of the workflow."""
    [found] = [one for one in run["nodes"] if one["id"] == id]
    assert found["status"] == "success", found
    folder = peach.data / "workflow_temp" / f"workflow_{run['id']}"
    return [folder / Path(path).name for path in found["outputs"]]


def errors(run: dict[str, Any]) -> dict[str, str]:
    return {one["id"]: one["error"]["message"] for one in run["nodes"] if one["status"] == "error"}


@pytest.mark.parametrize("name", NAMES)
def test_the_files_of_an_example_are_one_workflow_that_its_hub_can_run(name: str, example_hub: Hub) -> None:
    [example] = [one for one in catalogue.examples() if one.name == name]
    path = EXAMPLES / "workflows" / example.workflow
    meant = wire.decode_file(path.read_bytes(), path.name)
    assert check(meant, example_hub.by_name) == []
    assert path.with_suffix(".bin").read_bytes() == wire.encode_workflow(meant)
    for other in path.parent.glob(f"{path.stem}.wf"):
        assert wire.decode_file(other.read_bytes(), other.name) == meant
    assert meant.name == example.title


def test_every_service_of_the_example_hub_is_as_its_config_says(example_hub: Hub) -> None:
    assert example_hub.problems == []
    folders = {path.parent for path in (EXAMPLES / "hub").glob("*/*/service.config")}
    assert {one.path for one in example_hub.services} == folders
    for one in example_hub.services:
        assert check_service(one) == [], one.service.id
        config = (one.path / "service.config").read_bytes()
        assert wire.encode_service_config(wire.decode_service_config(config)) == config
        source = one.code.read_text(encoding="utf-8")
        for port in (*one.service.input_ports, *one.service.output_ports):
            assert port in source.split('"""')[1], f"the docstring of {one.service.id} does not speak of {port}"


def test_the_nile_series_is_the_published_one() -> None:
    rows = list(csv.DictReader((EXAMPLES / "hub/Series/v1/data/nile.csv").open()))
    flow = np.array([float(row["flow"]) for row in rows])
    assert [int(row["year"]) for row in rows] == list(range(1871, 1971))
    # Mean 919.35 and standard deviation 169.2275 stand in every textbook that uses the series; 1913 is its minimum.
    assert (flow.mean(), round(flow.std(ddof=1), 4)) == (919.35, 169.2275)
    assert (flow.min(), rows[int(flow.argmin())]["year"]) == (456, "1913")


def test_the_nile_example_finds_the_known_change_and_packs_a_page_that_needs_nothing_else(examples: Peach) -> None:
    run = examples.json("run", EXAMPLES / "workflows" / "nile.bin")
    assert (run["status"], run["progress"]) == ("success", 100)
    change = json.loads(outputs(examples, run, "level")[0].read_text())
    # Cobb (Biometrika 1978): the level changes after 1898.
    assert change["last_year_before"] == 1898
    assert (change["level_before"], change["level_after"]) == (1097.75, 849.97)
    assert change["p"] < 0.001
    [trend] = outputs(examples, run, "trend")
    smooth = [float(row["trend"]) for row in csv.DictReader(trend.open())]
    assert len(smooth) == 100
    assert min(smooth[:20]) > 1000 > 900 > max(smooth[40:60])
    [dry] = outputs(examples, run, "dry")
    assert [row["year"] for row in csv.DictReader(dry.open())] == ["1913", "1941", "1940", "1907", "1902"]
    page = outputs(examples, run, "page")[0].read_text()
    assert "http" not in page.replace("http://www.w3.org/2000/svg", ""), "the page refers to something elsewhere"
    assert page.count("<circle") == 100
    with tarfile.open(run["output_path"]) as packed:
        names = {Path(name).name for name in packed.getnames()}
    assert {"page_series.html", "page_series.svg", "level_change.json", "level.log"} <= names


def test_the_outputs_that_a_run_reports_are_files_that_stay(examples: Peach) -> None:
    run = examples.json("run", EXAMPLES / "workflows" / "nile.json")
    for reported in (run, examples.json("queue", "show", run["id"])):
        for one in reported["nodes"]:
            assert [path for path in one["outputs"] if not Path(path).is_file()] == []


def test_wrong_parameters_and_files_are_told_in_a_sentence(examples: Peach) -> None:
    bad = examples.data / "bad.csv"
    bad.parent.mkdir(parents=True)
    bad.write_text("year,flow\n" + "".join(f"{year},1\n" for year in range(1900, 1912)) + "1912,much\n")
    run = examples.json(
        "run",
        examples.file(
            workflow(
                node("ok", "Series", [None], None),
                node("sample", "Series", ["amazon"], None),
                node("csv", "Series", [None], [str(bad)]),
                node("width", "Trend", ["-3"], "ok"),
                node("trials", "ChangePoint", ["many"], "ok"),
                node("percent", "DryYears", ["nan"], "ok"),
                node("page", "SeriesPage", [], None),
            )
        ),
        code=3,
    )
    told = errors(run)
    assert told == {
        "sample": "there is no sample 'amazon'; there is: nile",
        "csv": "line 14 is not `year,value`: '1912,much'",
        "width": "width is -3.0; a number of years above 0 is expected",
        "trials": "trials is 'many'; a whole number from 1 to 1000000 is expected",
        "percent": "percent is nan; a number above 0, at most 100, is expected",
        "page": "the input port `series` is not connected",
    }


def test_a_series_of_ones_own_with_a_hostile_title_becomes_a_page(examples: Peach) -> None:
    own = examples.data / "own.csv"
    own.parent.mkdir(parents=True)
    own.write_text("year,flow\n" + "".join(f"{year},{5 + (year > 1960)}\n" for year in range(1950, 1970)))
    title = "<script>alert(1)</script> $page 検査"
    run = examples.json(
        "run",
        examples.file(
            workflow(
                node("data", "Series", [], [str(own)]),
                node("level", "ChangePoint", ["100"], "data"),
                node("page", "SeriesPage", [title, "<b>"], "data", None, "level", None, ("data", 1)),
            )
        ),
    )
    change = json.loads(outputs(examples, run, "level")[0].read_text())
    assert (change["last_year_before"], change["level_before"], change["level_after"]) == (1960, 5, 6)
    for text in (path.read_text() for path in outputs(examples, run, "page")):
        assert "<script>" not in text
        assert "<b>&" not in text
        assert "&lt;script&gt;alert(1)&lt;/script&gt; $page 検査" in text


def test_the_ventricles_example_measures_and_draws_the_sample_of_nibabel(examples: Peach) -> None:
    run = examples.json("run", EXAMPLES / "workflows" / "ventricles.bin")
    measures = json.loads(outputs(examples, run, "measure")[0].read_text())
    assert measures["voxel_mm3"] == 8.0
    assert measures["volume_mm3"] == measures["voxels"] * 8.0 == 1000 * measures["volume_ml"]
    assert 1.0 < measures["volume_ml"] < 3.0
    assert abs(measures["centre_mm"][0]) < 3, "the ventricles lie in the middle of the head"
    smooth = nibabel.load(outputs(examples, run, "smooth")[0])
    image = nibabel.load(outputs(examples, run, "image")[0])
    assert np.allclose(smooth.affine, image.affine)
    assert smooth.get_fdata().std() < image.get_fdata().std()
    picture = Image.open(outputs(examples, run, "picture")[0])
    assert picture.format == "PNG"
    colours = {colour for _, colour in picture.getcolors(1 << 24) or []}
    assert (251, 146, 60) in colours, "no outline was drawn"


def test_a_ball_in_a_sheared_grid_of_uneven_voxels_has_its_volume(examples: Peach) -> None:
    affine = np.array([[0.9, 0.2, 0, -30], [0, 1.1, 0, -30], [0, 0, 1.5, -30], [0, 0, 0, 1]])
    at = nibabel.affines.apply_affine(affine, np.argwhere(np.ones((72, 60, 44)))).reshape(72, 60, 44, 3)
    radius, centre = 14.0, np.array([3.0, 2.0, 1.0])
    inside = np.linalg.norm(at - centre, axis=-1) <= radius
    noise = np.random.default_rng(7).normal(0, 20, inside.shape)
    examples.data.mkdir(parents=True)
    path = examples.data / "ball.nii.gz"
    nibabel.save(nibabel.Nifti1Image((100 + 400 * inside + noise).astype(np.float32), affine), path)
    run = examples.json(
        "run",
        examples.file(
            workflow(
                node("image", "Volume", [], [str(path)]),
                node("mask", "Threshold", [None, None, None], "image"),  # Otsu's threshold
                node("measure", "Measure", [], "mask"),
            )
        ),
    )
    measures = json.loads(outputs(examples, run, "measure")[0].read_text())
    assert math.isclose(measures["volume_mm3"], 4 / 3 * math.pi * radius**3, rel_tol=0.01)
    assert measures["voxels"] == inside.sum()
    assert np.allclose(measures["centre_mm"], centre, atol=0.1)


def test_an_example_that_was_copied_runs_with_the_services_of_its_copy(examples: Peach) -> None:
    listed = examples.json("example", "list")
    assert [one["name"] for one in listed] == NAMES
    target = examples.home / "mine"
    copied = Path(examples("example", "copy", "nile", target).stdout.strip())
    assert copied == target / "nile.json"
    assert not list(target.rglob("__pycache__"))
    trend = target / "hub" / "Trend" / "v1" / "Trend.py"
    trend.write_text(
        trend.read_text().replace('writer.writerow(["year", "trend"])', 'writer.writerow(["year", "mine"])')
    )
    run = examples.json("run", copied, "--hub", target / "hub")
    [path] = outputs(examples, run, "trend")
    assert path.read_text().startswith("year,mine\n")
