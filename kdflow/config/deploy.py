"""What the step `deploy` takes."""

import warnings
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from kdflow.config.base import SEED_LIMIT
from kdflow.config.reading import OwnModelConfig
from kdflow.model_file import OWN_MODEL

# pydantic warns that the field `register` hides ABCMeta.register, which is not used here.
warnings.filterwarnings("ignore", 'Field name "register" in "DeployConfig" shadows')


class DeployConfig(OwnModelConfig):
    """Turn a trained network into LiteRT and ONNX files, each compared with it and measured."""

    model: str = Field(
        "auto",
        min_length=1,
        description="what to deploy: auto (the student of the last finished distillation on this"
        " data set, by itself or in compare), a network's name (the teacher of that kind), the id"
        f" of a run that logged a model, or a model of your own: {OWN_MODEL}",
    )
    teacher: str = Field(
        "auto",
        min_length=1,
        description="the model that the files are measured against: auto (the teacher of the"
        " distillation, if kdflow trained it), none, or a model, named as `model`",
    )
    margin: float = Field(
        1,
        ge=0,
        le=100,
        description="the largest loss of test accuracy against Keras that is accepted, in"
        " percentage points; a file that is shown to lose more fails the run",
    )
    calibration_images: int = Field(
        0,
        ge=0,
        description="how many training images the ranges of int8 files are measured on: a random"
        " sample, stratified by class; 0 is 500, or one of each class if there are more",
    )
    calibration_seed: int = Field(
        0, ge=0, lt=SEED_LIMIT, description="seed by which the calibration images are drawn"
    )
    weight_bits: int = Field(
        8,
        ge=4,
        le=8,
        multiple_of=4,
        description="bits per weight in the int8 LiteRT file, 8 or 4; activations have 8",
    )
    quantised_epochs: int = Field(
        10,
        ge=0,
        description="epochs of quantisation-aware distillation, for an int8 LiteRT file that loses"
        " more than the margin on validation images (training images with holdout=0); 0 turns it"
        " off",
    )
    onnx: bool = Field(True, description="make ONNX files too")
    threads: int = Field(
        1, ge=1, le=1024, description="number of threads with which a file is timed"
    )
    serve: Literal["int8", "float16", "float32"] = Field(
        "int8", description="LiteRT file that is logged as an MLflow model, and registered"
    )
    register: str = Field(
        "none",
        min_length=1,
        description="name of the registered model that gets the file as a new version, with the"
        " alias `candidate`; none registers nothing",
    )
    promote: bool = Field(
        False,
        description="give the new version the alias `champion` if it is shown to lose no more than"
        " the margin against the present champion on the same test images, or against Keras if"
        " there is none",
    )

    @field_validator("register")
    @classmethod
    def _check_name(cls, register: str) -> str:
        if not register.strip() or set(register) & set("/:"):
            raise ValueError("expected a name without / or :")
        return register

    @field_validator("promote")
    @classmethod
    def _check_register_is_set(cls, promote: bool, info: ValidationInfo) -> bool:
        if promote and info.data.get("register") == "none":
            raise ValueError("expected false without register=name")
        return promote

    @property
    def loss(self) -> float:
        """The margin as a share."""
        return self.margin / 100
