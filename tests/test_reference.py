"Independent implementations: finite differences, torch's own losses, captum, the grad-cam package, open_clip itself."

import json
import math
import pickle

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F

# these reach torchvision, which the library may have to mend first
from captum.attr import LayerGradCam
from PIL import Image
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.image import scale_cam_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from safetensors.torch import save_file

from conftest import FASTVIT, RESNET, VIT, swin
from prograd_viz import cam as cam_module
from prograd_viz import prompts as prompts_module
from prograd_viz.cam import (
    MapOperator,
    cam_operator,
    find_layer,
    grad_cam_maps,
    package_maps,
    resize_maps,
    shown_masks,
)
from prograd_viz.clip import load_clip
from prograd_viz.data import Split
from prograd_viz.gradients import cross_entropy, kl_to_teacher, prompt_gradients
from prograd_viz.maps import cam_maps, foreground
from prograd_viz.pocket import random_scenes, render
from prograd_viz.prompts import has_fast_path, make_prompts, plain_text_features, teacher_features, text_features
from prograd_viz.training import train

CLASSES = ["dog", "kiwi bird", "magnifying glass"]  # of different lengths


def normal(seed, *shape): return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# -- losses and gradients -----------------------------------------------------

def spelled_out(clip, tokens, context):
    "Text features of one context [M, D] or [C, M, D] by an explicit forward pass of open_clip's standard CLIP"
    embedded = clip.model.token_embedding.weight[tokens].clone()
    m = context.shape[-2]
    rows = []
    for c, row in enumerate(embedded):
        x = torch.cat([row[:1], context if context.ndim == 2 else context[c], row[1 + m:]])
        x = x + clip.model.positional_embedding
        for block in clip.model.transformer.resblocks:
            h, attn = block.ln_1(x), block.attn
            q, k, v = (h @ attn.in_proj_weight.T + attn.in_proj_bias).chunk(3, -1)
            heads = []
            for q_h, k_h, v_h in zip(*(y.chunk(attn.num_heads, -1) for y in (q, k, v))):
                scores = q_h @ k_h.T / q_h.shape[-1] ** 0.5
                future = torch.ones_like(scores).triu(1) > 0
                heads.append(scores.masked_fill(future, -torch.inf).softmax(-1) @ v_h)
            x = x + torch.cat(heads, -1) @ attn.out_proj.weight.T + attn.out_proj.bias
            x = x + block.mlp(block.ln_2(x))
        end = tokens[c].tolist().index(49407)
        rows.append(clip.model.ln_final(x[end]) @ clip.model.text_projection)
    features = torch.stack(rows)
    return features / features.norm(dim=-1, keepdim=True)


@pytest.fixture(scope="module", params=(False, True), ids=("unified", "class-specific"))
def problem(request, tiny):
    "A random small prompt-learning problem in float64: prompts, context, images, labels, teacher logits"
    clip = tiny()
    prompts = make_prompts(clip, CLASSES, n_ctx=2, init="random", class_specific=request.param)
    images = F.normalize(normal(1, 5, 24), dim=-1)
    teacher = clip.logit_scale * images @ teacher_features(clip, CLASSES).T
    return prompts, 0.5 * normal(2, *prompts.start.shape), images, torch.tensor([0, 2, 1, 1, 0]), teacher


def test_both_gradients_are_the_slopes_of_torchs_losses_through_the_whole_text_encoder(problem):
    "Every partial derivative at two temperatures, by central differences of losses that share no code with the library"
    prompts, v, images, labels, teacher = problem
    scale, temperatures = prompts.clip.model.logit_scale.exp(), (1.0, 2.5)

    def losses(x):
        logits, found = scale * images @ spelled_out(prompts.clip, prompts.tokens, x).T, []
        for t in temperatures:
            believed = (teacher / t).softmax(1)
            kl = F.cross_entropy(logits / t, believed) - F.cross_entropy(teacher / t, believed)
            found.append(torch.stack([F.cross_entropy(logits, labels), t**2 * kl]))
        return torch.stack(found)

    h = 1e-5
    nudges = h * torch.eye(v.numel(), dtype=torch.float64).view(-1, *v.shape)
    with torch.no_grad(): slopes = (torch.vmap(losses)(v + nudges) - torch.vmap(losses)(v - nudges)) / (2 * h)
    for t, temperature in enumerate(temperatures):
        ours = prompt_gradients(prompts, v[None], images, labels, teacher, temperature)
        torch.testing.assert_close(torch.cat([ours.loss_ce, ours.loss_kl]), losses(v)[t], rtol=1e-10, atol=1e-12)
        for name, gradient, slope in (("G_d", ours.g_d, slopes[:, t, 0]), ("G_g", ours.g_g, slopes[:, t, 1])):
            gap = (gradient.flatten() - slope).norm() / slope.norm()
            assert gap < 1e-7, f"{name} differs from the slopes by {gap:.1e} at temperature {temperature}"


