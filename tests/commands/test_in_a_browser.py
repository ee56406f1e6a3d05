"""In a browser, the page of `demo` computes what Python computes of the same picture, and a report
can be read."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import onnxruntime
import pytest
from chromium import Page, needs_chromium, opened, served
from helpers import needs_deploy
from matplotlib.figure import Figure
from PIL import Image
from scipy.special import softmax

from kdflow.__main__ import main
from kdflow.catalogue.datasets.photo import pixels_of
from kdflow.dataset import Dataset
from kdflow.deploy import make, report
from kdflow.deploy.judge import judge
from kdflow.deploy.manifest import manifest
from kdflow.deploy.table import Row
from kdflow.deploy.timing import Speed

pytestmark = [
    pytest.mark.slow,
    needs_deploy,
    needs_chromium,
    pytest.mark.skipif(shutil.which("npm") is None, reason="needs npm"),
]

SIDE, NAMES = 8, ("<b>dark</b>", "mid", "light")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a small network with random weights."""
    keras.utils.set_random_seed(0)
    given = keras.Input((SIDE, SIDE, 3), name="images")
    features = keras.layers.Conv2D(8, 3, activation="relu")(given / 255)
    network = keras.Model(given, keras.layers.Dense(3)(keras.layers.Flatten()(features)))
    images = np.random.default_rng(0).integers(0, 256, (60, SIDE, SIDE, 3), np.uint8)
    labels = np.tile(np.arange(3), 20)
    artifacts = tmp_path_factory.mktemp("artifacts")
    (artifacts / "files").mkdir()
    paths = make.make(network, images.astype(np.float32), artifacts / "files", make.ONNX).paths
    own = network.predict(images, verbose=0)
    dataset, same = Dataset("random", *2 * (images, labels), NAMES), judge(own, own, labels, 0.01)
    described = manifest(
        network,
        dataset,
        paths,
        {path.name: same for path in paths},
        source="a run",
        weights_sha256="a hash",
        calibration={"images": 60, "of": "training images"},
        margin=0.01,
        not_made={},
    )
    (artifacts / "deploy.json").write_text(json.dumps(described))
    output = tmp_path_factory.mktemp("page") / "demo"
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("KDFLOW_CACHE", str(tmp_path_factory.mktemp("cache")))
        assert main(["demo", "--run", str(artifacts), "--output", str(output)]) == 0
    rows = [
        Row("student", "own", name, same, Speed(1, 2, 3), 4, 5) for name in ("Keras", *make.ONNX)
    ]
    given = (dataset, {"Training": "long " * 40}, make.ONNX[0], Figure(), 1)
    (output / "report.html").write_text(report.page(rows, described, *given))
    return output


@pytest.fixture(scope="module")
def browser(demo: Path) -> Iterator[tuple[Page, str]]:
    """A browser, and the address that the page is served at."""
    with served(demo) as address, opened() as page:
        yield page, address


@pytest.fixture
def page(browser: tuple[Page, str]) -> Iterator[Page]:
    """The page, newly opened; it asks nothing of another server."""
    page, address = browser
    page.requested.clear()
    page.open(f"{address}/index.html")
    page.wait_for("document.getElementById('status').textContent === 'Ready.'")
    yield page
    assert f"{address}/files/float32.onnx" in page.requested
    assert all(url.startswith((address, f"blob:{address}")) for url in page.requested)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A picture of exactly the network's size."""
    path = tmp_path / "noise.png"
    pixels = np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def logits_of(page: Page, picture: Path) -> np.ndarray:
    """What the page computes of a picture that a user chooses."""
    page.choose("#choose", picture)
    page.wait_for(f"document.getElementById('status').textContent.includes('{picture.name}')")
    return np.array(json.loads(page.evaluate("document.getElementById('logits').textContent")))


