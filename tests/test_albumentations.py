"""cdropout.albumentations against albumentations itself."""

import os

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # no look for a newer version on the network

import importlib.util

import numpy as np
import pytest

A = pytest.importorskip("albumentations")
cda = pytest.importorskip("cdropout.albumentations", exc_type=ImportError)  # for albumentationsx 2.4 and later

IMAGES = {
    "grey": np.random.default_rng(0).integers(1, 255, (60, 70), np.uint8),
    "colour": np.random.default_rng(0).integers(1, 255, (60, 70, 3), np.uint8),
    "five channels, float32": np.random.default_rng(0).random((60, 70, 5), np.float32) + np.float32(0.01),
}


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("drop_value", [0, 0.0, None, "channels"])
def test_pixels_are_dropped_as_often_and_filled_as_by_albumentations(name, per_channel, drop_value):
    image = IMAGES[name]
    if drop_value == "channels":
        drop_value = tuple(range(10, 10 + (1 if image.ndim == 2 else image.shape[2])))
    arguments = {"dropout_prob": 0.3, "per_channel": per_channel, "drop_value": drop_value, "p": 1.0}
    results = [cls(**arguments)(image=image)["image"] for cls in (A.PixelDropout, cda.PixelDropout)]
    for result in results:
        assert result.dtype == image.dtype
        assert result.shape == image.shape
        is_dropped = (result != image).reshape(60, 70, -1)
        if drop_value is None:
            continue
        values = np.broadcast_to(np.array(drop_value, image.dtype), is_dropped.shape)
        assert np.array_equal(result.reshape(is_dropped.shape)[is_dropped], values[is_dropped])
        if not per_channel and drop_value in (0, 0.0):
            assert np.array_equal(is_dropped.any(2), is_dropped.all(2))
        n_trials = is_dropped.size if per_channel else 60 * 70
        assert abs(is_dropped.mean() - 0.3) < 5 * np.sqrt(0.21 / n_trials) + 0.01  # 5 sigma, and equal values


def test_masks_and_bounding_boxes_are_targets():
    image, labels = IMAGES["colour"], np.ones((60, 70), np.uint8)
    for cls in (A.PixelDropout, cda.PixelDropout):
        pipeline = A.Compose(
            [cls(dropout_prob=0.5, mask_drop_value=7, p=1.0)],
            bbox_params=A.BboxParams("pascal_voc", label_fields=["labels"], min_visibility=0.1),
            seed=1,
        )
        result = pipeline(image=image, mask=labels, bboxes=[[5, 5, 40, 40]], labels=[1])
        assert set(np.unique(result["mask"])) == {1, 7}
        assert len(result["bboxes"]) == 1
        empty = A.Compose([cls(dropout_prob=1.0, p=1.0)], bbox_params=pipeline.processors["bboxes"].params, seed=1)
        assert len(empty(image=image, bboxes=[[5, 5, 40, 40]], labels=[1])["bboxes"]) == 0
        assert np.array_equal(empty(image=image, mask=labels, bboxes=[], labels=[])["mask"], labels)
    batch = cda.PixelDropout(dropout_prob=0.5, p=1.0)(images=np.stack([image] * 2))["images"]
    assert np.array_equal(batch[0], batch[1])
    assert not np.array_equal(batch[0], image)


def test_images_masks_and_volumes_of_a_call_lose_the_same_pixels():
    images, masks = np.stack([IMAGES["colour"]] * 2), np.full((2, 60, 70), 1, np.uint8)
    for cls in (cda.PixelDropout, cda.CoarseDropout):
        given = {"dropout_prob": 0.5, "mask_drop_value": 7} if cls is cda.PixelDropout else {"fill_mask": 7}
        result = A.Compose([cls(p=1.0, **given)], seed=1)(images=images, masks=masks)
        assert np.array_equal(result["images"][0], result["images"][1])
        assert not np.array_equal(result["images"][0], images[0])
        assert [set(np.unique(mask)) for mask in result["masks"]] == [{1, 7}] * 2
        assert np.array_equal(result["masks"][0], result["masks"][1])
    volume = A.Compose([cda.PixelDropout(dropout_prob=0.5, p=1.0)], seed=1)(volume=images)["volume"]
    assert np.array_equal(volume[0], volume[1])
    assert (volume == 0).any()


def test_sizes_of_rectangles_that_mix_fractions_and_pixels_are_pixels_as_in_albumentations():
    image = np.ones((60, 70, 3), np.uint8)
    sizes = {"num_holes_range": (1, 1), "hole_height_range": (0.5, 1.0), "hole_width_range": (2.0, 2.0), "p": 1.0}
    for cls in (A.CoarseDropout, cda.CoarseDropout):
        found = {int((A.Compose([cls(**sizes)], seed=i)(image=image)["image"] == 0).sum()) for i in range(20)}
        assert found <= {0, 1 * 2 * 3}, cls
        assert found, cls


