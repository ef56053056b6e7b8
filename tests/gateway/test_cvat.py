"""CVAT's auto-annotation function, with cvat-sdk's own types."""

from __future__ import annotations

import types

from PIL import Image

from gateway.labelling.cvat import create
from tests.gateway.conftest import EXAMPLES
from tests.service.live_server import LiveServer


def test_the_function_answers_a_skeleton_with_every_keypoint(server: LiveServer, support: str) -> None:
    function = create(target=server.server.target, support=support, threshold=0.0)
    (label,) = function.spec.labels
    assert (label.name, label.type) == ("cat", "skeleton")
    assert [one.name for one in label.sublabels] == ["left eye", "right eye", "nose"]
    with Image.open(EXAMPLES / "raccoon.jpg") as image:
        (skeleton,) = function.detect(types.SimpleNamespace(conf_threshold=None), image)
        (unsure,) = function.detect(types.SimpleNamespace(conf_threshold=1.1), image)
    assert [one.label_id for one in skeleton.elements] == [0, 1, 2]
    assert all(len(one.points) == 2 and not one.outside for one in skeleton.elements)
    assert all(one.outside for one in unsure.elements)
