"""The patches of docs/extending.md, applied to a copy of the project."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import log_softmax

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(
    r"```diff\n(.*?)```", (ROOT / "docs/extending.md").read_text(encoding="utf-8"), re.DOTALL
)
REGISTRIES = {
    "kdflow/catalogue/losses/__init__.py",
    "kdflow/catalogue/networks/__init__.py",
    "kdflow/catalogue/datasets/__init__.py",
    "kdflow/steps/__init__.py",
}


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with every example of the page."""
    copy = tmp_path_factory.mktemp("extended")
    for folder in ("kdflow", "sweeps", "tools"):
        without = shutil.ignore_patterns("__pycache__", "bundled", "*.db")
        shutil.copytree(ROOT / folder, copy / folder, ignore=without)
    for block in BLOCKS:
        command = ["git", "apply", "--verbose", "-"]
        subprocess.run(command, input=block, text=True, cwd=copy, check=True)
    return copy


def run(copy: Path, *arguments: str) -> str:
    """What Python prints when it runs in the copy, on the copy's own packages."""
    environment = os.environ | {
        "PYTHONPATH": str(copy),
        "MLFLOW_TRACKING_URI": f"sqlite:///{copy}/mlflow.db",
        "KDFLOW_CACHE": str(copy / "cache"),
    }
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def value_of(copy: Path, code: str) -> Any:
    """The value that `code` prints as JSON on its last line."""
    return json.loads(run(copy, "-c", code).splitlines()[-1])


def test_what_is_added_is_one_file_and_one_registry() -> None:
    # more places than these would be forgotten
    assert len(BLOCKS) == 5
    *records, parameter = [re.findall(r"^--- (\S+)\n\+\+\+ b/(\S+)", b, re.M) for b in BLOCKS]
    for changed in records:
        new = [file for before, file in changed if before == "/dev/null"]
        assert len(new) == 1
        assert {file for _, file in changed} - {*new} < REGISTRIES
        assert len(changed) == 2
    assert [file for _, file in parameter] == ["kdflow/steps/hint.py"]


@pytest.mark.slow
def test_the_command_line_and_mlproject_have_what_was_added(extended: Path) -> None:
    # kdflow may be installed too, from where it was not changed
    assert value_of(extended, "import json, kdflow; print(json.dumps(kdflow.__path__[0]))") == str(
        extended / "kdflow"
    )
    assert "score" in run(extended, "-m", "kdflow", "--help")
    distill = " ".join(run(extended, "-m", "kdflow", "distill", "--help").split())
    assert "jeffreys (divergence in both directions, Jeffreys 1946)" in distill
    assert "--jeffreys_reverse VALUE of loss=jeffreys: weight of KL(student || teacher)" in distill
    assert "digits, mnist, the path of a folder of photos or the path of an .npz file" in distill
    hint = " ".join(run(extended, "-m", "kdflow", "hint", "--help").split())
    assert "cosine or triangular (default: constant)" in hint
    code = "import sys; sys.path.insert(0, 'tools'); import generate; print(generate.mlproject())"
    mlproject = run(extended, "-c", code)
    assert "python -m kdflow score --dataset {dataset} --holdout {holdout}" in mlproject
    assert "schedule: {type: string, default: constant}" in mlproject


def test_an_unknown_network_is_refused_with_the_new_one_among_the_choices(extended: Path) -> None:
    command = [sys.executable, "-m", "kdflow", "distill", "--student", "none"]
    environment = os.environ | {"PYTHONPATH": str(extended)}
    done = subprocess.run(command, cwd=extended, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert "'mini', 'tiny', or one of your own" in done.stderr
    assert "got 'none'" in done.stderr


@pytest.mark.slow
def test_the_parameter_is_in_the_key_only_where_it_changes_something(extended: Path) -> None:
    # a hint run that was made before the parameter existed is found
    code = """if True:
        import json
        from kdflow.steps.hint import HintConfig
        configs = HintConfig(), HintConfig(schedule="cosine")
        shown = [[c.settings.schedule, c.keyed().get("schedule")] for c in configs]
        print(json.dumps(shown))"""
    assert value_of(extended, code) == [["constant", None], ["cosine", "cosine"]]


@pytest.mark.slow
def test_the_loss_has_its_value(extended: Path) -> None:
    teacher, student = np.random.default_rng(0).normal(0, 3, (2, 4, 5))
    code = f"""if True:
        import json
        import numpy as np
        from kdflow.training.objective import distillation_loss
        teacher, student = np.array({[teacher.tolist(), student.tolist()]}, np.float32)
        loss = distillation_loss(np.zeros(4, int), teacher, student, temp=2, alpha=1,
            loss="jeffreys", jeffreys_reverse=0.5)
        print(json.dumps(np.asarray(loss.total).tolist()))"""
    p, q = log_softmax(teacher / 2, axis=-1), log_softmax(student / 2, axis=-1)
    forward, reverse = np.exp(p) * (p - q), np.exp(q) * (q - p)
    expected = 4 * (forward.sum(axis=-1) + 0.5 * reverse.sum(axis=-1))
    np.testing.assert_allclose(value_of(extended, code), expected, rtol=1e-5)


@pytest.mark.slow
def test_the_network_has_as_many_parameters_as_it_says_for_any_image(extended: Path) -> None:
    code = """if True:
        import json
        from kdflow import network
        shapes = (32, 32, 3), (224, 224, 3)
        print(json.dumps([network.untrained("tiny", s, 10).count_params() for s in shapes]))"""
    of_layers = (27 * 16 + 16) + (144 * 32 + 32) + (288 * 64 + 64) + (64 * 10 + 10)
    assert of_layers == 24_234
    assert value_of(extended, code) == [of_layers, of_layers]


@pytest.mark.slow
def test_the_data_set_is_loaded_with_its_recipe_and_its_teacher(extended: Path) -> None:
    # the download is replaced: tests need no network
    code = """if True:
        import json
        import keras
        import numpy as np
        from kdflow.steps.run import load
        from kdflow.steps.teacher import TeacherConfig
        images, labels = np.arange(10 * 784).reshape(10, 28, 28), np.arange(10)
        arrays = (images.astype(np.uint8), labels.astype(np.uint8))
        keras.datasets.mnist.load_data = lambda: (arrays, arrays)
        dataset, config = load("mnist", 0), TeacherConfig(dataset="mnist")
        same = bool((dataset.x_test[..., 0] == arrays[0]).all())
        shown = [dataset.image_shape, dataset.class_names[9], same, config.arch, config.epochs]
        print(json.dumps(shown))"""
    assert value_of(extended, code) == [[28, 28, 1], "9", True, "fast", 10]


@pytest.mark.slow
def test_the_step_runs_and_logs_what_its_model_is_worth(extended: Path) -> None:
    code = """if True:
        import json
        import mlflow
        import numpy as np
        from kdflow import network
        from kdflow.__main__ import main
        from kdflow.steps.run import load
        model = network.untrained("student", (8, 8, 1), 10)
        model.save("own.keras")
        assert main(["score", "--dataset", "digits", "--model", "own.keras"]) == 0
        digits = load("digits", 0)
        right = model.predict(digits.x_test, verbose=0).argmax(axis=1) == digits.y_test
        run = mlflow.search_runs(search_all_experiments=True, output_format="list")[0]
        shown = [run.data.tags["kdflow.step"], run.data.params["model"]]
        print(json.dumps([*shown, run.data.metrics["test_accuracy"], float(right.mean())]))"""
    step, model, logged, expected = value_of(extended, code)
    assert (step, model) == ("score", "own.keras")
    assert logged == expected
