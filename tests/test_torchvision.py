"""The transform for torchvision on the page docs/augmentation.md, with torchvision itself."""

import importlib
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("PIL")
try:
    v2 = importlib.import_module("torchvision.transforms.v2")
except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision of another build of PyTorch
    pytest.skip(f"torchvision cannot be imported: {str(error).splitlines()[0]}", allow_module_level=True)

from pages import blocks_of  # noqa: E402
from torchvision import tv_tensors  # noqa: E402

import cdropout as cd  # noqa: E402

PAGE = Path(__file__).parents[1] / "docs" / "augmentation.md"
IMAGE = torch.arange(1, 3 * 20 * 30 + 1, dtype=torch.int64).remainder(251).add(1).to(torch.uint8).reshape(3, 20, 30)


@pytest.fixture(scope="module")
def pixel_dropout():
    """The page's class."""
    (block,) = (each for each in blocks_of(PAGE) if "tv_tensors.wrap" in each.code)
    namespace = {"cd": cd, "np": np}
    exec(compile(block.code, str(PAGE), "exec"), namespace)
    return namespace["PixelDropout"]


@pytest.mark.parametrize("kind", [torch.Tensor, tv_tensors.Image, tv_tensors.Video])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_whole_pixels_take_the_fill_and_others_stay(pixel_dropout, kind, dtype):
    given = torch.stack([IMAGE, IMAGE]) if kind is tv_tensors.Video else IMAGE
    given = given.to(dtype) if kind is torch.Tensor else kind(given.to(dtype))
    torch.manual_seed(1)
    result = pixel_dropout(0.3, fill=0)(given)
    assert type(result) is type(given)
    assert result.dtype == dtype
    dropped = (result == 0).any(-3)
    assert torch.equal(dropped, (result == 0).all(-3))
    assert abs(dropped.float().mean() - 0.3) < 5 * (0.21 / dropped.numel()) ** 0.5
    assert torch.equal(result, torch.where(dropped.unsqueeze(-3), torch.zeros_like(given), given))
    torch.manual_seed(1)
    assert torch.equal(pixel_dropout(0.3, fill=0)(given), result)
    assert not torch.equal(pixel_dropout(0.3, fill=0)(given), result)


def test_in_a_pipeline_images_change_and_boxes_and_labels_stay(pixel_dropout):
    boxes = tv_tensors.BoundingBoxes([[1, 2, 9, 9]], format="XYXY", canvas_size=(20, 30))
    mask = tv_tensors.Mask(torch.ones(20, 30, dtype=torch.uint8))
    pipeline = v2.Compose([v2.RandomHorizontalFlip(1.0), pixel_dropout(0.5, fill=255), v2.ToDtype(torch.float32)])
    image, target = pipeline(tv_tensors.Image(IMAGE), {"boxes": boxes, "mask": mask, "label": 3})
    assert image.dtype == torch.float32
    assert 0.3 < (image == 255).float().mean() < 0.7
    assert target["boxes"].tolist() == [[21, 2, 29, 9]]
    assert target["label"] == 3
    assert target["mask"].eq(1).all()


def test_pil_images_are_refused_and_converted_ones_are_not(pixel_dropout):
    from PIL import Image

    image = Image.fromarray(IMAGE.permute(1, 2, 0).numpy())
    with pytest.raises(TypeError, match=r"put v2.ToImage\(\) before PixelDropout"):
        pixel_dropout(0.5)(image)
    assert (v2.Compose([v2.ToImage(), pixel_dropout(0.5)])(image) == 0).any()
