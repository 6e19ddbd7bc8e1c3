"""What immutable values have in common: equality, hash, copies and pickles, by their fields."""

from typing import Any, ClassVar

from cdropout.checks import shown


class Value:
    """A value that is fully given by its fields, in the order in which its class takes them.

    A new version of its pickles may add fields at the end, which older pickles leave out.
    """

    __slots__ = ()
    PICKLE_VERSION: ClassVar[int]

    def _fields(self) -> tuple[Any, ...]:
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        if isinstance(other, type(self)) or (isinstance(other, Value) and isinstance(self, type(other))):
            return self._fields() == other._fields()
        return NotImplemented

    def __hash__(self) -> int:
        return hash(self._fields())

    def __bool__(self) -> bool:
        return True

    def __copy__(self) -> "Value":
        return self

    def __deepcopy__(self, memo: object) -> "Value":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return restore, (type(self), self.PICKLE_VERSION, *self._fields())


def restore(value_type: type[Any], version: int, *fields: Any) -> Any:
    """Make a value of a pickle's fields."""
    versions = range(1, value_type.PICKLE_VERSION + 1)
    if type(version) is not int or version not in versions:
        known = " or ".join(map(str, versions))
        raise ValueError(f"a pickled {value_type.__name__} must be of version {known}, got version {shown(version)}")
    return value_type(*fields)
