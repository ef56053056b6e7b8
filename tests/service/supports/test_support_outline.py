"""What a support's name depends on, and what it does not."""

from __future__ import annotations

import pytest

from cape.v1 import image_pb2, modality_pb2, support_pb2
from service.supports.names import content_name
from service.supports.outline import SupportOutline
from tests.service.messages import cat_support, encoded, photograph, raw

MEANINGLESS = {
    "name": lambda s: setattr(s, "name", "supports/other"),
    "create_time": lambda s: s.create_time.GetCurrentTime(),
    "an edge the other way round": lambda s: s.skeleton[0].CopyFrom(support_pb2.SkeletonEdge(start=2, end=0)),
    "an edge twice": lambda s: s.skeleton.add(start=0, end=2),
    "edges in another order": lambda s: s.skeleton.reverse(),
    "the default modalities spelled out": lambda s: s.modalities.extend([2, 1, 2]),
}

MEANINGFUL = {
    "category": lambda s: setattr(s, "category", "dog"),
    "keypoint name": lambda s: setattr(s.keypoints[0], "name", "ear"),
    "description": lambda s: setattr(s.keypoints[0], "description", "the left ear"),
    "letters moved from the name to the description": lambda s: s.keypoints[0].CopyFrom(
        support_pb2.KeypointDefinition(name="left", description=" ear")
    ),
    "keypoint order": lambda s: s.keypoints.reverse(),
    "one edge less": lambda s: s.skeleton.pop(),
    "modalities": lambda s: s.modalities.append(modality_pb2.MODALITY_IMAGE),
    "pixels": lambda s: setattr(s.examples[0].image, "encoded", encoded(photograph(seed=9))),
    "raw pixels in place of a file": lambda s: s.examples[0].image.CopyFrom(raw(photograph())),
    "box": lambda s: setattr(s.examples[0].box, "width", 81),
    "no box": lambda s: s.examples[0].ClearField("box"),
    "coordinate": lambda s: setattr(s.examples[0].keypoints[0], "x", 20.5),
    "hidden": lambda s: setattr(s.examples[0].keypoints[0], "hidden", True),
    "another example": lambda s: s.examples.append(s.examples[0]),
}


@pytest.mark.parametrize("change", MEANINGLESS)
def test_content_that_means_the_same_has_the_same_name(change: str) -> None:
    support = cat_support()
    MEANINGLESS[change](support)
    assert content_name(support) == content_name(cat_support())


def test_every_difference_in_meaning_gives_another_name() -> None:
    names = {content_name(cat_support())}
    for change in MEANINGFUL.values():
        support = cat_support()
        change(support)
        names.add(content_name(support))
    assert len(names) == len(MEANINGFUL) + 1


def test_where_a_hidden_keypoint_would_be_does_not_matter() -> None:
    def hide(x: float) -> str:
        support = cat_support()
        support.examples[0].keypoints[0].CopyFrom(support_pb2.ExampleKeypoint(x=x, hidden=True))
        return content_name(support)

    assert hide(3) == hide(float("nan"))


def test_raw_pixels_of_another_shape_are_another_support() -> None:
    def shaped(height: int, width: int) -> str:
        image = image_pb2.Image(raw=image_pb2.RawImage(height=height, width=width, rgb=bytes(72)))
        return content_name(support_pb2.Support(examples=[support_pb2.SupportExample(image=image)]))

    assert shaped(4, 6) != shaped(6, 4)


def test_a_name_is_a_prefix_and_32_digits_that_never_change() -> None:
    support = support_pb2.Support(category="cat", keypoints=[support_pb2.KeypointDefinition(name="nose")])
    assert content_name(support) == "supports/7198101285ef261b915857f2965e314f"


def test_the_text_of_a_keypoint_is_its_description_or_else_its_name() -> None:
    support = cat_support()
    support.keypoints[1].description = "the right ear of the cat"
    support.keypoints[2].description = "  "
    definition = SupportOutline.of("supports/1", support)
    assert definition.texts == ("left ear", "the right ear of the cat", "nose")
    assert definition.keypoint_names == ("left ear", "right ear", "nose")
    assert definition.edges.tolist() == [[0, 2], [1, 2]]


def test_without_examples_only_text_may_be_used() -> None:
    support = cat_support()
    assert SupportOutline.of("supports/1", support).modalities == (1, 2)
    support.ClearField("examples")
    assert SupportOutline.of("supports/1", support).modalities == (2,)
