"""A user's own networks: a `.keras` file, `file.py:function`, or one of `keras.applications`."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Hashable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kdflow import adapt
from kdflow.catalogue.networks.record import Network, Recipe, Spec
from kdflow.errors import KdflowError, reason
from kdflow.lazy import lazy_import
from kdflow.model_file import load_file

if TYPE_CHECKING:
    import keras
else:
    keras = lazy_import("keras")

FORMS = "x.keras, x.py:function or applications:MobileNetV3Small"
RECIPE = Recipe("adam", 0.001, 64, 30)

APPLICATIONS = "applications:"
PYTHON_FUNCTION = re.compile(r"(?P<file>.+\.py):(?P<function>[A-Za-z_]\w*)")


def own_network(typed: str) -> Network | None:
    """The record of a user's own network; None if `typed` does not have the form of one.

    Raises:
        ValueError: it names a file that does not exist.
    """
    name = own_name(typed)
    if name is None:
        return None
    if typed.startswith(APPLICATIONS):
        return _record(name, "of keras.applications", partial(application, name), "keras", "seed")
    build: Callable[[Spec], Any]
    if match := PYTHON_FUNCTION.fullmatch(typed):
        path = _existing(match["file"])
        build = partial(result_of_function, path, match["function"])
        return _record(name, "a function of yours", build, _stamp(path), "function")
    build = partial(architecture_of_file, typed)
    return _record(name, "a file of yours", build, _stamp(_existing(typed)), "file")


def own_name(typed: str) -> str | None:
    """What a user's own network is called; None if `typed` does not have the form of one."""
    if typed.startswith(APPLICATIONS):
        return typed.removeprefix(APPLICATIONS)
    if typed.endswith(".keras") or PYTHON_FUNCTION.fullmatch(typed):
        return Path(typed).name
    return None


def _record(
    name: str,
    summary: str,
    build: Callable[[Spec], keras.Model],
    version: Hashable,
    starts_from: Literal["seed", "function", "file"],
) -> Network:
    built = partial(_built, name, build)
    return Network(name, summary, built, RECIPE, version=version, starts_from=starts_from)


def _existing(typed: str) -> Path:
    if not os.path.isfile(typed):  # noqa: PTH113 (a Path raises at a name that is too long)
        raise ValueError(f"expected an existing file, {Path(typed).absolute()}")
    return Path(typed)


def _stamp(path: Path) -> Hashable:
    stat = path.stat()
    return str(path.absolute()), stat.st_mtime_ns, stat.st_size


def _built(name: str, build: Callable[[Spec], keras.Model], spec: Spec) -> keras.Model:
    """The network as a student has to be: from images of this shape to logits, of Keras' own layers
    only. Equal networks have equal layer names, whatever was built before.

    Raises:
        KdflowError: it is something else; one line.
    """
    _number_layers_from_the_start()
    keras.utils.set_random_seed(spec.seed)
    network = adapt.functional(build(spec), spec.image_shape, name)
    given = tuple(network.outputs[0].shape[1:])
    if given != (spec.classes,):
        raise KdflowError(
            f"expected a network with {spec.classes} outputs, one per class, from {name}, got"
            f" the output shape {given}"
        )
    network, removed = adapt.without_softmax(network)
    if adapt.ends_in_sigmoid(network):
        raise KdflowError(f"expected a network that ends in logits from {name}, got sigmoids")
    _check_dtypes(network, name)
    adapt.check_needs_no_code(network, name)
    if not network.trainable_weights:
        raise KdflowError(f"expected a network with weights to train from {name}, got none")
    if removed and spec.sample:
        print(f"{name}: its final softmax is removed, since a student returns logits")
    return network


def _check_dtypes(network: keras.Model, name: str) -> None:
    """Refuse to train in float16, in which small gradients become 0."""
    for layer in network._flatten_layers():
        if layer.compute_dtype == "float16":
            raise KdflowError(
                f"expected layers of float32 or bfloat16 from {name}, got float16 in {layer.name};"
                " set their dtype policy to float32, and kdflow's precision to bfloat16"
            )


