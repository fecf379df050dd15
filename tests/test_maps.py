"Every way to draw a map equals its definition written out once more, on every tower that it claims."
import inspect
from contextlib import contextmanager
from dataclasses import FrozenInstanceError
from functools import cache

import numpy as np
import pandas as pd
import pytest
import pytorch_grad_cam
import torch
import torch.nn.functional as F
from captum.attr import Occlusion as CaptumOcclusion
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from timm.layers import apply_rot_embed_cat
from torchvision.transforms.functional import gaussian_blur
from tqdm.auto import tqdm

from conftest import VIT, small_timm, swin
from prograd_viz import attention
from prograd_viz.cam import PACKAGE, REFUSED, find_layer, package_maps
from prograd_viz.maps import (
    EXPLAINERS,
    RISE,
    Foreground,
    HiResCAM,
    LeGrad,
    Occlusion,
    cam_maps,
    explainer_table,
    find_explainer,
    foreground,
    run_maps,
)
from prograd_viz.plots import plot_maps
from prograd_viz.training import train

RESNET = {"image_size": 96, "layers": [1, 1, 1, 1], "width": 8, "mlp_ratio": 4.0}  # of this file alone
TOWERS = {"ViT": VIT, "averaged ViT": VIT | {"pool_type": "avg"}, "ResNet": RESNET, "EVA": small_timm("eva"),
          "SigLIP": small_timm("siglip"), "timm ResNet": small_timm("resnet"), "ConvNeXt": small_timm("convnext")}
ATTENTION = ("ViT", "EVA", "SigLIP")  # towers with a query that reads the cells, and blocks
OFFERED = [name for name in PACKAGE if hasattr(pytorch_grad_cam, name)]  # 1.5.4 has no SegEigenCAM
READ = {"MaskCLIP", "GradECLIP", "GAE", "Rollout"}  # what any attention over the cells is enough for