@pytest.mark.parametrize("n_outer_axes", [1, 2])
def test_volumes_and_their_masks_lose_pixels_of_every_slice(n_outer_axes):
    volume, mask = np.stack([IMAGES["colour"]] * 3), np.ones((3, 60, 70), np.uint8)
    given = (
        {"volume": volume, "mask3d": mask}
        if n_outer_axes == 1
        else {
            "volumes": np.stack([volume] * 2),
            "masks3d": np.stack([mask] * 2),
        }
    )
    for cls in (cda.PixelDropout, cda.CoarseDropout):
        values = {"dropout_prob": 0.5, "mask_drop_value": 7} if cls is cda.PixelDropout else {"fill_mask": 7}
        result = A.Compose([cls(p=1.0, **values)], seed=1)(**given)
        for (name, array), n_axes in zip(given.items(), (3, 2), strict=True):
            slices = result[name].reshape(-1, *array.shape[-n_axes:])
            assert all(np.array_equal(each, slices[0]) for each in slices)
            assert not np.array_equal(slices[0], array.reshape(slices.shape)[0])
        assert set(np.unique(slices)) == {1, 7}


def test_an_albumentations_that_draws_in_another_method_is_refused(monkeypatch):
    monkeypatch.delattr(A.BasicTransform, "get_params_dependent_on_data")
    spec = importlib.util.spec_from_file_location("another_copy", cda.__file__)
    with pytest.raises(ImportError, match=r"needs albumentations 2.0 or albumentationsx 2.0 to 2.3, got version"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_additional_images_of_another_shape_are_refused():
    pipeline = A.Compose([cda.PixelDropout(p=1.0)], additional_targets={"second": "image"}, seed=1)
    image = IMAGES["colour"]
    result = pipeline(image=image, second=image)
    assert np.array_equal(result["image"], result["second"])
    with pytest.raises(ValueError, match="a must have the mask's shape"):
        pipeline.transforms[0](image=image, second=image[:, :, :1])


@pytest.mark.parametrize("fill", [0, (1, 2, 3), "random", "random_uniform"])
@pytest.mark.parametrize(("heights", "widths"), [((0.1, 0.5), (0.2, 0.2)), ((3, 9), (10, 20))])
def test_rectangles_have_the_numbers_and_sizes_that_were_asked_for(fill, heights, widths):
    image = IMAGES["colour"]
    transform = cda.CoarseDropout((2, 4), heights, widths, fill=fill, fill_mask=9, p=1.0)
    reference = A.CoarseDropout((2, 4), heights, widths, fill=fill, fill_mask=9, p=1.0)
    bounds = []
    for each in (transform, reference):
        sizes = []
        for _ in range(300):
            holes = each.get_params_dependent_on_data({"shape": image.shape}, {})["holes"]
            assert 2 <= len(holes) <= 4
            assert np.all(holes[:, :2] >= 0)
            assert np.all(holes[:, 2:] <= (70, 60))
            sizes.append(holes[:, 2:] - holes[:, :2])
        bounds.append((np.concatenate(sizes).min(0), np.concatenate(sizes).max(0)))
    assert np.abs(np.array(bounds[0]) - bounds[1]).max() <= 1
    result = transform(image=image, mask=np.ones((60, 70), np.uint8))
    assert (result["mask"] == 9).any()
    assert np.array_equal(result["image"][result["mask"] == 1], image[result["mask"] == 1])


def test_seeds_repeat_and_serialized_pipelines_load():
    image = IMAGES["colour"]
    pipelines = [A.Compose([cda.PixelDropout(p=1.0), cda.CoarseDropout(p=1.0)], seed=seed) for seed in (1, 1, 2)]
    first, again, other = (pipeline(image=image)["image"] for pipeline in pipelines)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, pipelines[0](image=image)["image"])
    loaded = A.from_dict(A.to_dict(pipelines[0]))
    assert [type(each) for each in loaded.transforms] == [cda.PixelDropout, cda.CoarseDropout]


def test_replace_finds_transforms_at_any_depth_and_reports_what_it_leaves():
    original = A.Compose(
        [A.PixelDropout(0.2, p=1.0), A.OneOf([A.CoarseDropout(p=1.0), A.GridDropout(p=1.0)]), A.HorizontalFlip()],
        seed=3,
    )
    transform, replaced, left = cda.replace(original)
    assert replaced == ("Compose[0] PixelDropout", "Compose[1] OneOf[0] CoarseDropout")
    assert left == ("Compose[1] OneOf[1] GridDropout",)
    assert [type(each) for each in transform.transforms] == [cda.PixelDropout, A.OneOf, A.HorizontalFlip]
    assert type(original.transforms[0]) is A.PixelDropout
    assert transform.transforms[0].dropout_prob == 0.2
    result, again = (cda.replace(original).transform(image=IMAGES["colour"])["image"] for _ in range(2))
    assert np.array_equal(result, again)
    assert cda.replace(transform)[1:] == ((), left)
    assert cda.replace(A.PixelDropout()).replaced == ("PixelDropout",)
    twice = A.PixelDropout()
    assert cda.replace(A.Compose([twice, A.OneOf([twice])])).replaced == (
        "Compose[0] PixelDropout",
        "Compose[1] OneOf[0] PixelDropout",
    )
    with pytest.raises(TypeError, match="transform must be a transform or composition of albumentations, got list"):
        cda.replace([A.PixelDropout()])
