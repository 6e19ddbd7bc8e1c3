"""Dropout of pixels and rectangles for albumentations, with this library's masks.

    import cdropout.albumentations as cda
    pipeline = A.Compose([A.HorizontalFlip(), cda.PixelDropout(dropout_prob=0.1)])      # in a new pipeline
    pipeline, replaced, left = cda.replace(pipeline)                                    # in one that exists

Needs albumentations 2.0 or albumentationsx 2.0 to 2.3; `import cdropout` does not import it.
"""

import copy
from typing import Any, NamedTuple

import albumentations as A  # noqa: N812 - the usual name
import numpy as np
from albumentations.augmentations.pixel import functional

from cdropout.functions.coarse_dropout import WORDS_OF_A_HOLE, checked_ranges, holes_of
from cdropout.functions.words import shape_of_words, words_of
from cdropout.mask import Mask, draw_mask

__all__ = ["CoarseDropout", "PixelDropout", "Replaced", "replace"]

if not hasattr(A.BasicTransform, "get_params_dependent_on_data"):  # albumentationsx 2.4 draws in another method
    raise ImportError(
        f"cdropout.albumentations needs albumentations 2.0 or albumentationsx 2.0 to 2.3, got version {A.__version__}"
    )


class PixelDropout(A.PixelDropout):  # type: ignore[misc]
    """`albumentations.PixelDropout` with masks drawn by cdropout; it takes the same arguments and targets.

    The masks follow the transform's random generator, so that the seed of a `Compose` repeats them. They differ from
    albumentations' masks. A mask and its values are drawn for the first image: other images of the call, such as those
    of `additional_targets`, must have its shape and a dtype that has these values; otherwise ValueError.
    """

    def apply(self, img: Any, drop_mask: Mask, drop_values: Any, **params: Any) -> Any:
        """Return the image with its dropped pixels replaced."""
        return drop_mask.select(img, drop_values)

    def apply_to_images(self, images: Any, drop_mask: Mask, drop_values: Any, **params: Any) -> Any:
        """Return images of one shape with the same pixels of each replaced."""
        return np.stack([self.apply(image, drop_mask, drop_values) for image in images])

    def apply_to_mask(self, mask: Any, mask_drop_mask: Mask | None, mask_drop_values: Any, **params: Any) -> Any:
        """Return a segmentation mask with its dropped pixels replaced, or itself without a mask_drop_value."""
        return mask if mask_drop_mask is None else mask_drop_mask.select(mask, mask_drop_values)

    def apply_to_mask3d(self, mask3d: Any, mask_drop_mask: Mask | None, mask_drop_values: Any, **params: Any) -> Any:
        """Return the segmentation mask of a volume with the same pixels of each slice replaced, as apply_to_mask."""
        if mask_drop_mask is None:
            return mask3d
        return np.stack([self.apply_to_mask(mask, mask_drop_mask, mask_drop_values) for mask in mask3d])

    def apply_to_masks3d(self, masks3d: Any, **params: Any) -> Any:
        """Return the segmentation masks of volumes, each as by apply_to_mask3d."""
        return np.stack([self.apply_to_mask3d(mask3d, **params) for mask3d in masks3d])

    def apply_to_bboxes(self, bboxes: Any, drop_mask: Mask | None, **params: Any) -> Any:
        """Return the bounding boxes that are visible enough."""
        if drop_mask is None or self.per_channel or self.get_processor("bboxes") is None:
            return bboxes
        return super().apply_to_bboxes(bboxes, drop_mask.dropped(), **params)

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Return the masks and the values of dropped pixels for one call."""
        image = _first_of(data, {"image": 0, "images": 1, "volume": 1, "volumes": 2})
        drawn = {"drop_mask": self._draw(image), "drop_values": self._values(image, self.drop_value)}
        target = _first_of(data, {"mask": 0, "masks": 1, "mask3d": 1, "masks3d": 2})
        has_mask = self.mask_drop_value is not None and target is not None
        return {
            **drawn,
            "mask_drop_mask": self._draw(target) if has_mask else None,
            "mask_drop_values": self._values(target, self.mask_drop_value) if has_mask else None,
        }

    def _draw(self, image: Any) -> Mask:
        shared_axes = () if self.per_channel or image.ndim == 2 else 2
        return draw_mask(image.shape, self.dropout_prob, rng=self.random_generator, shared_axes=shared_axes)

    def _values(self, image: Any, value: Any) -> Any:
        """Return the values of dropped pixels in a shape that broadcasts to the image's."""
        return functional.prepare_drop_values(image[:1, :1], value, self.random_generator)