def logits_by_definition(file: Path, picture: Path) -> np.ndarray:
    """What the operations of a file are defined to give: fused kernels round elsewhere."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(file), options)
    pixels = np.asarray(Image.open(picture), np.float32)[np.newaxis]
    (logits,) = session.run(None, {"images": pixels})
    return np.asarray(logits[0])


@pytest.mark.parametrize("name", make.ONNX)
def test_the_logits_are_pythons(page: Page, demo: Path, picture: Path, name: str) -> None:
    page.evaluate(
        f"document.getElementById('file').value = '{name}';"
        "document.getElementById('file').dispatchEvent(new Event('change'))"
    )
    expected = logits_by_definition(demo / "files" / name, picture)
    assert logits_of(page, picture) == pytest.approx(expected, abs=1e-3)
    assert np.ptp(expected) > 0.1  # far more than the tolerance


def test_the_classes_are_named_with_their_probabilities(
    page: Page, demo: Path, picture: Path
) -> None:
    logits_of(page, picture)
    logits = logits_by_definition(demo / "files" / "float32.onnx", picture)
    shares = softmax(logits)
    expected = [[NAMES[i], f"{100 * shares[i]:.1f} %"] for i in np.argsort(-shares)]
    shown = page.evaluate(
        "[...document.querySelectorAll('#classes tr')].map(row =>"
        " ['.name', '.share'].map(cell => row.querySelector(cell).textContent))"
    )
    assert shown == expected


@pytest.mark.parametrize(
    ("size", "mode", "suffix", "tolerance"),
    [
        ((8, 8), "RGB", "png", 0),
        ((97, 61), "RGB", "png", 0),  # its sides are cropped, and it is made smaller
        ((5, 7), "RGB", "png", 0),  # it is made larger
        ((64, 80), "RGBA", "png", 1),  # what is transparent is seen on white
        ((64, 80), "L", "png", 0),
        ((64, 80), "RGB", "jpg", 4),  # turned as its EXIF orientation says; decoders differ
    ],
)
def test_the_pixels_are_those_that_students_are_trained_on(
    page: Page,
    demo: Path,
    size: tuple[int, int],
    mode: str,
    suffix: str,
    tolerance: int,
) -> None:
    path = demo / f"{mode}-{size[0]}x{size[1]}.{suffix}"  # a browser keeps what has one name
    rng = np.random.default_rng(2)
    coarse = rng.integers(0, 256, (6, 6, 4), np.uint8)
    image = Image.fromarray(coarse).resize(size, Image.Resampling.BILINEAR).convert(mode)
    exif = Image.Exif()
    if suffix == "jpg":
        exif[0x0112] = 6  # a camera held upright
    image.save(path, exif=exif, quality=95)
    shown = page.evaluate(
        f"Promise.all([import('./photo.js'), fetch('{path.name}').then(it => it.blob())])"
        f".then(([photo, file]) => photo.pixelsOf(file, {SIDE}, 3)).then(Array.from)"
    )
    expected = pixels_of(path, SIDE).astype(int).ravel()
    assert np.abs(np.array(shown) - expected).max() <= tolerance
    assert np.ptp(expected) > 50


def test_grey_networks_see_the_luminance_of_pillow(page: Page, demo: Path, picture: Path) -> None:
    shutil.copy(picture, demo / "grey.png")
    shown = page.evaluate(
        "Promise.all([import('./photo.js'), fetch('grey.png').then(it => it.blob())])"
        f".then(([photo, file]) => photo.pixelsOf(file, {SIDE}, 1)).then(Array.from)"
    )
    assert shown == np.asarray(Image.open(picture).convert("L")).ravel().tolist()


def test_a_picture_can_be_dropped(page: Page, demo: Path, picture: Path) -> None:
    shutil.copy(picture, demo / "dropped.png")
    page.evaluate(
        "fetch('dropped.png').then(it => it.blob()).then(blob => {"
        " const dataTransfer = new DataTransfer();"
        " dataTransfer.items.add(new File([blob], 'dropped.png', {type: 'image/png'}));"
        " document.body.dispatchEvent(new DragEvent('drop', {dataTransfer, bubbles: true})); })"
    )
    page.wait_for("document.getElementById('status').textContent.startsWith('dropped.png: float')")
    shown = json.loads(page.evaluate("document.getElementById('logits').textContent"))
    expected = logits_by_definition(demo / "files" / "float32.onnx", picture)
    assert shown == pytest.approx(expected, abs=1e-3)


def test_a_file_that_is_no_image_is_named(page: Page, picture: Path, tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("no image")
    logits_of(page, picture)
    page.choose("#choose", notes)
    page.wait_for("document.querySelector('#status.failed')")
    assert page.evaluate("document.getElementById('status').textContent") == (
        "notes.txt: expected an image that this browser can show, got text/plain"
    )
    assert page.evaluate("document.getElementById('result').hidden")
    logits_of(page, picture)  # the page goes on
    assert not page.evaluate("document.querySelector('#status.failed')")


def test_a_file_that_does_not_load_answers_for_no_other(
    page: Page, demo: Path, picture: Path
) -> None:
    logits_of(page, picture)
    other = demo / "files" / next(name for name in make.ONNX if name != "float32.onnx")
    good = other.read_bytes()
    try:
        other.write_bytes(b"no network")
        page.evaluate(
            "{const file = document.getElementById('file');"
            f" file.value = '{other.name}'; file.dispatchEvent(new Event('change'))}}"
        )
        page.wait_for("document.querySelector('#status.failed')")
    finally:
        other.write_bytes(good)
    page.choose("#choose", picture.rename(picture.with_name("other.png")))
    page.wait_for("document.getElementById('status').textContent.startsWith('Expected a file')")
    assert page.evaluate("document.getElementById('result').hidden")


# --- the page of a deployment ---


@pytest.fixture
def report_page(browser: tuple[Page, str]) -> Page:
    page, address = browser
    page.requested.clear()
    page.open(f"{address}/report.html")
    return page


def test_the_report_loads_nothing(report_page: Page) -> None:
    report_page.wait_for("[...document.images].every(image => image.complete)")
    assert report_page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
    addresses = [url for url in report_page.requested if not url.startswith("data:image/png")]
    assert [url.rpartition("/")[2] for url in addresses] == ["report.html"]


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["report.html", "index.html"])
def test_pages_fit_the_width_and_have_the_readers_colours(
    browser: tuple[Page, str], name: str, scheme: str, width: int
) -> None:
    page, address = browser
    page.call(
        "Emulation.setDeviceMetricsOverride",
        **{"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False},
    )
    wanted = [{"name": "prefers-color-scheme", "value": scheme}]
    page.call("Emulation.setEmulatedMedia", features=wanted)
    page.open(f"{address}/{name}")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    text = page.evaluate("getComputedStyle(document.querySelector('h1')).color")
    assert text == {"light": "rgb(0, 0, 0)", "dark": "rgb(255, 255, 255)"}[scheme]


def test_the_reports_javascript_runs(
    browser: tuple[Page, str], report_page: Page, demo: Path, picture: Path
) -> None:
    page, address = browser
    code = report_page.evaluate(
        "document.querySelector('pre[aria-label^=\"JavaScript for float32.onnx\"]').innerText"
    )
    page.open(f"{address}/index.html")
    pixels = np.asarray(Image.open(picture)).ravel().tolist()
    code = code.replace("import * as ort from", "const ort = await import(").replace(
        '.mjs";', '.mjs");'
    )
    shown = page.evaluate(
        f"(async () => {{ const pixels = Float32Array.from({pixels});"
        f" {code.replace('create(', 'create(`files/` + ')}\n return Array.from(logits); }})()"
    )
    expected = logits_by_definition(demo / "files" / "float32.onnx", picture)
    assert shown == pytest.approx(expected, abs=1e-3)
