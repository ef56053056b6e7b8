from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from cape.checkpoints import untrained
from cape.configuration import BackboneConfiguration, HeadConfiguration
from cape.data.coco_dataset import CocoDataset
from cape.data.crops import Jitter, crop_object
from cape.pretrained.packages import EFFICIENTNET_PACKAGE
from cape.training.encoders import BackboneEncoders, Encoder, EncodingPart, onnx_encoder
from cape.training.features import FeatureCache, FeatureRecipe, backbone_digest, build_feature_cache
from cape.training.parts import DatasetPart
from tests.conftest import tiny_configuration


def recipe(**changes: object) -> FeatureRecipe:
    values: dict[str, object] = {
        "source": {"kind": "coco"},
        "copies": 3,
        "jitter": Jitter(),
        "size": 32,
        "padding": 1.25,
        "seed": 0,
        "backbone": "0",
    }
    return FeatureRecipe(**(values | changes))  # type: ignore[arg-type]


class Thumbnails:
    """Mean colours of 8 × 8 pixels as features, so that a test can say what they must be; counts its crops."""

    def __init__(self, fail_after: int | None = None) -> None:
        self.crops = 0
        self._fail_after = fail_after

    def __call__(self, images: int) -> Encoder:
        return self._encode

    def _encode(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float16]:
        if self._fail_after is not None and self.crops >= self._fail_after:
            raise InterruptedError
        self.crops += len(images)
        return thumbnails(images)


def thumbnails(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float16]:
    cells = images.reshape(len(images), 4, 8, 4, 8, 3).mean((2, 4))
    return np.moveaxis(cells, -1, 1).astype(np.float16)


def quiet(step: str, done: int, total: int) -> None: ...


def test_every_copy_is_that_of_its_object_and_its_keypoints(dots: Path, tmp_path: Path) -> None:
    dataset = CocoDataset(dots, skeleton_base=0)
    cache = build_feature_cache(dataset, recipe(), Thumbnails(), tmp_path, quiet)
    assert [cache.objects(category) for category in (0, 1)] == [4, 4]
    object_id = dataset.objects(1)[2]
    expected = [
        crop_object(dataset.load(object_id), size=32, warp=Jitter().draw(np.random.default_rng((0, object_id, copy))))
        for copy in range(3)
    ]
    for seed in range(6):
        copy = int(np.random.default_rng(seed).integers(3))
        shot = cache.shot(1, 2, np.random.default_rng(seed))
        np.testing.assert_array_equal(shot.image, thumbnails(expected[copy].image[np.newaxis])[0])
        np.testing.assert_array_equal(shot.keypoints, expected[copy].keypoints)
        np.testing.assert_array_equal(shot.visible, expected[copy].visible)


def test_an_interrupted_cache_goes_on_where_it_stopped(dots: Path, tmp_path: Path, monkeypatch) -> None:
    # By the function, not by name: another test may have taken the package out of sys.modules and back.
    monkeypatch.setitem(build_feature_cache.__globals__, "PUBLISHED_EVERY", 1)
    dataset = CocoDataset(dots, skeleton_base=0)
    with pytest.raises(InterruptedError):
        build_feature_cache(dataset, recipe(), Thumbnails(fail_after=15), tmp_path / "a", quiet)
    rest = Thumbnails()
    resumed = build_feature_cache(dataset, recipe(), rest, tmp_path / "a", quiet)
    assert rest.crops == 24 - 15
    straight = build_feature_cache(dataset, recipe(), Thumbnails(), tmp_path / "b", quiet)
    for number in range(4):
        one, other = (cache.shot(0, number, np.random.default_rng(number)) for cache in (resumed, straight))
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.keypoints, other.keypoints)


def test_a_finished_cache_is_used_again_and_another_recipe_is_another_cache(dots: Path, tmp_path: Path) -> None:
    dataset = CocoDataset(dots, skeleton_base=0)
    build_feature_cache(dataset, recipe(), Thumbnails(), tmp_path, quiet)
    again = Thumbnails()
    build_feature_cache(dataset, recipe(), again, tmp_path, quiet)
    assert again.crops == 0
    for changed in (recipe(seed=1), recipe(backbone="1"), recipe(jitter=Jitter(5, 0.15)), recipe(copies=2)):
        other = Thumbnails()
        build_feature_cache(dataset, changed, other, tmp_path, quiet)
        assert other.crops == 8 * changed.copies


def test_objects_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    from tests.cape.training.conftest import write_dots

    dots = write_dots(tmp_path / "dots")
    (dots.parent / "images" / "2.png").write_bytes(b"")
    cache = build_feature_cache(CocoDataset(dots, skeleton_base=0), recipe(), Thumbnails(), tmp_path / "c", quiet)
    assert isinstance(cache, FeatureCache)
    assert cache.unusable == 1 and cache.objects(0) == 3


def test_held_out_objects_are_not_trained_on(dots: Path) -> None:
    dataset = CocoDataset(dots, skeleton_base=0)
    train, held_out = DatasetPart(dataset, 1, "first"), DatasetPart(dataset, 1, "last")
    for category in (0, 1):
        assert [*train.objects(category), *held_out.objects(category)] == list(dataset.objects(category))
        assert len(held_out.objects(category)) == 1


def test_encoders_are_the_backbone_in_pytorch_and_in_onnx_runtime() -> None:
    backbone = BackboneConfiguration(
        kind="efficientnet_lite0", weights=f"package:{EFFICIENTNET_PACKAGE}", image_size=64
    )
    head = HeadConfiguration(width=32, heads=2, similarity_size=4)
    system = untrained(tiny_configuration(system="graphcape", text=None, backbone=backbone, head=head))
    images = np.random.default_rng(0).integers(0, 256, size=(3, 64, 64, 3), dtype=np.uint8)
    with torch.inference_mode():
        expected = system.encode_image(torch.from_numpy(images)).numpy()
    for encode in (
        BackboneEncoders(system, torch.device("cpu"))(3),
        onnx_encoder(EncodingPart(system.image_backbone), 64, 1),
    ):
        encoded = encode(images)
        assert encoded.dtype == np.float16
        np.testing.assert_allclose(encoded, expected, atol=2e-2, rtol=2e-3)


def test_the_digest_changes_with_the_backbone_and_not_with_the_head() -> None:
    configuration = tiny_configuration(system="graphcape", text=None)
    one, other = untrained(configuration, seed=3), untrained(configuration, seed=4)
    assert backbone_digest(one) != backbone_digest(other)
    other.image_backbone.load_state_dict(one.image_backbone.state_dict())
    assert backbone_digest(one) == backbone_digest(other)
