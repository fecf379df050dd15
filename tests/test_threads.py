"Several threads use one model: the explorer prepares maps beside whatever the notebook does."
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F

from prograd_viz.cam import cam_maps


def test_maps_of_threads_are_those_of_one_after_another(clip):
    draw = torch.Generator().manual_seed(0)
    images, directions = torch.randn(12, 4, 3, 112, 112, generator=draw), F.normalize(torch.randn(3, 128, generator=draw), dim=-1)
    alone = [np.asarray(cam_maps(clip, x, directions)) for x in images]
    with ThreadPoolExecutor(4) as pool: together = list(pool.map(lambda x: np.asarray(cam_maps(clip, x, directions)), images))
    for a, b in zip(alone, together, strict=True): assert np.allclose(a, b, atol=1e-6)
