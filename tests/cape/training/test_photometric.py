from __future__ import annotations

import numpy as np
import torch

from cape.training.photometric import photometric_jitter


def images(count: int = 6) -> torch.Tensor:
    generator = np.random.default_rng(0)
    coarse = generator.integers(40, 216, (count, 4, 4, 3)).astype(np.uint8)
    return torch.from_numpy(coarse.repeat(8, axis=1).repeat(8, axis=2))


def test_every_image_changes_in_its_own_way_and_the_seed_repeats_it() -> None:
    before = images(1).expand(6, -1, -1, -1).contiguous()
    torch.manual_seed(3)
    after = photometric_jitter(before, 0.8, 0.5)
    torch.manual_seed(3)
    assert torch.equal(after, photometric_jitter(before, 0.8, 0.5))
    assert after.dtype == torch.uint8 and after.shape == before.shape
    assert len({each.numpy().tobytes() for each in after}) == 6


def test_no_strength_changes_nothing() -> None:
    assert torch.equal(photometric_jitter(images(), 0.0), images())


def test_a_random_convolution_keeps_edges_where_they_were() -> None:
    torch.manual_seed(0)
    before = torch.full((16, 32, 32, 3), 40, dtype=torch.uint8)
    before[:, :, 16:] = 200
    after = photometric_jitter(before, 0.0, 1.0).float().mean(-1)
    step = (after[:, :, 1:] - after[:, :, :-1]).abs().mean(1)
    # Inside either half nothing changes from pixel to pixel; at the border most filters leave a step.
    assert step[:, 3:12].max() < 1 and step[:, 20:28].max() < 1
    assert (step[:, 14:18].amax(1) > 5).float().mean() > 0.5
