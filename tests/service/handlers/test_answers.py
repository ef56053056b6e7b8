"""What comes back for a good query: the right place in the caller's own pixels, and where it came from."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cape.v1 import (
    image_pb2,
    modality_pb2,
    model_service_pb2,
    pose_service_pb2,
    support_pb2,
    support_service_pb2,
)
from tests.service.live_server import LiveServer, settings_for
from tests.service.messages import cat_support, encoded, photograph, points, query, raw

Box = image_pb2.BoundingBox
Options = pose_service_pb2.EstimatePoseOptions


@pytest.fixture
def registered(live: LiveServer) -> Iterator[support_pb2.Support]:
    """A support that the server knows for the length of a test."""
    support = live.supports.CreateSupport(
        support_service_pb2.CreateSupportRequest(support=cat_support(seed=77))
    ).support
    yield support
    live.supports.DeleteSupport(support_service_pb2.DeleteSupportRequest(name=support.name))


def test_an_instance_per_box_comes_back_in_order(live: LiveServer) -> None:
    boxes = [Box(x=50, y=5, width=40, height=60), Box(x=0, y=0, width=120, height=90)]
    together = live.poses.EstimatePose(query(boxes=boxes))
    assert [instance.box for instance in together.instances] == boxes
    for box, instance in zip(boxes, together.instances, strict=True):
        (alone,) = live.poses.EstimatePose(query(boxes=[box])).instances
        assert np.allclose(points(alone), points(instance), atol=1e-2)


def test_no_box_means_the_whole_image(live: LiveServer) -> None:
    (instance,) = live.poses.EstimatePose(query()).instances
    assert instance.box == Box(x=0, y=0, width=120, height=90)
    (explicit,) = live.poses.EstimatePose(query(boxes=[instance.box])).instances
    assert explicit == instance


def test_keypoints_move_with_the_object(live: LiveServer) -> None:
    canvas = np.zeros((300, 400, 3), np.uint8)
    canvas[130:220, 200:320] = photograph(seed=3)
    (alone,) = live.poses.EstimatePose(query(raw(photograph(seed=3)))).instances
    (moved,) = live.poses.EstimatePose(query(raw(canvas), boxes=[Box(x=200, y=130, width=120, height=90)])).instances
    assert np.allclose(points(moved), points(alone) + np.array([200, 130]), atol=1e-2)


def test_keypoints_carry_the_supports_names_in_its_order(live: LiveServer) -> None:
    (instance,) = live.poses.EstimatePose(query()).instances
    assert [keypoint.name for keypoint in instance.keypoints] == ["left ear", "right ear", "nose"]
    assert all(keypoint.located and 0 <= keypoint.score <= 1 for keypoint in instance.keypoints)


def test_normalized_coordinates_are_fractions_of_the_image(live: LiveServer) -> None:
    options = Options(coordinate_space=pose_service_pb2.COORDINATE_SPACE_NORMALIZED, include_proposals=True)
    pixels = live.poses.EstimatePose(query(options=Options(include_proposals=True))).instances[0]
    normalized = live.poses.EstimatePose(query(options=options)).instances[0]
    assert np.allclose(points(normalized) * [120, 90], points(pixels), atol=1e-3)
    proposals = [
        np.array([(keypoint.proposal.x, keypoint.proposal.y) for keypoint in instance.keypoints])
        for instance in (normalized, pixels)
    ]
    assert np.allclose(proposals[0] * [120, 90], proposals[1], atol=1e-3)


def test_similarity_maps_and_proposals_come_only_when_asked_for(live: LiveServer) -> None:
    (plain,) = live.poses.EstimatePose(query()).instances
    assert not any(keypoint.HasField("similarity_map") or keypoint.HasField("proposal") for keypoint in plain.keypoints)
    options = Options(include_similarity_maps=True, include_proposals=True)
    (full,) = live.poses.EstimatePose(query(options=options)).instances
    for keypoint in full.keypoints:
        similarity = keypoint.similarity_map
        assert keypoint.HasField("proposal")
        assert len(similarity.values) == similarity.height * similarity.width > 0
    assert np.array_equal(points(full), points(plain))


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_answers_are_in_the_pixels_of_the_upright_photograph(live: LiveServer, orientation: int) -> None:
    turns = {3: 2, 6: 1, 8: -1}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = encoded(np.ascontiguousarray(np.rot90(photograph(seed=3), turns)), "JPEG", exif=exif)
    upright = np.rot90(np.asarray(Image.open(io.BytesIO(stored))), -turns)
    (expected,) = live.poses.EstimatePose(query(raw(upright))).instances
    (instance,) = live.poses.EstimatePose(query(stored)).instances
    assert (instance.box.width, instance.box.height) == (120, 90)
    assert instance == expected


GREY = photograph(seed=3)[..., 0]
CMYK = encoded(Image.fromarray(photograph(seed=3)).convert("CMYK"), "JPEG")
KINDS = {
    "16-bit PNG": (encoded(GREY.astype(np.uint16) * 257), np.repeat(GREY[..., None], 3, axis=2)),
    "grey with alpha": (encoded(Image.fromarray(GREY).convert("LA")), np.repeat(GREY[..., None], 3, axis=2)),
    "CMYK JPEG": (CMYK, np.asarray(Image.open(io.BytesIO(CMYK)).convert("RGB"))),
}


@pytest.mark.parametrize("kind", KINDS)
def test_unusual_photographs_are_answered_like_the_usual_ones(live: LiveServer, kind: str) -> None:
    data, pixels = KINDS[kind]
    (instance,) = live.poses.EstimatePose(query(data)).instances
    (expected,) = live.poses.EstimatePose(query(raw(pixels))).instances
    assert instance == expected


def test_a_keypoint_hidden_in_every_example_is_said_not_to_be_located(live: LiveServer) -> None:
    support = cat_support()
    support.examples[0].keypoints[1].hidden = True
    (instance,) = live.poses.EstimatePose(query(inline_support=support)).instances
    assert [keypoint.located for keypoint in instance.keypoints] == [True, False, True]
    hidden = instance.keypoints[1]
    assert (hidden.name, hidden.x, hidden.y, hidden.score) == ("right ear", 0, 0, 0)


def test_a_registered_support_answers_like_the_same_one_inline(
    live: LiveServer, registered: support_pb2.Support
) -> None:
    inline = live.poses.EstimatePose(query(inline_support=cat_support(seed=77)))
    by_name = live.poses.EstimatePose(query(support=registered.name))
    assert by_name.instances == inline.instances
    assert by_name.provenance.support_cache_hit, "both have the same content, so the same cached tokens"


def test_provenance_says_what_was_used_and_what_was_cached(live: LiveServer) -> None:
    support = cat_support(seed=5)
    support.keypoints[2].name = "a name that nobody has used before"
    first = live.poses.EstimatePose(query(inline_support=support)).provenance
    assert first.model == "models/flf"
    assert list(first.modalities) == [modality_pb2.MODALITY_IMAGE, modality_pb2.MODALITY_TEXT]
    assert not first.support_cache_hit
    assert first.texts == 3
    assert first.text_cache_hits <= 2
    again = live.poses.EstimatePose(query(inline_support=support)).provenance
    assert again.support_cache_hit
    assert again.model_version == first.model_version != ""


def test_the_stages_of_the_timing_fit_into_its_total(live: LiveServer) -> None:
    timing = live.poses.EstimatePose(query(inline_support=cat_support(seed=6))).timing
    total = timing.total.ToNanoseconds()
    for stage in ("decode", "prepare", "support", "backbone", "decoder"):
        assert 0 < getattr(timing, stage).ToNanoseconds() < total
    path = timing.decode.ToNanoseconds() + timing.prepare.ToNanoseconds() + timing.backbone.ToNanoseconds()
    assert path + timing.decoder.ToNanoseconds() <= total


def test_a_support_is_created_once_shown_listed_and_deleted(live: LiveServer) -> None:
    create = support_service_pb2.CreateSupportRequest(support=cat_support(seed=8))
    first = live.supports.CreateSupport(create)
    assert not first.already_existed
    assert not first.support.examples[0].HasField("image")
    second = live.supports.CreateSupport(create)
    assert second.already_existed
    assert second.support == first.support

    name = first.support.name
    request = support_service_pb2.GetSupportRequest(name=name, view=support_service_pb2.SUPPORT_VIEW_FULL)
    full = live.supports.GetSupport(request).support
    assert full.examples == cat_support(seed=8).examples
    basic = support_service_pb2.GetSupportRequest(name=name, view=support_service_pb2.SUPPORT_VIEW_BASIC)
    assert live.supports.GetSupport(basic).support == first.support
    listed = live.supports.ListSupports(support_service_pb2.ListSupportsRequest())
    assert [support.name for support in listed.supports] == [name]

    live.poses.EstimatePose(query(support=name))
    live.supports.DeleteSupport(support_service_pb2.DeleteSupportRequest(name=name))
    assert not live.supports.ListSupports(support_service_pb2.ListSupportsRequest()).supports
    with pytest.raises(Exception, match="NOT_FOUND"):
        live.poses.EstimatePose(query(support=name))


def test_a_warm_query_does_not_touch_the_registry(live: LiveServer, registered: support_pb2.Support) -> None:
    live.poses.EstimatePose(query(support=registered.name))
    looked_up = live.metric("capeserve_cache_misses_total", cache="definitions")
    live.poses.EstimatePose(query(support=registered.name))
    assert live.metric("capeserve_cache_misses_total", cache="definitions") == looked_up


def test_supports_survive_a_restart(tiny_repository: Path, tmp_path: Path) -> None:
    settings = settings_for(tiny_repository, registry=f"sqlite:///{tmp_path}/supports.sqlite3")
    with LiveServer(settings) as server:
        created = server.supports.CreateSupport(support_service_pb2.CreateSupportRequest(support=cat_support())).support
        before = server.poses.EstimatePose(query(support=created.name))
    with LiveServer(settings) as server:
        after = server.poses.EstimatePose(query(support=created.name))
        assert after.instances == before.instances
        assert not after.provenance.support_cache_hit


def test_a_support_that_a_stricter_server_cannot_use_fails_the_precondition(
    tiny_repository: Path, tmp_path: Path
) -> None:
    registry = f"sqlite:///{tmp_path}/supports.sqlite3"
    with LiveServer(settings_for(tiny_repository, registry=registry)) as server:
        name = server.supports.CreateSupport(
            support_service_pb2.CreateSupportRequest(support=cat_support())
        ).support.name
    with LiveServer(settings_for(tiny_repository, registry=registry, max_image_pixels=10_000)) as server:
        small = query(raw(photograph(20, 20)), support=name)
        with pytest.raises(Exception, match=r"FAILED_PRECONDITION[\s\S]*examples\[0\].image"):
            server.poses.EstimatePose(small)


def test_models_are_listed_with_their_limits_and_parity(live: LiveServer) -> None:
    (model,) = live.models.ListModels(model_service_pb2.ListModelsRequest()).models
    assert model.name == "models/flf"
    assert model.is_default
    assert model.max_keypoints == 100
    assert 0 < model.parity_keypoints < 1e-4
    assert model.engine == live.server.application.runner.description
    assert modality_pb2.MODALITY_IMAGE in [*model.required_modalities, *model.optional_modalities]


def test_the_performance_report_counts_queries_and_leaves_out_the_paper_for_a_smaller_model(live: LiveServer) -> None:
    request = model_service_pb2.GetPerformanceReportRequest()
    (before,) = live.models.GetPerformanceReport(request).models
    live.poses.EstimatePose(query())
    live.poses.EstimatePose(query())
    (after,) = live.models.GetPerformanceReport(request).models
    assert after.count == before.count + 2
    assert after.warm.count >= before.warm.count + 1
    assert after.busy_frames_per_second >= after.frames_per_second > 0
    assert not after.HasField("paper"), "a model of another size than the paper's is not compared with it"
    assert not after.HasField("speed_ratio")