def _number_layers_from_the_start() -> None:
    """Let Keras number the next layers that have no name from the start."""
    policy = keras.config.dtype_policy()
    keras.utils.clear_session(free_memory=False)
    keras.config.set_dtype_policy(policy)


def application(name: str, spec: Spec) -> keras.Model:
    """A network of `keras.applications` without trained weights, whose last layer gives logits.

    Raises:
        KdflowError: there is none of that name, or it does not take such images.
    """
    builder = getattr(keras.applications, name, None)
    if not callable(builder):
        known = [it for it in dir(keras.applications) if it[0].isupper()]
        raise KdflowError(f"expected one of {', '.join(known)} of keras.applications, got {name!r}")
    if spec.image_shape[-1] != 3:
        raise KdflowError(
            f"{name}: expected images of 3 channels, which keras.applications take, got"
            f" {spec.image_shape[-1]}"
        )
    images = keras.Input(spec.image_shape, dtype="uint8", name="images")
    try:
        return builder(
            input_tensor=_expected_pixels(name, images),
            weights=None,
            classes=spec.classes,
            classifier_activation=None,
        )
    except Exception as error:  # each has its own conditions
        raise KdflowError(
            f"{name}: expected images that it takes, got {spec.image_shape}: {reason(error)}"
        ) from error


def _expected_pixels(name: str, images: keras.KerasTensor) -> keras.KerasTensor:
    """Pixels 0..255 where the network rescales them itself, else -1..1."""
    rescales = name.startswith(("MobileNetV3", "EfficientNet", "ConvNeXt"))
    scale, offset = (1.0, 0.0) if rescales else (1 / 127.5, -1.0)
    return keras.layers.Rescaling(scale, offset, name="pixels")(images)


def architecture_of_file(path: str, spec: Spec) -> keras.Model:
    """The network in a `.keras` file, initialised anew unless its weights are to be kept.

    Raises:
        KdflowError: it cannot be loaded without running code that it carries.
    """
    model = adapt.functional(load_file(path), spec.image_shape, Path(path).name)
    return model if spec.keeps_weights else adapt.reinitialised(model, spec.seed)


def result_of_function(path: Path, function: str, spec: Spec) -> Any:
    """What a function of a Python file returns for (image_shape, classes).

    Raises:
        KdflowError: the file fails, has no such function, or the function fails.
    """
    with _importable_from(path.absolute().parent):
        module = _run(path)
        build = getattr(module, function, None)
        if not callable(build):
            raise KdflowError(f"expected a function {function} in {path}, got none")
        try:
            network = build(spec.image_shape, spec.classes)
        except Exception as error:  # the user's code
            raise _failed(path, error) from error
    if isinstance(network, keras.Model) and adapt.is_unnamed(network):
        network.name = function
    return network


def _run(path: Path) -> Any:
    name = f"kdflow_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's code
        raise _failed(path, error) from error
    finally:
        del sys.modules[name]
    return module


def _failed(path: Path, error: Exception) -> KdflowError:
    return KdflowError(
        f"expected {path} to run without an error, got {type(error).__name__}: {reason(error)}"
    )


@contextlib.contextmanager
def _importable_from(folder: Path) -> Iterator[None]:
    """As `python file.py` has it: what lies beside the file can be imported. It is forgotten
    afterwards, since a file in another folder may import other modules of the same names."""
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            if _lies_beside(name, folder):
                del sys.modules[name]


def _lies_beside(name: str, folder: Path) -> bool:
    """Whether a module was imported from `folder`, and is none of kdflow's, which may lie there
    too."""
    place = folder.joinpath(*name.split("."))
    file = getattr(sys.modules[name], "__file__", None)
    is_own = name.partition(".")[0] == __name__.partition(".")[0]
    return not is_own and file in (f"{place}.py", str(place / "__init__.py"))
