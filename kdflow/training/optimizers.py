"""The optimisers that a user can choose."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from kdflow.config.fitting import DECAYING, Settings
from kdflow.training.schedules import schedule

WEIGHT_DECAY = 0.0178  # per step and unit of learning rate
BIAS_RATE = 64
LOOKAHEAD_STEPS = 5
LOOKAHEAD_LAST_SHARE = 0.95**5  # at the last step


class SpeedrunSGD(keras.optimizers.SGD):
    """SGD as in Jordan 2024: Nesterov momentum 0.85, weights that decay, a learning rate 64 times
    as large for the biases of batch normalisation, and Lookahead (Zhang et al. 2019): every 5 steps
    and at the last one, the weights w and a slow copy s of them are both set to p s + (1 - p) w,
    with p = 0.95^5 (step / steps)^3. Unlike there, p is not 1 at a last step that is not one of
    these, and the moving statistics of batch normalisation are not averaged."""

    def __init__(self, rate: Any, steps: int, **options: Any) -> None:
        # Jordan 2024: 0.0153 a batch of 1,024 at any rate; momentum multiplies it by 1 / (1 - 0.85)
        decayed = {"weight_decay": WEIGHT_DECAY, **options}
        super().__init__(rate, momentum=0.85, nesterov=True, **decayed)
        self.steps = steps

    def build(self, variables: list[keras.Variable]) -> None:
        if not self.built:
            super().build(variables)
            self.slow = self.add_optimizer_variables(variables, "slow")
            for slow, variable in zip(self.slow, variables, strict=True):
                slow.assign(ops.copy(variable))  # JAX must not be given one buffer twice

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        index = self._get_variable_index(variable)
        # a backend may pass its own variable, which has another name
        if self._trainable_variables[index].name == "beta":
            learning_rate = BIAS_RATE * learning_rate
        super().update_step(gradient, variable, learning_rate)
        step = self.iterations + 1
        slow, fast = map(ops.convert_to_tensor, (self.slow[index], variable))
        slow_share = LOOKAHEAD_LAST_SHARE * (ops.cast(step, fast.dtype) / self.steps) ** 3
        between = slow_share * slow + (1 - slow_share) * fast
        due = ops.logical_or(ops.equal(step % LOOKAHEAD_STEPS, 0), ops.equal(step, self.steps))
        self.assign(self.slow[index], ops.where(due, between, slow))
        self.assign(variable, ops.where(due, between, fast))


class Muon(keras.optimizers.Muon):
    """Muon (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"): the
    step of a kernel, as a matrix of (values that enter an output, outputs), is made orthogonal.
    Keras updates the kernels of convolutions with AdamW; here they are such matrices too. AdamW
    still updates biases, normalisation, depthwise kernels and the last kernel, which gives the
    logits.
    """

    def build(self, variables: list[keras.Variable]) -> None:
        kernels = [index for index, each in enumerate(variables) if len(each.shape) > 1]
        self.last_kernel = kernels[-1] if kernels else None
        super().build(variables)

    def _should_use_adamw(self, variable: Any) -> bool:
        is_last = self._get_variable_index(variable) == self.last_kernel
        # a depthwise kernel has one output for each input: there is nothing to be orthogonal to
        return is_last or len(variable.shape) not in (2, 4) or variable.shape[-1] == 1

    def zeropower_via_newtonschulz5(self, x: Any, steps: int) -> Any:
        matrix = ops.reshape(x, (-1, x.shape[-1]))
        return ops.reshape(super().zeropower_via_newtonschulz5(matrix, steps), x.shape)

    def lr_adjust(self, x: Any) -> Any:
        return ops.reshape(super().lr_adjust(ops.reshape(x, (-1, x.shape[-1]))), x.shape)


def _muon(rate: Any, steps: int, weight_decay: float = 0, **options: Any) -> keras.Optimizer:
    optimizer = Muon(rate, weight_decay=weight_decay, adam_weight_decay=weight_decay, **options)
    return _decaying_kernels_alone(optimizer)


def _adamw(rate: Any, steps: int, **options: Any) -> keras.Optimizer:
    return _decaying_kernels_alone(keras.optimizers.AdamW(rate, **options))


def _decaying_kernels_alone(optimizer: keras.Optimizer) -> keras.Optimizer:
    # on TensorFlow a variable is called `layer/bias:0`, and the layer may have any name
    optimizer.exclude_from_weight_decay(var_names=[r"(^|/)(bias|beta|gamma)(:\d+)?$"])
    return optimizer


# From (the learning rate or its schedule, the number of steps, the options of any Keras optimiser)
# to the optimiser.
OPTIMIZERS: dict[str, Callable[..., keras.Optimizer]] = {
    "adam": lambda rate, steps, **options: keras.optimizers.Adam(rate, **options),
    "adamw": _adamw,
    "muon": _muon,
    "sgd": lambda rate, steps, **options: keras.optimizers.SGD(
        rate, momentum=0.9, nesterov=True, **options
    ),
    "speedrun": SpeedrunSGD,
}


def make_optimizer(settings: Settings, steps_per_epoch: int) -> keras.Optimizer:
    """The optimiser of a training on one device.

    Args:
        steps_per_epoch: the number of batches of an epoch.
    """
    steps = settings.epochs * steps_per_epoch
    rate = schedule(settings, steps_per_epoch)
    options: dict[str, Any] = {}
    if settings.optimizer in DECAYING:
        options["weight_decay"] = settings.weight_decay
    if settings.clip_norm:
        options["global_clipnorm"] = settings.clip_norm
    if settings.ema:
        options |= {"use_ema": True, "ema_momentum": settings.ema}
    optimizer = OPTIMIZERS[settings.optimizer](rate, steps, **options)
    # Keras would replace the weights by their average after each call of `fit`, a part of an epoch
    optimizer.finalize_variable_values = _leave
    # Keras 3.15 on TensorFlow sums the gradients of all devices, of which there is one, by a
    # function that TensorFlow keeps for ever, and with it the graph of each training: 9 MB.
    if hasattr(optimizer, "_all_reduce_sum_gradients"):
        optimizer._all_reduce_sum_gradients = list
    return optimizer


def _leave(variables: Any) -> None:
    """Leave the variables as they are."""