def _first_of(data: dict[str, Any], n_outer_axes: dict[str, int]) -> Any:
    """Return the first image of the first target that a call has, None if it has none. n_outer_axes: how many axes the
    targets have outside those of an image.
    """
    for name, n_axes in n_outer_axes.items():
        if data.get(name) is not None:
            array = data[name]
            for _ in range(n_axes):
                array = array[0]
            return array
    return None


class CoarseDropout(A.CoarseDropout):  # type: ignore[misc]
    """`albumentations.CoarseDropout` with rectangles drawn by cdropout; it takes the same arguments and targets.

    Each number, size and place in the given ranges is equally likely, as in `cdropout.coarse_dropout`; fractions are
    ranges of whole pixels. The rectangles follow the transform's random generator. They differ from albumentations'.
    """

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Return the rectangles (left, top, right, bottom) of one call, and the seed of random fill values."""
        size = params["shape"][:2]
        # As albumentations: if the largest size is 1 or more, both are pixels and lose what comes after the point.
        heights, widths = (
            (int(each[0]), int(each[1])) if each[1] >= 1 else each
            for each in (self.hole_height_range, self.hole_width_range)
        )
        ranges = checked_ranges(self.num_holes_range, heights, widths, size)
        n_words = 1 + WORDS_OF_A_HOLE * ranges[0][1]
        room = draw_mask(shape_of_words(n_words), 0.5, rng=self.random_generator)
        holes_by_row = np.array(holes_of(words_of(room, n_words), *ranges, size), np.int64).reshape(-1, 4)
        top, left, bottom, right = holes_by_row.T
        holes = np.stack([left, top, right, bottom], axis=-1)
        return {"holes": holes, "seed": self.random_generator.integers(0, 2**32 - 1)}


REPLACEMENTS = {A.PixelDropout: PixelDropout, A.CoarseDropout: CoarseDropout}


class Replaced(NamedTuple):
    """The result of `replace`."""

    transform: Any
    """The new transform or pipeline."""
    replaced: tuple[str, ...]
    """Where transforms have been replaced, such as "Compose[0] PixelDropout"."""
    left: tuple[str, ...]
    """Where other transforms drop parts of an image, which stay albumentations'."""


def replace(transform: Any) -> Replaced:
    """Return a copy of a transform or pipeline in which cdropout draws for PixelDropout and CoarseDropout.

    Parameters
    ----------
    transform : albumentations.BasicTransform or albumentations.BaseCompose
        A transform, or a `Compose`, `OneOf` or other composition of transforms.

    Returns
    -------
    Replaced
        The copy, where transforms were replaced, and which others drop parts of an image and were left: subclasses of
        the two, and other transforms with "Dropout" in their name or base class. The original does not change.

    Raises
    ------
    TypeError
        For an object of another kind.

    """
    if not isinstance(transform, A.BasicTransform | A.BaseCompose):
        raise TypeError(
            f"transform must be a transform or composition of albumentations, got {type(transform).__name__}"
        )
    copied, replaced, left = copy.deepcopy(transform), [], []
    changed: set[int] = set()  # ids: a transform may stand at several places
    for place, each in _transforms_of(copied, type(copied).__name__):
        if type(each) in REPLACEMENTS:
            each.__class__ = REPLACEMENTS[type(each)]  # keeps the arguments, the generators and the processors
            # albumentations holds methods of the former class.
            each._key2func = {target: getattr(each, method.__name__) for target, method in each._key2func.items()}
            changed.add(id(each))
            replaced.append(place)
        elif id(each) in changed:
            replaced.append(place)
        elif isinstance(each, PixelDropout | CoarseDropout):
            continue
        elif any("Dropout" in base.__name__ for base in type(each).__mro__):
            left.append(place)
    return Replaced(copied, tuple(replaced), tuple(left))


def _transforms_of(transform: Any, place: str) -> list[tuple[str, Any]]:
    """Return the transforms of a composition, at any depth, each with its place."""
    if not isinstance(transform, A.BaseCompose):
        return [(place, transform)]
    found = []
    for i, each in enumerate(transform.transforms):
        found += _transforms_of(each, f"{place}[{i}] {type(each).__name__}")
    return found
