"""The base classes of all layers: `Layer`, and `DropoutLayer` for layers with a probability of dropping and a mask."""

from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from cdropout import _kernels
from cdropout.checks import check_flag, check_version, fetch_fields, shown
from cdropout.mask import Mask
from cdropout.stream import STATE_VERSION, Rng, Stream, as_stream, restore_stream


class Layer:
    """A layer that draws from a stream in training.

    It holds a rate (p, or std for noise), a stream and a mode, saves and restores them, and builds the repr. Subclasses
    define `forward` and `backward`, and a property for the rate that checks its values. This constructor draws a seed
    if rng is a NumPy generator, so subclasses check their other arguments before they call it.
    """

    # Name of the rate attribute: `p`, or `std` for GaussianNoise.
    _rate_name: ClassVar[str]
    # Names of the fields that change when the rate is set.
    _rate_fields: ClassVar[tuple[str, ...]]
    # Types that a field may have in a pickle. A subclass adds the fields of its constructor.
    _field_types: ClassVar[dict[str, Any]] = {
        "training": bool | int | np.bool_,
        "inplace": bool | int | np.bool_,
        "_rng": Stream | None,
        "params": list | tuple,
        "grads": list | tuple,
    }

    def __init__(self, rate: float, *, rng: Rng | None = None, inplace: bool = False) -> None:
        inplace = check_flag("inplace", inplace)
        setattr(self, self._rate_name, rate)
        self.inplace = inplace
        self.training = True
        self.rng = rng
        self.params: list[npt.NDArray[Any]] = []
        self.grads: list[npt.NDArray[Any]] = []

    # ---- the stream and the mode ------------------------------------------------------------------------------------

    def _link_copies(self, copies: dict[int, Any]) -> None:
        """Prepare a copy that works beside its original; copies has those of all layers, by the originals' id.

        A subclass that refers to other layers, or has memory that a second layer must not use, overrides this.
        """

    @property
    def rng(self) -> Stream | None:
        """The stream that the layer draws from; None for the default stream. Setting a seed makes a stream of it."""
        return self._rng

    @rng.setter
    def rng(self, rng: Rng | None) -> None:
        self._rng = None if rng is None else as_stream(rng)

    def train(self, mode: bool = True) -> Self:
        """Switch to training, or to evaluation if mode is False, and return the layer."""
        self.training = bool(mode)
        return self

    def eval(self) -> Self:
        """Switch to evaluation and return the layer."""
        return self.train(False)

    def __call__(self, *inputs: npt.ArrayLike) -> npt.NDArray[Any]:
        """Run `forward`."""
        return self.forward(*inputs)  # type: ignore[attr-defined,no-any-return]

    def _check_not_training(self) -> None:
        """Raise RuntimeError if the layer is in training: a backward pass then needs the mask of a forward pass."""
        if self.training:
            raise RuntimeError("backward must follow a forward pass in training, and none has been made")

    # ---- saving and restoring ---------------------------------------------------------------------------------------

    @property
    def state(self) -> dict[str, Any]:
        """The state that changes from step to step, without `params`: a dict of plain values, which JSON can hold.

        Keys: `version`; `p` (`std` for GaussianNoise); `training`; `rng`, the stream's `state` or None for the default
        stream. Results that a forward pass keeps for `backward` are not included. When the state is set, the layer's
        stream, which other layers may share, moves to the saved position; a layer without one gets a new stream. An
        invalid state raises ValueError or TypeError and changes nothing.
        """
        return {
            "version": STATE_VERSION,
            self._rate_name: getattr(self, self._rate_name),
            "training": self.training,
            "rng": None if self._rng is None else self._rng.state,
        }

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        state = fetch_fields("state", state, ("version", self._rate_name, "training", "rng"))
        check_version("state", state["version"], STATE_VERSION)
        if not isinstance(state["training"], bool):
            raise TypeError(f"state['training'] must be True or False, got {state['training']!r}")
        # Not through __dict__: from its first use on, Python finds a layer's attributes more slowly.
        before = [(name, getattr(self, name)) for name in (*self._rate_fields, "training", "_rng")]
        try:
            setattr(self, self._rate_name, state[self._rate_name])
            self.training = state["training"]
            if state["rng"] is None or self._rng is None:
                self.rng = None if state["rng"] is None else restore_stream(state["rng"])
            else:
                self._rng.state = state["rng"]  # last, because layers may share the stream
        except BaseException:
            for name, value in before:
                setattr(self, name, value)
            raise

    def __getstate__(self) -> dict[str, Any]:
        return {"version": STATE_VERSION, **self.__dict__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the fields of a pickle; ValueError if one is missing, TypeError or ValueError if one is invalid."""
        if not isinstance(state, dict):
            raise TypeError(f"a pickled {type(self).__name__} must hold a dict, got {shown(state)}")
        fields = {**state}
        version = fields.pop("version", STATE_VERSION)  # the first pickles have none
        check_version(f"a pickled {type(self).__name__}", version, STATE_VERSION)
        try:
            self._check_fields(fields)
        except KeyError as error:
            raise ValueError(f"a pickled {type(self).__name__} must have a field {error}") from error
        own = self.__dict__
        before = own.copy()
        try:
            own.update(fields)
            self._prepare()
        except BaseException:
            own.update(before)
            raise

    def _check_fields(self, fields: dict[str, Any]) -> None:
        """Raise TypeError or ValueError for a field of a pickle that is not valid, KeyError if one is missing.

        Rates are replaced by floats, because an object of another type may convert to another number next time.
        """
        for name, types in self._field_types.items():
            if not isinstance(fields[name], types):
                raise TypeError(f"{name} of a pickled {type(self).__name__} must not be {shown(fields[name])}")

    def _set(self, name: str, value: Any) -> None:
        """Set an attribute and the values that follow from it; if this fails, all keep their old values."""
        before = getattr(self, name, value)
        try:
            setattr(self, name, value)
            self._prepare()
        except BaseException:
            setattr(self, name, before)
            raise

    def _prepare(self) -> None:
        """Compute values that follow from the rate and options; called when one is set, and for a loaded pickle.

        A subclass computes first and then assigns once, so that a failure changes nothing. It lists what it assigns in
        `_rate_fields`.
        """

    # ---- text -------------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        options = "".join(f", {name}={value!r}" for name, value in self._options().items())
        return f"{type(self).__name__}({self._rate_name}={getattr(self, self._rate_name)}{options})"

    def _options(self) -> dict[str, Any]:
        """Return the constructor's arguments, except rate and rng, whose values differ from their defaults.

        Only plain values that the layer keeps under the argument's name are included.
        """
        options: dict[str, Any] = {}
        missing = object()  # not a plain value
        for layer_type in type(self).__mro__[:-1]:
            parameters = _signature_of(layer_type).parameters
            for name, parameter in parameters.items():
                value = getattr(self, name, missing)
                if name not in (self._rate_name, "rng") and isinstance(value, bool | int | float | str | tuple | None):
                    options.setdefault(name, (value, parameter.default))
            if not any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
                break  # this constructor passes no keywords on to the classes above it
        return {name: value for name, (value, default) in options.items() if value != default}


# inspect.signature, loaded by the first repr, because importing inspect takes long. While the interpreter ends, imports
# fail, also of modules that have been imported.
_signature: Any = None


def _signature_of(layer_type: type[Any]) -> Any:
    global _signature
    if _signature is None:
        from inspect import signature as _signature
    return _signature(layer_type)


class DropoutLayer(Layer):
    """A layer with a probability of dropping, p, and the mask of its last forward pass."""

    _rate_name = "p"
    _rate_fields: ClassVar[tuple[str, ...]] = ("_p",)
    _p: float
    _field_types: ClassVar[dict[str, Any]] = {**Layer._field_types, "mask": Mask | None}

    def __init__(self, p: float = 0.5, *, rng: Rng | None = None, inplace: bool = False) -> None:
        super().__init__(p, rng=rng, inplace=inplace)
        self.mask: Mask | None = None

    @property
    def p(self) -> float:
        """The probability of dropping an element."""
        return self._p

    @p.setter
    def p(self, p: float) -> None:
        self._set("_p", self._checked_p(p))

    def _checked_p(self, p: float) -> float:
        """Return p as a float; TypeError or ValueError for a p that the layer does not allow."""
        return _kernels.check_p(p)

    def _check_fields(self, fields: dict[str, Any]) -> None:
        fields["_p"] = self._checked_p(fields["_p"])
        super()._check_fields(fields)

    def _through_mask(self, dy: npt.ArrayLike, out: Any, scale: float | None) -> npt.NDArray[Any] | None:
        """Return the gradient through the mask; without a mask return None in evaluation, and raise in training."""
        if self.mask is not None:
            return _kernels.apply_to_floats(self.mask, dy, "dy", out, scale)
        self._check_not_training()
        return None