@pytest.fixture(scope="module")
def tower(tiny):
    """name, precision -> a small random model with this image tower. Written out, maps are computed in float64, so that
    all that differs is ours"""
    @cache
    def make(name, precision="fp32"):
        clip = tiny(TOWERS[name], precision, custom_text=name == "averaged ViT")
        norms = [m for m in clip.model.visual.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        for m in norms: m.momentum = None
        for m in norms: m.reset_running_stats(), m.train(), m.weight.data.fill_(1.0)
        clip.encode_image(given(clip)[0])  # as after a training: a random ResNet's features are nearly one otherwise
        for m in norms: m.eval()
        return clip
    return make


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def given(clip, images=2, texts=3):
    "Images and directions of their own for each"
    return normal(0, images, 3, *clip.image_shape), F.normalize(normal(1, images, texts, 24), dim=-1)


def assert_near(ours, theirs, part=1e-4):
    assert ours.shape == theirs.shape and theirs.abs().max() > 0
    far = ((ours.double() - theirs.double()).abs().max() / theirs.abs().max()).item()
    assert far < part


def cosines(clip, images, directions):
    "Of images [N, 3, H, W] with directions [T, E], [N, T]"
    return F.normalize(clip.model.encode_image(images.to(clip.dtype)), dim=-1) @ directions.to(clip.dtype).T


# -- copies of the image --------------------------------------------------------

def hidden(images, fill):
    "What is put over a patch, written out"
    mean = images.mean((2, 3), keepdim=True)
    if fill == "mean": return mean.expand_as(images)
    sigma = min(images.shape[2:]) / 14
    if fill == "blur": return gaussian_blur(images, 2 * int(2 * sigma) + 1, sigma)
    return mean + images.std((2, 3), keepdim=True) * normal(7, *images.shape[1:])


def occlusion_by_hand(clip, image, directions, other, patch, stride):
    "The mean fall of the cosine over the patches that cover a pixel, [T, H, W]"
    (height, width), before = image.shape[1:], cosines(clip, image[None], directions)[0]
    total, count = before.new_zeros(len(directions), height, width), torch.zeros(height, width)
    for y in range(0, height - patch + 1, stride):
        for x in range(0, width - patch + 1, stride):
            copy = image.clone()
            copy[:, y:y + patch, x:x + patch] = other[:, y:y + patch, x:x + patch]
            total[:, y:y + patch, x:x + patch] += (before - cosines(clip, copy[None], directions)[0])[:, None, None]
            count[y:y + patch, x:x + patch] += 1
    return total / count


@pytest.mark.parametrize("name, fill", [*((name, "blur") for name in TOWERS), ("ViT", "mean"), ("ViT", "noise")])
def test_occlusion_is_the_mean_fall_over_the_patches_that_cover_a_cell(tower, name, fill):
    clip = tower(name)
    images, directions = given(clip, texts=2)
    stride = clip.image_size // 4
    maps = cam_maps(clip, images, directions, explainer=Occlusion(2 * stride, stride, fill, seed=7), batch_size=1)
    for b, other in enumerate(hidden(images, fill)):
        by_hand = occlusion_by_hand(tower(name, "fp64"), images[b], directions[b], other, 2 * stride, stride)
        assert maps.shape == (2, 2, 4, 4)
        assert_near(maps[:, b].repeat_interleave(stride, 1).repeat_interleave(stride, 2), by_hand)


def test_occlusion_is_captums_with_the_same_windows(clip, task):
    image, text = task.train.tensor(clip, [1]), clip.encode_text(["a photo of a dog.", "a photo of a cat."])
    ours = cam_maps(clip, image, text, explainer=Occlusion(patch=28, stride=14, fill="mean"))[:, 0]
    theirs = [CaptumOcclusion(lambda x: cosines(clip, x, text)).attribute(
        image, target=t, sliding_window_shapes=(3, 28, 28), strides=(3, 14, 14),
        baselines=image.mean((2, 3), keepdim=True).expand_as(image))[0, 0] for t in (0, 1)]
    assert_near(ours.repeat_interleave(14, 1).repeat_interleave(14, 2), torch.stack(theirs))


@pytest.mark.parametrize("size", [(32, 64), (32, 72), (40, 16)], ids=str)
def test_patches_cover_every_pixel_of_images_of_any_shape(size):
    for explainer in (Occlusion(), Occlusion(stride=8), Occlusion(patch=6)):
        keep, weights, cells = explainer._masks(size)
        copies = keep(torch.arange(len(weights)))
        assert copies.shape[1:] == size and copies.amin(0).max() == 0 and weights.shape[1] == cells[0] * cells[1]
        assert torch.allclose(weights.sum(0), torch.full((weights.shape[1],), -1.0))


def cell_means(mask, grid):
    "Means of a mask [H, W] over cells whose borders are rounded outwards"
    edges = [[(i * n // g, -(-(i + 1) * n // g)) for i in range(g)] for n, g in zip(mask.shape, grid)]
    return torch.tensor([[mask[a:b, c:d].mean() for c, d in edges[1]] for a, b in edges[0]])


@pytest.mark.parametrize("name", TOWERS)
def test_rise_is_its_sum_over_masks_less_the_mean_score(tower, name):
    clip, explainer = tower(name), RISE(number=40, cells=4, seed=3)
    images, directions = given(clip, texts=2)
    masks = explainer._masks(clip.image_shape)[0](torch.arange(40))
    maps = cam_maps(clip, images, directions, explainer=explainer)
    seen = torch.stack([cell_means(mask, maps.shape[2:]) for mask in masks])
    for b in (0, 1):
        scores = cosines(tower(name, "fp64"), images[b] * masks[:, None], directions[b])  # [40, T]
        weighed = torch.einsum("nt,nhw->thw", scores, seen.double()) / seen.sum(0)
        assert_near(maps[:, b], weighed - scores.mean(0)[:, None, None])


def test_masks_of_rise_are_smooth_random_and_repeatable():
    masks, again, other = (RISE(number=400, seed=seed)._masks((56, 84))[0](torch.arange(400)) for seed in (0, 0, 1))
    assert masks.shape == (400, 56, 84) and torch.equal(masks, again) and not torch.equal(masks, other)
    assert masks.min() == 0 and masks.max() == 1 and abs(masks.mean() - 0.5) < 0.02
    assert masks.diff(dim=1).abs().max() <= 1 / 8 + 1e-6, "no edges: a cell of 8 x 12 pixels is interpolated"
    assert (masks.mean(0) - 0.5).abs().max() < 0.12, "no place is favoured"


# -- attention, written out -----------------------------------------------------

def by_head(x, heads): return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def attended(q, k, v, kept):
    "Attention whose weights are kept as a node of the graph"
    weights = (q @ k.mT / q.shape[-1]**0.5).softmax(-1)
    kept.append((q, k, v, weights if weights.requires_grad else weights.requires_grad_()))
    return (weights @ v).transpose(1, 2).flatten(2)


def vit_blocks(visual, x, kept):
    for block in visual.transformer.resblocks:
        attn = block.attn
        q, k, v = F.linear(block.ln_1(x), attn.in_proj_weight, attn.in_proj_bias).chunk(3, -1)
        enter, read = x, attended(*(by_head(y, attn.num_heads) for y in (q, k, v)), kept)
        finish = lambda read, x, block=block: (y := x + block.attn.out_proj(read)) + block.mlp(block.ln_2(y))
        x = finish(read, x)
        yield enter, x, finish


def eva_blocks(trunk, x, rope, kept):
    turn = lambda y: torch.cat([y[:, :, :1], apply_rot_embed_cat(y[:, :, 1:], rope)], 2)
    for block in trunk.blocks:
        attn, y = block.attn, block.norm1(x)
        bias = (attn.q_bias, None, attn.v_bias) if attn.qkv is not None else (None,) * 3
        if attn.qkv is None: q, k, v = attn.q_proj(y), attn.k_proj(y), attn.v_proj(y)
        else: q, k, v = (F.linear(y, w, b) for w, b in zip(attn.qkv.weight.chunk(3), bias))
        q, k, v = (by_head(y, attn.num_heads) for y in (q, k, v))
        enter, read = x, attended(turn(q), turn(k), v, kept)
        normed = lambda read, attn=attn: attn.proj(attn.norm(read))
        finish = lambda read, x, block=block, normed=normed: (y := x + normed(read)) + block.mlp(block.norm2(y))
        x = finish(read, x)
        yield enter, x, finish


def timm_blocks(trunk, x, kept):
    for block in trunk.blocks:
        q, k, v = block.attn.qkv(block.norm1(x)).chunk(3, -1)
        enter, read = x, attended(*(by_head(y, block.attn.num_heads) for y in (q, k, v)), kept)
        finish = lambda read, x, block=block: (y := x + block.attn.proj(read)) + block.mlp(block.norm2(y))
        x = finish(read, x)
        yield enter, x, finish


class ByHand:
    "A vision transformer written out: attentions, tokens before and after each block, and its end"
    def __init__(self, clip, images):
        visual, self.kept = clip.model.visual, []
        trunk = getattr(visual, "trunk", None)
        with torch.enable_grad():
            if trunk is None: blocks = vit_blocks(visual, visual._embeds(images), self.kept)
            else:
                x = trunk._pos_embed(trunk.patch_embed(images))
                x, rope = x if isinstance(x, tuple) else (x, None)
                blocks = timm_blocks(trunk, x, self.kept) if rope is None else eva_blocks(trunk, x, rope, self.kept)
            self.enters, self.leaves, finishes = zip(*blocks)
            self.depth, self.pool = len(finishes), getattr(trunk, "attn_pool", None)
            if trunk is None: self.end = lambda token: visual.ln_post(token) @ visual.proj
            elif self.pool is None: self.end = lambda token: trunk.head(trunk.norm(token))
            self.finish = lambda read, token: self.end(finishes[-1](read, token))
            if self.pool is not None:
                self.norm, self.finish = trunk.norm, lambda read, token: self.pooled(read)
                self.features = self.pooled(self.attend_pool(self.leaves[-1], self.kept)[:, 0])
            else: self.features = self.end(self.leaves[-1][:, 0])

    def attend_pool(self, tokens, kept):
        pool, x = self.pool, self.norm(tokens)
        k, v = pool.kv(x).chunk(2, -1)
        q = pool.q(pool.latent.expand(len(x), -1, -1))
        return attended(*(by_head(y, pool.num_heads) for y in (q, k, v)), kept)

    def pooled(self, read): return (y := self.pool.proj(read)) + self.pool.mlp(self.pool.norm(y))


class PoolByHand:
    "The attention pool of CLIP's ResNets, written out"
    def __init__(self, clip, images):
        visual, kept = clip.model.visual, []
        pool = visual.attnpool
        handle = pool.register_forward_pre_hook(lambda module, args: kept.append(args[0]))
        clip.model.encode_image(images)
        handle.remove()
        x = kept[0].flatten(2).mT
        x = torch.cat([x.mean(1, keepdim=True), x], 1) + pool.positional_embedding
        self.kept, self.pool = [], pool
        with torch.enable_grad():
            parts = (by_head(f(x), pool.num_heads) for f in (pool.q_proj, pool.k_proj, pool.v_proj))
            self.features = pool.c_proj(attended(*parts, self.kept)[:, 0])
        self.enters, self.finish = [x], lambda read, token: pool.c_proj(read)


@pytest.fixture
def written_out(tower):
    "name, images -> the tower written out, in float64"
    return lambda name, images: (PoolByHand if name == "ResNet" else ByHand)(tower(name, "fp64"), images.double())


def grid(rows):
    "Values of tokens [..., N] as a square of cells, without a class token"
    side = int(rows.shape[-1]**0.5)
    return rows[..., -side * side:].unflatten(-1, (side, side))


def scores_of(features, directions):
    return torch.einsum("be,bte->tb", F.normalize(features, dim=-1), directions.to(features))


@pytest.mark.parametrize("name", (*ATTENTION, "ResNet"))
def test_the_towers_written_out_are_the_towers(tower, written_out, name):
    images, _ = given(clip := tower(name))
    assert_near(written_out(name, images).features, clip.model.encode_image(images), 1e-5)


@pytest.mark.parametrize("name", (*ATTENTION, "ResNet"))
def test_maskclip_is_the_feature_of_each_value_against_the_mean_cell(tower, written_out, name):
    clip = tower(name)
    images, directions = given(clip)
    hand = written_out(name, images)
    value = hand.kept[-1][2].transpose(1, 2).flatten(2).detach()
    dense = F.normalize(hand.finish(value, hand.enters[-1]), dim=-1).detach()
    cells = grid(torch.einsum("bne,bte->tbn", dense, directions.double()))
    ours = cam_maps(clip, images, directions, explainer="MaskCLIP")
    assert_near(ours, cells - cells.mean((2, 3), keepdim=True))


@pytest.mark.parametrize("name", (*ATTENTION, "ResNet"))
def test_grad_eclip_is_the_paper_s_product_in_the_last_block(tower, written_out, name):
    "Gradient of the cosine at what the class query reads, times value, times the loosened similarity of query and key"
    clip = tower(name)
    images, directions = given(clip)
    hand = written_out(name, images)
    query, key, value, weights = (x.detach() for x in hand.kept[-1])
    read = (weights @ value).transpose(1, 2).flatten(2)[:, 0].requires_grad_()
    first = hand.enters[-1][:, 0].detach()
    with torch.enable_grad(): scores = scores_of(hand.finish(read, first), directions)
    query, key, value = (x.transpose(1, 2).flatten(2) for x in (query, key, value))
    alike = grid(F.cosine_similarity(query[:, :1], key, dim=-1)).flatten(1)
    alike = (alike - alike.amin(1, keepdim=True)) / (alike.amax(1, keepdim=True) - alike.amin(1, keepdim=True))
    ours = cam_maps(clip, images, directions, explainer="GradECLIP")
    for t, score in enumerate(scores):
        channels = torch.autograd.grad(score.sum(), read, retain_graph=True)[0]
        cells = grid((channels[:, None] * value).sum(-1)) * alike.unflatten(1, ours.shape[2:])
        assert_near(ours[t], cells)


@pytest.mark.parametrize("name", (*ATTENTION, "ResNet"))
def test_gae_is_the_relevance_of_eq_5_and_6(tower, written_out, name):
    clip = tower(name)
    images, directions = given(clip)
    hand = written_out(name, images)
    ours = cam_maps(clip, images, directions, explainer="GAE")
    weights = [kept[3] for kept in hand.kept]
    with torch.enable_grad(): logits = clip.logit_scale * scores_of(hand.features, directions)
    for t, logit in enumerate(logits):
        slopes = torch.autograd.grad(logit.sum(), weights, retain_graph=True)
        relevance = torch.eye(weights[-1].shape[-1]).double().repeat(2, 1, 1)
        for slope, weight in zip(slopes, weights):
            mixed = (slope * weight).clamp(min=0).mean(1).detach()
            square = mixed.shape[1] == mixed.shape[2]
            relevance = relevance + mixed @ relevance if square else mixed @ relevance
        assert_near(ours[t], grid(relevance[:, 0]))


@pytest.mark.parametrize("name", (*ATTENTION, "ResNet"))
def test_rollout_is_the_product_of_mixed_attentions_and_knows_no_text(tower, written_out, name):
    clip = tower(name)
    images, directions = given(clip)
    weights = [kept[3].detach().mean(1) for kept in written_out(name, images).kept]
    total = torch.eye(weights[-1].shape[-1]).double().repeat(2, 1, 1)
    for w in weights: total = (w + torch.eye(w.shape[1])) / 2 @ total if w.shape[1] == w.shape[2] else w @ total
    ours = cam_maps(clip, images, directions, explainer="Rollout")
    assert torch.equal(ours[0], ours[1]) and torch.equal(ours[0], ours[2])
    assert_near(ours[0] / ours[0].sum(), (expected := grid(total[:, 0])) / expected.sum())


@pytest.mark.parametrize("blocks", (1, 2, 3))
@pytest.mark.parametrize("name", ATTENTION)
def test_legrad_is_the_positive_gradient_of_each_block_s_own_score(tower, written_out, name, blocks):
    clip = tower(name)
    images, directions = given(clip)
    hand = written_out(name, images)
    ours, theirs = cam_maps(clip, images, directions, explainer=LeGrad(blocks)), 0
    for at in range(hand.depth - blocks, hand.depth):
        kept, tokens = [], hand.leaves[at]
        with torch.enable_grad():
            if hand.pool is None: score, weights = hand.end(tokens.mean(1)), hand.kept[at][3]
            else:
                score = hand.pooled(hand.attend_pool(tokens, kept)[:, 0])
                weights = kept[0][3]
            scores = scores_of(score, directions)
        slopes = [torch.autograd.grad(s.sum(), weights, retain_graph=True)[0] for s in scores]
        theirs = theirs + torch.stack([slope.clamp(min=0).mean((1, 2)) for slope in slopes])
    assert_near(ours, grid(theirs))


# -- the package ----------------------------------------------------------------

class Cosine(torch.nn.Module):
    "A classifier for the grad-cam package"
    def __init__(self, clip, directions):
        super().__init__()
        self.model, self.clip, self.directions = clip.model, clip, directions

    def forward(self, images): return cosines(self.clip, images, self.directions)


def alone(clip, name, image, directions, layer=None):
    "The package's maps of one image before scaling, [T, h, w]"
    layer = layer or find_layer(clip)

    def cells(x):
        if x.ndim == 4: return x
        side = int(x.shape[1]**0.5)
        return x[:, -side * side:].transpose(1, 2).unflatten(2, (side, side))

    cam = getattr(pytorch_grad_cam, name)(Cosine(clip, directions), [layer], reshape_transform=cells)
    image, maps = image[None].clone().requires_grad_(), []
    try:
        for t in range(len(directions)):
            cam.activations_and_grads(image)[0, t].backward()
            kept = cam.activations_and_grads
            arrays = kept.activations[0].numpy(), kept.gradients[0].numpy()
            maps.append(cam.get_cam_image(image, layer, [ClassifierOutputTarget(t)], *arrays, False)[0])
    finally: cam.activations_and_grads.release()
    return torch.from_numpy(np.stack(maps))


@pytest.mark.parametrize("explainer", (*OFFERED, "ScoreCAM"))
@pytest.mark.parametrize("name", ("ViT", "ResNet"))
def test_a_map_in_a_batch_is_the_package_s_of_one_image(tower, name, explainer):
    clip = tower(name)
    images, directions = given(clip, images=3, texts=2)
    ours = cam_maps(clip, images, directions, explainer=explainer, batch_size=2)
    for b, image in enumerate(images): assert_near(ours[:, b], alone(clip, explainer, image, directions[b]))


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_says_why(tower, name):
    clip = tower("ViT")
    for draw in (package_maps, cam_maps):
        if (draw, name) == (cam_maps, "ScoreCAM"): return
        with pytest.raises(ValueError, match=f"{name} is not offered: it "): draw(clip, *given(clip), explainer=name)


def test_every_method_of_the_package_is_offered_or_refused():
    methods = {name for name, thing in vars(pytorch_grad_cam).items()
               if isinstance(thing, type) and hasattr(thing, "forward" if "CAM" in name else "__call__")}
    ours = {"AblationLayer", "AblationLayerVit", "AblationLayerFasterRCNN", "ActivationsAndGradients",
            "DeepFeatureFactorization"}  # parts of methods
    assert methods - ours <= {*PACKAGE, *REFUSED} and {*PACKAGE} <= {"GradCAM", *EXPLAINERS}


# -- all of them ----------------------------------------------------------------

def works_on(name):
    "Explainers that a tower has, with few masks"
    few = {"RISE": RISE(number=20), "Occlusion": Occlusion(stride=16)}
    reads = {*READ, "LeGrad"} if name in ATTENTION else READ if name == "ResNet" else set()
    absent = {*READ, "LeGrad"} - reads | {*PACKAGE} - {*OFFERED} | ({"HiResCAM"} if name == "ConvNeXt" else set())
    return {n: few.get(n, e) for n, e in EXPLAINERS.items() if n not in absent}


@pytest.mark.parametrize("name", TOWERS)
def test_the_table_says_what_works_on_a_tower_and_why_the_rest_does_not(tower, name):
    table = explainer_table(tower(name)).set_index("explainer")
    assert set(table.index[table["works"]]) == set(works_on(name)) and list(table.index) == list(EXPLAINERS)
    refused = table[~table["works"]]["why"]
    for why in refused.drop(["HiResCAM", "SegEigenCAM"], errors="ignore"):
        assert f"{tower(name).name!r}" in why and why.endswith("Occlusion works for every tower")
    assert (table["why"] == "").equals(table["works"])


def test_a_tower_that_does_more_with_what_is_read_is_refused(tower, monkeypatch):
    finish = attention._finish
    monkeypatch.setattr(attention, "_finish", lambda *args: 1.2 * finish(*args))
    for name in ("MaskCLIP", "GradECLIP"):
        with pytest.raises(ValueError, match="does more with what its last query reads than can be followed"):
            cam_maps(tower("ViT"), *given(tower("ViT")), explainer=name)


def test_a_map_that_cancels_by_design_is_refused(tower):
    "What a norm over the channels normalises has no length, so its activations times their gradients sum to nothing"
    clip = tower("ConvNeXt")
    calls = (lambda: cam_maps(clip, *given(clip), explainer="HiResCAM"),
             lambda: HiResCAM().prepare(clip, given(clip)[0]))
    for draw in calls:
        with pytest.raises(ValueError, match="a norm over the channels follows it"): draw()


def test_a_tower_that_attends_in_windows_has_no_query_that_reads_all_cells(tiny):
    table = explainer_table(tiny(swin(), "fp32")).set_index("explainer")
    assert not table.loc[[*READ, "LeGrad"], "works"].any() and table.loc[["GradCAM", "RISE"], "works"].all()


def state_of(clip):
    "Weights, modes and hooks of a model"
    modules = list(clip.model.modules())
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in modules]
    return ([id(m) for m in modules], hooks, [m.training for m in modules],
            [(p.requires_grad, p.grad, p.double().sum().item()) for p in clip.model.parameters()])


@contextmanager
def unchanged(clip):
    before = state_of(clip)
    try: yield
    finally: assert state_of(clip) == before


@pytest.mark.parametrize("name", TOWERS)
def test_a_map_is_the_same_alone_and_in_a_batch_and_leaves_the_model_as_it_was(tower, name):
    clip = tower(name)
    images, directions = given(clip, texts=2)
    for explainer in works_on(name).values():
        with unchanged(clip), torch.inference_mode():
            together = cam_maps(clip, images, directions, explainer=explainer)
            each = [cam_maps(clip, images[b:b + 1], directions[b], explainer=explainer) for b in (0, 1)]
        assert together.shape[:2] == (2, 2) and together.isfinite().all() and not images.requires_grad
        assert_near(torch.cat(each, 1), together)


@pytest.mark.parametrize("explainer", [n for n in EXPLAINERS if n in OFFERED or n not in PACKAGE])
def test_an_error_half_way_leaves_the_model_as_it_was(tower, explainer, monkeypatch):
    clip = tower("ViT")
    images, directions = given(clip)
    block, few = clip.model.visual.transformer.resblocks[-1], works_on("ViT")
    with unchanged(clip):
        with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="stop"):
            patch.setattr(type(block.ls_2), "forward", raising)
            cam_maps(clip, images, directions, explainer=few[explainer])
        usual = cam_maps(clip, images, directions, explainer=few[explainer])
    assert usual.isfinite().all()


def raising(*args): raise RuntimeError("stop")


def test_operators_are_linear_in_the_text_and_by_text_says_so(tower):
    clip = tower("ViT")
    images, directions = given(clip)
    for explainer in works_on("ViT").values():
        prepared = explainer.prepare(clip, images)
        operator, maps = prepared.by_text(), prepared.maps(directions)
        assert (operator is not None) == (explainer.cost == "operator")
        if operator is not None: assert_near(torch.einsum("bhwe,bte->tbhw", operator, directions), maps)


def test_the_summary_says_over_how_many_images_it_is():
    rows = [{"method": method, "lam": np.nan, "seed": 1, "step": 0, "image": image, "share": share, "area": 0.2,
             "explainer": "GradCAM", "target": "predicted", "split": "same"}
            for method, shares in (("zero-shot CLIP", (0.2, 0.4, np.nan)), ("random directions", (0.1, 0.3, 0.5)))
            for image, share in enumerate(shares)]
    some, every = Foreground(pd.DataFrame(rows)), Foreground(pd.DataFrame(rows[3:]))
    assert some.summary()["n"].tolist() == [2, 3] and np.allclose(some.summary()["share"], [0.3, 0.3])
    assert "the last column counts the images that have one" in repr(some)
    assert repr(some).split("\n")[2].split()[-1] == "2"
    assert "the last column" not in repr(every) and "3 images of same" in repr(every)


def test_the_map_of_a_unit_image_feature_is_empty_where_only_its_direction_counts(tower):
    "The cosine does not change when the image's own feature is added to the text"
    clip = tower("ViT")
    images, directions = given(clip)
    own = clip.encode_image(images)[:, None]
    for name in ("GradCAM", "HiResCAM", "GradECLIP"):
        prepared = EXPLAINERS[name].prepare(clip, images)
        assert_near(prepared.maps(directions + 3 * own), prepared.maps(directions))


@pytest.mark.parametrize("precision", ("fp16", "bf16", "amp_bf16", "fp64"))
def test_maps_in_other_precisions_are_near_those_in_float32(tower, precision):
    usual, other = tower("ViT"), tower("ViT", precision)
    images, directions = given(usual)
    for name, explainer in works_on("ViT").items():
        if name == "XGradCAM": continue  # it divides by a sum that cancels behind a norm
        near = cam_maps(other, images, directions, explainer=explainer)
        exact = cam_maps(usual, images, directions, explainer=explainer)
        assert near.dtype in (other.wide, torch.float32)
        assert_near(near.float(), exact, 1e-3 if precision == "fp64" else 0.3)


def test_options_are_fields_and_stand_in_the_name():
    assert find_explainer("Occlusion") == Occlusion() == find_explainer(Occlusion)
    assert find_explainer(chosen := Occlusion(stride=8, fill="mean")) is chosen
    assert chosen.name == "Occlusion(stride=8, fill='mean')" and RISE().name == "RISE"
    with pytest.raises(FrozenInstanceError): chosen.stride = 4
    assert all(name == explainer.name and explainer.source for name, explainer in EXPLAINERS.items())


@pytest.fixture
def at_once(monkeypatch):
    "Bars wait five seconds: not here"
    monkeypatch.setattr("prograd_viz.maps.tqdm", lambda *args, **options: tqdm(*args, **options | {"delay": 0}))


def test_a_progress_bar_is_shown_on_request_alone(tower, capsys, at_once):
    clip = tower("ViT")
    for explainer in works_on("ViT").values():
        cam_maps(clip, *given(clip, texts=1), explainer=explainer)
        assert capsys.readouterr() == ("", "")
        cam_maps(clip, *given(clip, texts=1), explainer=explainer, progress=True)
        if not explainer.name.endswith("CAM"): assert "it/s" in (said := capsys.readouterr().err) or "/s]" in said
        capsys.readouterr()


# -- run sets -------------------------------------------------------------------

@pytest.fixture(scope="module")
def runs(clip, task): return train(clip, task, [0, 1], epochs=1, batch_size=8, views=0, progress=False)


def test_every_explainer_is_measured_mapped_and_drawn(runs):
    chosen = Occlusion(stride=28)
    rows = foreground(runs, "same", images=2, random_directions=1, explainer=chosen).rows
    assert set(rows["explainer"]) == {"Occlusion(stride=28)"} and rows["share"].notna().any()
    maps = run_maps(runs, "same", images=2, explainer=chosen, progress=False)
    tensor = runs.task.tests["same"].tensor(runs.clip, maps.rows)
    expected = cam_maps(runs.clip, tensor, torch.as_tensor(runs.text(1)), explainer=chosen)
    assert torch.allclose(maps.maps[-1, runs.run(1)], expected, atol=1e-7)
    assert plot_maps(runs, "same", images=1, explainer=chosen).axes


def test_each_map_names_the_class_that_it_explains(runs):
    classes = runs.classes
    for target in ("predicted", "true", "contrast", classes[2]):
        rows = foreground(runs, "same", images=4, random_directions=1, target=target).rows
        named = rows[rows["method"] != "random directions"]["explained"]
        if target == "true": assert named.tolist() == [classes[label] for label in rows["label"][:len(named)]]
        elif target == "contrast": assert all(len(set(name.split(" - "))) == 2 for name in named)
        else: assert set(named) <= ({target} if target in classes else set(classes))
        labels = [ax.get_xlabel() for ax in plot_maps(runs, "same", images=1, target=target).axes]
        assert all(f"map of {named.iloc[0] if target == 'true' else ''}" in label for label in labels[1:])


def test_what_takes_seconds_shows_a_bar_unasked(runs, capsys, at_once):
    for progress, shown in ((True, True), (False, False)):
        foreground(runs, "same", images=2, explainer=Occlusion(stride=28), random_directions=0, progress=progress)
        assert ("copies" in capsys.readouterr().err) is shown
    assert inspect.signature(foreground).parameters["progress"].default is True