def test_gradients_of_runs_side_by_side_are_those_of_each_alone(problem):
    prompts, v, images, labels, teacher = problem
    many = torch.stack([v, 0.3 * normal(3, *v.shape), prompts.start])
    together = prompt_gradients(prompts, many, images, labels, teacher)
    for r, one in enumerate(many):
        alone = prompt_gradients(prompts, one[None], images, labels, teacher)
        for field in ("loss_ce", "loss_kl", "g_d", "g_g", "text"):
            torch.testing.assert_close(getattr(together, field)[r], getattr(alone, field)[0], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("temperature", (0.5, 1.0, 4.0))
def test_losses_are_torchs_of_each_run(temperature):
    logits, teacher, labels = 3 * normal(0, 2, 6, 5), 3 * normal(1, 6, 5), torch.tensor([0, 1, 2, 3, 4, 4])
    for r in range(2):
        torch.testing.assert_close(cross_entropy(logits, labels)[r], F.cross_entropy(logits[r], labels))
        by_torch = temperature**2 * F.kl_div(
            (logits[r] / temperature).log_softmax(-1),
            (teacher / temperature).log_softmax(-1),
            reduction="batchmean",
            log_target=True,
        )
        torch.testing.assert_close(kl_to_teacher(logits, teacher, temperature)[r], by_torch)


def test_the_divergence_is_zero_at_agreement_and_has_the_gradient_of_the_published_cross_entropy():
    teacher = normal(0, 4, 5)
    assert kl_to_teacher(teacher[None], teacher).abs() < 1e-15
    logits = normal(1, 1, 4, 5).requires_grad_()
    (ours,) = torch.autograd.grad(kl_to_teacher(logits, teacher).sum(), logits)
    (published,) = torch.autograd.grad(-(teacher.softmax(-1) * logits.log_softmax(-1)).sum(-1).mean(), logits)
    torch.testing.assert_close(ours, published)


# -- prompts ------------------------------------------------------------------

def test_the_teacher_is_the_normalised_mean_of_its_normalised_templates(tiny):
    clip, templates = tiny(), ["a photo of a {}.", "the {}.", "an image of one {}, seen from afar."]
    each = []
    for t in templates:
        out = clip.model.encode_text(clip.tokenizer([t.replace("{}", c) for c in CLASSES]))
        each.append(out / out.norm(dim=1, keepdim=True))
    mean = sum(each) / 3
    torch.testing.assert_close(teacher_features(clip, CLASSES, templates), mean / mean.norm(dim=1, keepdim=True))
    torch.testing.assert_close(teacher_features(clip, CLASSES, templates[1]), each[1])
    assert (each[0] - each[1]).norm() > 0.01, "the templates differ, or this compares nothing"


def words(clip, ids): return [clip.tokenizer.decoder[int(i)].removesuffix("</w>") for i in ids]


@pytest.mark.parametrize("template, context, frozen", [
    ("a photo of a {}.", "a photo of a", ""),
    ("a type of pet, a photo of a {}.", "a type of pet , a photo of", "a"),
    ("a type of food, a photo of {}.", "a type of food , a photo", "of"),
    ("a centered satellite photo of {}.", "a centered satellite photo of", ""),
])
def test_as_many_tokens_as_words_move_into_the_context_and_the_rest_stays_frozen(tiny, template, context, frozen):
    clip = tiny()
    prompts, table = make_prompts(clip, ["kiwi_bird", "dog"], template=template), clip.token_embedding.weight
    moved = clip.tokenizer.encode(context)
    assert prompts.n_ctx == len(template.split()) - 1 == len(moved)
    assert torch.equal(prompts.start, table[moved])
    end = prompts.tokens[0].tolist().index(49407)
    assert words(clip, prompts.tokens[0, 1 + prompts.n_ctx:end]) == [*frozen.split(), "kiwi", "bird", "."]


@pytest.mark.parametrize("template", ("a photo of a {}.", "a type of pet, a photo of a {}."))
def test_before_the_first_step_the_prompt_is_the_template_itself(tiny, template):
    clip = tiny()
    prompts = make_prompts(clip, CLASSES, template=template)
    torch.testing.assert_close(
        text_features(prompts, prompts.start[None])[0], teacher_features(clip, CLASSES, template), rtol=0, atol=1e-12
    )


def test_a_longer_context_starts_with_zeros_before_the_words(tiny):
    clip = tiny()
    prompts = make_prompts(clip, CLASSES, n_ctx=7)
    assert not prompts.start[:3].any() and torch.equal(
        prompts.start[3:], clip.token_embedding.weight[clip.tokenizer.encode("a photo of a")]
    )
    assert words(clip, prompts.tokens[0, 1:8]) == ["x", "x", "x", "a", "photo", "of", "a"]
    assert words(clip, prompts.tokens[0, 8:10]) == ["dog", "."]


def test_a_random_start_is_a_normal_draw_that_follows_the_seed(tiny):
    clip = tiny()
    starts = [
        make_prompts(clip, CLASSES, n_ctx=16, init="random", class_specific=True, seed=s).start for s in (1, 1, 2)
    ]
    assert (
        torch.equal(starts[0], starts[1]) and not torch.equal(starts[0], starts[2]) and starts[0].shape == (3, 16, 32)
    )
    assert abs(starts[0].std().item() - 0.02) < 0.002 and abs(starts[0].mean().item()) < 0.002
    assert make_prompts(clip, CLASSES, init="random").n_ctx == 16


# -- the fast encoder ---------------------------------------------------------

PACKING = {"grouped": 0, "dense": math.inf}  # attention group by group, or one with a mask over the whole row


def assert_same_encoder(clip, reference, rtol=1e-9, packing=None, **options):
    "Features and gradients of the fast encoder are those of `reference`, for several runs and random cotangents"
    prompts = make_prompts(clip, [*CLASSES, "x"], **options)
    if packing is not None:
        assert len(prompts.packing.groups) == 3 and (prompts.packing.sees is None) == (packing == 0), (
            "x and dog are of one length"
        )
    contexts = prompts.start + 0.3 * normal(4, 2, *prompts.start.shape)
    out = []
    for encode in (text_features, reference):
        c = contexts.clone().requires_grad_()
        t = encode(prompts, c)
        out.append((t.detach(), *torch.autograd.grad((t * normal(5, *t.shape)).sum(), c)))
    (t, g), (t_ref, g_ref) = out
    assert t.shape == t_ref.shape
    assert (t - t_ref).abs().max() < rtol and (g - g_ref).norm() < 10 * rtol * g_ref.norm()
    assert (t[0] - t[1]).norm() > 1e-3 * t[0].norm() and (t[:, 0] - t[:, 1]).norm() > 1e-3, (
        "contexts and classes matter, or this compares nothing"
    )


FRAMES = {
    "from a template": {},
    "padded": {"n_ctx": 6},
    "comma": {"template": "a type of pet, a photo of a {}."},
    "random": {"init": "random", "n_ctx": 5},
    "class-specific": {"init": "random", "n_ctx": 3, "class_specific": True},
    "middle": {"init": "random", "n_ctx": 5, "position": "middle"},
    "front": {"position": "front"},
    "class-specific middle": {"init": "random", "n_ctx": 3, "class_specific": True, "position": "middle"},
}


@pytest.mark.parametrize(
    "frame", [f for f, options in FRAMES.items() if "position" not in options]
)  # it knows the end alone
def test_the_fast_encoder_is_the_forward_pass_spelled_out(tiny, frame):
    by_run = lambda prompts, contexts: torch.stack([spelled_out(prompts.clip, prompts.tokens, c) for c in contexts])
    assert has_fast_path(tiny())
    assert_same_encoder(tiny(), by_run, **FRAMES[frame])


TEXT_TOWERS = (
    {},
    {"custom_text": True},
    {"custom_text": True, "proj_bias": True},
    {"pool_type": "eos", "eos_id": 49407},
    {"ls_init_value": 0.5},
    {"proj_type": "none", "width": 24, "custom_text": True},
)
# every frame in every tower; each packing with every frame, with every tower, and with all frames of the plain tower
CROSSED = [(tower, frame, packing) for t, tower in enumerate(TEXT_TOWERS) for f, frame in enumerate(FRAMES)
           for p, packing in enumerate(PACKING) if not tower or (t + f + p) % 2]


@pytest.mark.parametrize("tower, frame, packing", CROSSED,
                         ids=lambda x: x if isinstance(x, str) else ",".join(x) or "clip")
def test_the_fast_encoder_is_open_clips_own(tiny, tower, frame, packing, monkeypatch):
    monkeypatch.setattr(prompts_module, "DENSE_TO", PACKING[packing])
    assert has_fast_path(tiny(**tower))
    assert_same_encoder(tiny(**tower), plain_text_features, packing=PACKING[packing], **FRAMES[frame])


@pytest.mark.parametrize("position", ("middle", "front"))
def test_a_class_name_stands_where_coop_puts_it(tiny, position):
    "Token by token: CoOp's cut of the frame into start, context, name and rest"
    clip, m = tiny(), 5
    prompts, at_end = (make_prompts(clip, CLASSES, n_ctx=m, init="random", position=p) for p in (position, "end"))
    for name, row, frame, where in zip(
        CLASSES, prompts.tokens.tolist(), at_end.tokens.tolist(), prompts.where.tolist()
    ):
        n, before = len(clip.tokenizer.encode(name)), m // 2 if position == "middle" else 0
        context, own, rest = frame[1:1 + m], frame[1 + m:1 + m + n], frame[1 + m + n:]
        assert own == clip.tokenizer.encode(name) and row == [
            frame[0],
            *context[:before],
            *own,
            *context[before:],
            *rest,
        ]
        assert where == [*range(1, 1 + before), *range(1 + before + n, 1 + m + n)]


@pytest.mark.parametrize(
    "tower",
    ({"no_causal_mask": True}, {"pool_type": "last"}, {"qk_norm": True}, {"embed_cls": True, "custom_text": True}),
    ids=lambda t: next(iter(t)),
)
def test_towers_without_the_fast_path_take_their_own_encoder(tiny, tower):
    clip = tiny(**tower)
    assert not has_fast_path(clip)
    prompts = make_prompts(clip, CLASSES)
    torch.testing.assert_close(
        text_features(prompts, prompts.start[None])[0], teacher_features(clip, CLASSES), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("frame", [f for f in FRAMES if f != "comma"])  # it does not know commas
def test_the_fast_encoder_is_exact_for_the_pocket_model(exact, frame):
    assert_same_encoder(exact, plain_text_features, **FRAMES[frame])


def test_the_fast_encoder_is_exact_for_a_published_text_tower(tiny):
    "As wide and with as many heads; its blocks are all alike"
    published = open_clip.get_model_config("ViT-B-32")["text_cfg"]
    assert_same_encoder(tiny(**published | {"layers": 3}), plain_text_features)


# -- Grad-CAM -----------------------------------------------------------------

class Patches(torch.nn.Module):
    "Tokens or cells in, the same out; in between they are a grid [B, K, h, w] that captum can read"
    def __init__(self):
        super().__init__()
        self.grid = torch.nn.Identity()

    def forward(self, tokens):
        if tokens.ndim == 4: return self.grid(tokens.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        first, patches = tokens[:, :1], tokens[:, 1:]
        side = round(patches.shape[1] ** 0.5)
        grid = self.grid(patches.transpose(1, 2).unflatten(2, (side, side)))
        return torch.cat([first, grid.flatten(2).transpose(1, 2)], 1)


def captum_maps(clip, pictures, directions, layer):
    "captum's LayerGradCam of the cosine with each direction, [T, B, h, w]"
    cosines = lambda x: F.normalize(clip.model.encode_image(x), dim=-1) @ directions.T
    cam = LayerGradCam(cosines, layer)
    return torch.stack(
        [
            cam.attribute(pictures.clone().requires_grad_(), target=t, relu_attributions=True)[:, 0].detach()
            for t in range(len(directions))
        ]
    )


@pytest.fixture(scope="module", params=("pocket", "ResNet", "ViT", "swin", "FastViT"))
def looked_at(request, tiny, clip):
    "(clip, pictures, text directions, the Grad-CAM operator, tolerance)"
    if request.param == "pocket":
        pictures = torch.stack([clip.preprocess(Image.fromarray(render(s)[0])) for s in random_scenes(2, 1)])
        tolerance = 1e-4
    else:
        clip, tolerance = tiny({"ResNet": RESNET, "ViT": VIT, "swin": swin(), "FastViT": FASTVIT}[request.param]), 1e-9
        pictures = normal(0, 3, 3, clip.image_size, clip.image_size)
    if request.param in ("ResNet", "FastViT"): normalise_like_trained(clip, pictures)
    directions = clip.encode_text([f"a photo of a {c}." for c in CLASSES])
    return clip, pictures, directions, cam_operator(clip, pictures, batch_size=2), tolerance


def normalise_like_trained(clip, pictures):
    "Give a random ResNet the batch statistics it would have after training, so that its maps are not all nearly one"
    norms = [m for m in clip.model.visual.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for m in norms: m.momentum = None
    for m in norms: m.reset_running_stats(), m.train(), m.weight.data.fill_(1.0)
    clip.model.encode_image(pictures)
    for m in norms: m.eval()


def test_maps_are_captums(looked_at):
    clip, pictures, directions, operator, tolerance = looked_at
    layer, ours = find_layer(clip), operator.maps(directions).relu()
    assert min(ours.shape[2:]) >= 6
    if isinstance(layer, torch.nn.LayerNorm):  # of a ViT or a swin: no grid as captum knows it
        visual, patches = clip.model.visual, Patches()
        owner, name = (visual.trunk, "norm") if hasattr(visual, "trunk") else (visual.transformer.resblocks[-1], "ln_1")
        setattr(owner, name, torch.nn.Sequential(layer, patches))
        try: theirs = captum_maps(clip, pictures, directions, patches.grid)
        finally: setattr(owner, name, layer)
    else: theirs = captum_maps(clip, pictures, directions, layer)
    correlation = np.corrcoef(ours.flatten(), theirs.flatten())[0, 1]
    assert correlation >= 0.999, correlation
    assert (ours - theirs).abs().max() < tolerance * theirs.max()
    assert theirs.flatten(2).amax(2).count_nonzero() > len(pictures), "equal, and not because they are empty"


def test_maps_are_those_of_the_grad_cam_package(looked_at):
    clip, pictures, directions, operator, tolerance = looked_at
    ours, theirs = operator.maps(directions).numpy(), package_maps(clip, pictures, directions).numpy()
    assert ours.shape == theirs.shape and np.abs(ours - theirs).max() < max(tolerance, 1e-6) * np.abs(theirs).max()


DEFAULTS = {
    "swin": (swin, "trunk.norm"),
    "FastViT that ends coarse": (lambda: FASTVIT, "trunk.stages.2"),
    "FastViT": (lambda: FASTVIT | {"image_size": 192}, "trunk.final_conv"),
    "ResNet": (lambda: RESNET, "layer3.0"),
    "ViT": (lambda: VIT, "transformer.resblocks.2.ln_1"),
}


@pytest.mark.parametrize("tower", DEFAULTS)
def test_the_default_layer_is_the_deepest_with_enough_cells(tiny, tower):
    vision, name = DEFAULTS[tower]
    assert find_layer(tiny(vision())) is tiny(vision()).model.visual.get_submodule(name)


@pytest.mark.parametrize(
    "layer, cells, channels",
    (
        ("trunk.norm", 6, 96),
        ("trunk.layers.2", 6, 96),
        ("trunk.layers.1", 12, 48),
        ("trunk.layers.1.blocks.1.norm1", 12, 48),
        ("trunk.layers.1.blocks.1.norm2", 12, 48),
        ("trunk.layers.0.blocks.1", 24, 24),
        ("trunk.patch_embed.proj", 24, 24),
    ),
)
def test_layers_with_their_channels_last_give_the_packages_maps(tiny, layer, cells, channels):
    "Stages, norms and second norms of a swin transformer; in its first, h = w = K, only the trunk knows the order"
    clip = tiny(swin())
    pictures, directions = normal(0, 2, 3, 96, 96), normal(1, 3, 24)
    got = []
    hook = clip.model.visual.get_submodule(layer).register_forward_hook(lambda module, args, out: got.append(out))
    where = {"target_layer": layer}
    try:
        ours = cam_operator(clip, pictures, **where).maps(directions).numpy()
        few = cam_maps(clip, pictures, directions, **where).numpy()
    finally: hook.remove()
    first = (
        got[0].detach()
        if layer.endswith("proj")
        else got[0].detach().reshape(2, cells, cells, channels).permute(0, 3, 1, 2)
    )
    assert ours.shape == (3, 2, cells, cells) and first.shape == (2, channels, cells, cells)
    with GradCAM(
        cam_module._Cosine(clip, directions),
        [clip.model.visual.get_submodule(layer)],
        reshape_transform=lambda x: (
            x if layer.endswith("proj") else x.reshape(len(x), cells, cells, channels).permute(0, 3, 1, 2)
        ),
    ) as cam:
        outputs = cam.activations_and_grads(pictures.clone().requires_grad_())
        outputs[:, 1].sum().backward()
        theirs = (cam.activations_and_grads.gradients[0].mean((2, 3), keepdim=True) * first).sum(1).numpy()
    np.testing.assert_allclose(ours[1], theirs, rtol=0, atol=1e-6 * np.abs(theirs).max())
    np.testing.assert_allclose(few, ours, rtol=0, atol=1e-9 * np.abs(ours).max())
    np.testing.assert_allclose(
        package_maps(clip, pictures, directions, **where), ours, rtol=0, atol=1e-6 * np.abs(ours).max()
    )


def test_a_layer_that_sees_windows_is_refused(tiny):
    with pytest.raises(ValueError, match="sees 8 windows of 2 images"):
        cam_operator(tiny(swin()), normal(0, 2, 3, 96, 96), target_layer="trunk.layers.1.blocks.0.attn.qkv")


CLOSED = {
    "resnet, stage": (RESNET, {}, "layer4"),
    "resnet, block": (RESNET, {}, "layer4.0"),
    "vit": (VIT, {}, None),
    "vit, layer scale": (VIT | {"ls_init_value": 0.5}, {}, None),
    "vit, norm after pooling": (VIT | {"final_ln_after_pool": True}, {"custom_text": True}, None),
}


@pytest.mark.parametrize("per_cell", (False, True), ids=("GradCAM", "HiResCAM"))
@pytest.mark.parametrize("tower", CLOSED)
def test_the_closed_form_of_the_operator_is_one_backward_pass_for_each_dimension(tiny, tower, per_cell, monkeypatch):
    vision, options, layer = CLOSED[tower]
    clip, where = tiny(vision, **options), {"target_layer": layer, "per_cell": per_cell}
    pictures, directions = normal(0, 3, 3, clip.image_size, clip.image_size), normal(1, 4, 24)
    closed, maps = cam_operator(clip, pictures, **where), grad_cam_maps(clip, pictures, directions, **where)
    assert cam_module.trace(clip, pictures, find_layer(clip, layer)).closed is not None
    for name in ("_pool_behind", "_last_block"): monkeypatch.setattr(cam_module, name, lambda *_: None)
    assert cam_module.trace(clip, pictures, find_layer(clip, layer)).closed is None
    torch.testing.assert_close(closed.operator, cam_operator(clip, pictures, **where).operator, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(closed.features, cam_operator(clip, pictures, **where).features)
    some = grad_cam_maps(clip, pictures, directions, **where), grad_cam_maps(clip, pictures, directions[:1], **where)
    torch.testing.assert_close(maps, some[0], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(some[1], maps[:1], rtol=1e-9, atol=1e-12)


def test_towers_that_read_more_than_the_class_token_have_no_closed_form(tiny):
    clip = tiny(VIT | {"pool_type": "avg"}, custom_text=True)
    pictures = normal(0, 2, 3, 32, 32)
    assert cam_module.trace(clip, pictures, find_layer(clip)).closed is None
    ours, theirs = (
        cam_operator(clip, pictures).maps(normal(1, 2, 24)).numpy(),
        package_maps(clip, pictures, normal(1, 2, 24)).numpy(),
    )
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6 * np.abs(theirs).max())


@pytest.mark.parametrize("explainer", ("GradCAMPlusPlus", "LayerCAM", "HiResCAM"))
def test_other_methods_of_the_package_are_a_name_away(tiny, explainer):
    clip, pictures = tiny(), normal(0, 2, 3, 32, 32)
    each = normal(1, 2, 3, 24)  # other directions for each image
    maps = cam_maps(clip, pictures, each, explainer=explainer)
    assert maps.shape == (3, 2, 8, 8)
    for b in range(2):
        alone = package_maps(clip, pictures[b:b + 1], each[b], explainer=explainer)[:, 0]
        np.testing.assert_allclose(maps[:, b], alone, rtol=0, atol=1e-6 * maps[:, b].abs().max().item())


@pytest.mark.parametrize("options", ({"batch_size": 1}, {"batch_size": 2}), ids=str)
def test_the_operator_does_not_depend_on_how_it_is_cut_into_pieces(tiny, options):
    clip, pictures = tiny(VIT), normal(0, 3, 3, 32, 32)
    torch.testing.assert_close(cam_operator(clip, pictures, **options).operator, cam_operator(clip, pictures).operator)


def test_shown_maps_are_the_packages_call_before_its_stretching(looked_at):
    "GradCAM.__call__ rectifies, subtracts the minimum, divides by (1e-7 + maximum), resizes and stretches: as here"
    clip, pictures, directions, operator, tolerance = looked_at
    tokens, cells = (
        lambda x: x[:, 1:].transpose(1, 2).unflatten(2, (round((x.shape[1] - 1) ** 0.5), -1)),
        lambda x: x.permute(0, 3, 1, 2),
    )
    as_grid = (
        (cells if hasattr(clip.model.visual, "trunk") else tokens)
        if isinstance(find_layer(clip), torch.nn.LayerNorm)
        else None
    )

    class Cosines(torch.nn.Module):
        def forward(self, x): return F.normalize(clip.model.encode_image(x), dim=-1) @ directions.T

    model = Cosines()
    model.inner = clip.model
    with GradCAM(model, [find_layer(clip)], reshape_transform=as_grid) as cam:
        theirs = cam(pictures.clone().requires_grad_(), [ClassifierOutputTarget(1)] * len(pictures))
    ours = operator.maps(directions)[1].relu().numpy()
    np.testing.assert_allclose(scale_cam_image(scale_cam_image(ours, theirs.shape[:0:-1])), theirs, atol=1e-3)


def test_resizing_is_torchs_bilinear_of_the_rectified_map():
    maps = normal(0, 2, 3, 6, 7)
    theirs = F.interpolate(maps.float().clamp(min=0), size=(30, 21), mode="bilinear", align_corners=False)
    torch.testing.assert_close(resize_maps(maps, (30, 21)), theirs)


def test_the_operator_is_linear_in_the_direction_and_blind_along_the_image_feature(looked_at):
    "The derivative of a cosine has no part along the feature: adding any of it to the text changes nothing"
    _, _, directions, operator, tolerance = looked_at
    (a, b), atol = operator.maps(directions[:2]), 10 * tolerance * operator.maps(directions).abs().max().item()
    torch.testing.assert_close(
        operator.maps(2 * directions[:1] - 3 * directions[1:2])[0], 2 * a - 3 * b, rtol=0, atol=atol
    )
    unit = F.normalize(operator.features, dim=-1)[:, None]
    torch.testing.assert_close(operator.maps(directions[None, :1] + 5 * unit)[0], a, rtol=0, atol=atol)


def test_a_map_of_the_cosine_does_not_depend_on_the_length_of_the_feature(looked_at):
    _, _, directions, operator, _ = looked_at
    longer = MapOperator(4 * operator.operator, 4 * operator.features)
    torch.testing.assert_close(longer.maps(directions), operator.maps(directions))


@pytest.fixture(scope="module")
def far(clip, task): return train(clip, task, [0, 1], epochs=10, batch_size=8, lr=0.2, views=0, progress=False)


@pytest.mark.parametrize("target", ("true", "predicted", "contrast", "hand"))
def test_foreground_measures_the_packages_map_of_each_prompt_on_each_image(clip, task, far, target):
    "From the trained contexts to a share, once more, with the plain encoder, the grad-cam package and a sum by hand"
    runs, rows = far, [1, 9, 22]
    table, test = (
        foreground(runs, "shifted", images=rows, target=target, random_directions=1).rows,
        task.tests["shifted"],
    )
    texts, prompts = {"zero-shot CLIP": teacher_features(clip, task.classes)}, make_prompts(clip, task.classes)
    for r, name in enumerate(runs.methods):
        texts[name] = plain_text_features(prompts, torch.from_numpy(runs.contexts[-1, r:r + 1]))[0]
    shares = {}
    for name, text in texts.items():
        for i in rows:
            picture, label, mask = test.tensor(clip, [i]), test.labels[i], test.mask(i)
            scores = (clip.encode_image(picture) @ text.T)[0]
            rival = max((c for c in range(6) if c != label), key=lambda c: scores[c].item())
            directions = {
                "true": text[label],
                "predicted": text[scores.argmax()],
                "contrast": text[label] - text[rival],
                "hand": text[task.classes.index("hand")],
            }
            small = package_maps(clip, picture, directions[target][None]).clamp(min=0)
            cam = F.interpolate(small, size=mask.shape, mode="bilinear")[0, 0].numpy()
            shares[name, i] = cam[mask].sum() / cam.sum() if cam.any() else np.nan
            ours = table[(table["method"] == name) & (table["image"] == i)]
            assert ours["share"].item() == pytest.approx(shares[name, i], rel=1e-3, nan_ok=True)
            assert ours["area"].item() == pytest.approx(mask.mean()) and ours["label"].item() == label
    gaps = [abs(shares["CoOp", i] - shares[runs.methods[1], i]) for i in rows]
    assert np.nanmax(gaps) > 0.005, "the prompts look at different places, or this compares nothing"


@pytest.mark.parametrize("size", [(112, 112), (40, 40), (90, 160), (300, 200)], ids=str)
def test_masks_are_cut_and_resized_as_their_images_are(clip, tiny, size):
    "A white square on black, and its mask: the model sees both in the same place"
    mask = np.zeros(size, bool)
    mask[size[0] // 3:size[0] // 2, size[1] // 4:size[1] // 2] = True
    split = Split([np.repeat(mask[..., None] * np.uint8(255), 3, 2)], [0], ("a", "b"), [mask])
    for model in (clip, tiny(VIT)):
        seen = model.preprocess(split.image(0))[0]
        white = seen > (seen.min() + seen.max()) / 2
        shown = shown_masks(model, split, [0])[0]
        assert shown.shape == white.shape and shown.any() and (shown != white).float().mean() < 0.01


# -- loading ------------------------------------------------------------------

@pytest.fixture
def rn50(tmp_path, monkeypatch):
    "A checkpoint of RN50 with random weights, as a download would leave it; of a narrow and shallow one under its name"
    path, configs = tmp_path / "open_clip_model.safetensors", open_clip.factory._MODEL_CONFIGS
    for name in ("RN50", "RN50-quickgelu"):
        known = open_clip.get_model_config(name)
        small = {"vision_cfg": known["vision_cfg"] | {"layers": [1, 1, 1, 1], "width": 8},
                 "text_cfg": known["text_cfg"] | {"width": 64, "heads": 2, "layers": 3}}
        monkeypatch.setitem(configs, name, known | small)
    torch.manual_seed(0)
    model = open_clip.create_model("RN50-quickgelu")
    save_file({k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}, path)
    return path


def test_openai_weights_make_rn50_a_quick_gelu(rn50, monkeypatch):
    asked = []
    monkeypatch.setattr(open_clip.factory, "download_pretrained", lambda cfg, **_: asked.append(cfg) or str(rn50))
    with pytest.warns(UserWarning, match="QuickGELU.*RN50-quickgelu"): ours = load_clip("RN50", "openai")
    assert asked and asked[0]["hf_hub"] == "timm/resnet50_clip.openai/" and ours.name == "RN50-quickgelu"
    theirs = open_clip.create_model("RN50-quickgelu", pretrained=str(rn50)).eval()
    tokens, picture = ours.tokenize(["a photo of a dog."]), normal(0, 1, 3, 224, 224).float()
    with torch.no_grad():
        torch.testing.assert_close(ours.model.encode_text(tokens), theirs.encode_text(tokens), rtol=0, atol=0)
        torch.testing.assert_close(ours.model.encode_image(picture), theirs.encode_image(picture), rtol=0, atol=0)
        for block in theirs.transformer.resblocks: block.mlp.gelu = torch.nn.GELU()
        assert not torch.allclose(ours.model.encode_text(tokens), theirs.encode_text(tokens), atol=1e-4), (
            "the activation matters here"
        )


def test_an_explicit_conflict_of_activation_is_an_error(monkeypatch):
    monkeypatch.setattr(
        open_clip.factory, "download_pretrained", lambda *_, **__: pytest.fail("should not get as far as downloading")
    )
    with pytest.raises(ValueError, match="QuickGELU.*quick_gelu=False"): load_clip("RN50", "openai", quick_gelu=False)
    with pytest.raises(ValueError, match="GELU.*quick_gelu=True"):
        load_clip("ViT-B-32", "laion2b_s34b_b79k", quick_gelu=True)


def test_an_unreachable_download_says_what_to_do():
    with pytest.raises(OSError) as e: load_clip("RN50-quickgelu", "openai")
    for word in ("RN50-quickgelu", "openai", "pretrained=", "download the checkpoint"): assert word in str(e.value)


@pytest.mark.parametrize("suffix", (".safetensors", ".pt", ".bin"))
def test_a_checkpoint_file_gives_its_weights(tiny, tmp_path, suffix):
    source = tiny(precision="fp32")
    path, state = tmp_path / f"weights{suffix}", {k: v.clone() for k, v in source.model.state_dict().items()}
    if suffix == ".safetensors": save_file(state, path)
    else: torch.save({"state_dict": state}, path)
    loaded = load_clip(source.name, str(path))
    for name, value in loaded.model.state_dict().items(): assert torch.equal(value, state[name]), name
    assert (
        loaded.pretrained == str(path)
        and not any(p.requires_grad for p in loaded.model.parameters())
        and not loaded.model.training
    )
    torch.testing.assert_close(loaded.encode_text(CLASSES), source.encode_text(CLASSES))


def test_a_checkpoint_that_carries_code_is_refused(tiny, tmp_path):
    class Evil:
        def __reduce__(self): return (open, (str(tmp_path / "owned"), "w"))
    torch.save({"state_dict": Evil()}, tmp_path / "evil.pt")
    with pytest.raises((OSError, ValueError, pickle.UnpicklingError)): load_clip(tiny().name, str(tmp_path / "evil.pt"))
    assert not (tmp_path / "owned").exists()


def test_a_folder_of_config_and_weights_is_loaded(tiny, tmp_path):
    source = tiny(precision="fp32")
    (tmp_path / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": open_clip.get_model_config(source.name), "preprocess_cfg": {}})
    )
    save_file({k: v.clone() for k, v in source.model.state_dict().items()}, tmp_path / "open_clip_model.safetensors")
    loaded = load_clip(f"local-dir:{tmp_path}")
    torch.testing.assert_close(loaded.encode_text(CLASSES), source.encode_text(CLASSES))


@pytest.mark.parametrize("vision", (VIT, RESNET), ids=("ViT", "ResNet"))
def test_features_are_open_clips_own_normalised_in_batches_of_any_size(tiny, vision):
    clip = tiny(vision)
    pictures = normal(0, 5, 3, clip.image_size, clip.image_size)
    theirs = clip.model.encode_image(pictures)
    torch.testing.assert_close(clip.encode_image(pictures, batch_size=2), theirs / theirs.norm(dim=1, keepdim=True))
    theirs = clip.model.encode_text(open_clip.get_tokenizer(clip.name)(CLASSES))
    torch.testing.assert_close(clip.encode_text(CLASSES), theirs / theirs.norm(dim=1, keepdim=True))


@pytest.mark.parametrize(
    "precision, dtype, rounding",
    [
        ("fp32", torch.float32, 1e-5),
        ("fp64", torch.float64, 1e-12),
        ("fp16", torch.float16, 2e-2),
        ("bf16", torch.bfloat16, 1e-1),
        ("amp_bf16", torch.float32, 1e-1),
    ],
)
def test_low_precision_is_for_the_towers_alone_and_costs_its_rounding(tiny, precision, dtype, rounding):
    "Weights as asked for; contexts, features, losses and the logit scale never below float32"
    clip, reference = tiny(precision=precision), tiny()
    wide = torch.float64 if precision == "fp64" else torch.float32
    images = normal(0, 3, 3, 32, 32)
    prompts, exactly = (make_prompts(c, CLASSES, n_ctx=2, init="random") for c in (clip, reference))
    context = 0.5 * normal(1, 2, *prompts.start.shape).to(wide)
    ours, true = clip.encode_image(images), reference.encode_image(images)
    args = torch.tensor([0, 1, 2]), normal(2, 3, len(CLASSES))
    low, full = (
        prompt_gradients(prompts, context, ours, args[0], args[1].to(wide)),
        prompt_gradients(exactly, context.double(), true, *args),
    )
    assert clip.dtype == dtype and clip.logit_scale == reference.logit_scale.to(wide)
    for found in (prompts.start, ours, clip.encode_text(CLASSES), low.loss_ce, low.g_d, low.text):
        assert found.dtype == wide
    gaps = [
        ((a.double() - b).norm() / b.norm()).item()
        for a, b in ((ours, true), (low.text, full.text), (low.g_d, full.g_d), (low.g_g, full.g_g))
    ]
    assert max(gaps) < rounding, gaps
    if precision not in ("fp32", "fp64"): assert min(gaps) > 1e-5, f"nothing was computed in low precision: {gaps}"
