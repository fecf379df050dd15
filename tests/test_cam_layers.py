"Layers that hooks find hard: followed by an in-place ReLU, returning a tuple, pooled."
from contextlib import contextmanager

import numpy as np
import pytest
import pytorch_grad_cam
import torch
from PIL import Image
from pytorch_grad_cam.utils.image import scale_cam_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from prograd_viz.cam import cam_operator, package_maps
from prograd_viz.data import augmentation
from prograd_viz.maps import cam_maps

RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8}


def inputs(clip):
    generator = torch.Generator().manual_seed(0)
    size = clip.image_size
    return torch.randn(2, 3, size, size, generator=generator), clip.encode_text(["a photo of a dog."])


@contextmanager
def replaced(module, **others):
    "A module with other children for a while"
    before = {name: getattr(module, name) for name in others}
    for name, other in others.items(): setattr(module, name, other)
    try: yield
    finally:
        for name, old in before.items(): setattr(module, name, old)


EXPLAINERS = ("GradCAM", "GradCAMPlusPlus", "GradCAMElementWise", "HiResCAM", "LayerCAM", "XGradCAM", "EigenGradCAM",
              "ScoreCAM")


@pytest.mark.parametrize("explainer", EXPLAINERS)
def test_maps_at_a_batch_norm_do_not_depend_on_whether_the_relu_behind_it_writes_in_place(tiny, explainer):
    clip = tiny(RESNET, "fp32")
    images, directions = inputs(clip)
    found = {}
    for inplace in (False, True):
        with replaced(clip.model.visual, act1=torch.nn.ReLU(inplace=inplace)):
            found[inplace] = [cam_maps(clip, images, directions, explainer=explainer, target_layer="bn1").numpy()]
            if explainer == "GradCAM":
                found[inplace].append(package_maps(clip, images, directions, target_layer="bn1").numpy())
    for plain, written in zip(*found.values()): assert abs(plain).max() > 0 and np.array_equal(plain, written)


@pytest.mark.parametrize("explainer", EXPLAINERS)
def test_a_map_behind_an_in_place_layer_is_the_one_that_the_package_draws_alone(tiny, explainer):
    clip = tiny(RESNET, "fp32")
    images, directions = inputs(clip)

    class Cosine(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = clip.model

        def forward(self, x): return torch.nn.functional.normalize(self.model.encode_image(x), dim=-1) @ directions.T

    cam = getattr(pytorch_grad_cam, explainer)(model=Cosine(), target_layers=[clip.model.visual.bn1])
    try:
        with replaced(clip.model.visual, act1=torch.nn.ReLU()):
            alone = cam(images.clone().requires_grad_(), [ClassifierOutputTarget(0)] * 2)  # between 0 and 1, [B, H, W]
    finally: cam.activations_and_grads.release()
    with replaced(clip.model.visual, act1=torch.nn.ReLU(inplace=True)):
        ours = cam_maps(clip, images, directions, explainer=explainer, target_layer="bn1")[0].numpy()
    shown = scale_cam_image(scale_cam_image(np.maximum(ours, 0), (64, 64)))
    assert alone.max() > 0.9
    np.testing.assert_allclose(shown, alone, atol=1e-3)  # the package scales maps of 1e-5 up to 1


def test_a_call_leaves_images_hooks_and_layers_as_they_were(tiny):
    clip = tiny(RESNET, "fp32")
    (images, directions), layer = inputs(clip), clip.model.visual.bn1
    package_maps(clip, images, directions, explainer="LayerCAM", target_layer="bn1")
    assert not images.requires_grad and not layer._forward_hooks
    for name in ("AblationCAM", "ShapleyCAM", "FinerCAM", "RefineCAM"):  # they exchange layers or read more than one
        with pytest.raises(ValueError, match=f"{name} is not offered: it "):
            package_maps(clip, images, directions, explainer=name, target_layer="bn1")
    assert clip.model.visual.bn1 is layer


@pytest.mark.parametrize("precision", ["fp16", "bf16", "amp_bf16"])
def test_the_package_s_maps_in_lower_precision_are_near_those_in_float32(tiny, precision):
    images, directions = inputs(tiny(precision="fp32"))
    exact = package_maps(tiny(precision="fp32"), images, directions, explainer="LayerCAM")
    near = package_maps(tiny(precision=precision), images, directions, explainer="LayerCAM")
    assert near.dtype == torch.float32 and abs(near - exact).max() < 0.1 * abs(exact).max()


def refuse(said, clip, layer):
    "All three ways to a map refuse a layer, in these words"
    images, directions = inputs(clip)
    with pytest.raises(ValueError, match=said): cam_maps(clip, images, directions, target_layer=layer)
    with pytest.raises(ValueError, match=said): cam_operator(clip, images, target_layer=layer)
    with pytest.raises(ValueError, match=said):
        package_maps(clip, images, directions, explainer="LayerCAM", target_layer=layer)


def test_a_layer_without_cells_is_named(tiny):
    refuse("returns a tuple", tiny(precision="fp32"), "transformer.resblocks.0.attn")
    resnet = tiny(RESNET, "fp32")
    refuse(r"returns a tensor \(2, 24\)", resnet, "attnpool")
    pooled = torch.nn.AdaptiveAvgPool2d(1), torch.nn.Upsample(2)  # as a squeeze-and-excitation block pools
    with replaced(resnet.model.visual, layer4=torch.nn.Sequential(resnet.model.visual.layer4, *pooled)):
        refuse(r"returns a tensor \(2, 256, 1, 1\)", resnet, "layer4.1")


def test_a_layer_that_was_not_run_is_named_with_every_explainer(tiny):
    clip = tiny(precision="fp32")
    images, directions = inputs(clip)
    for explainer in ("GradCAM", "LayerCAM"):
        with pytest.raises(ValueError, match="is not a layer that this model's image tower runs"):
            cam_maps(clip, images, directions, explainer=explainer, target_layer=torch.nn.Conv2d(3, 3, 1))


@pytest.mark.parametrize("size", [(32, 64), (32, 72), (40, 16), (36, 36)], ids=str)
def test_maps_of_images_that_are_not_square_have_their_shape(tiny, size):
    clip = tiny({"image_size": list(size), "layers": 2, "width": 32, "head_width": 16, "patch_size": 4})
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    text = clip.encode_text(["a photo of a dog."])
    norm, kept = clip.model.visual.transformer.resblocks[-1].ln_1, []

    def keep(module, args, out):
        kept.append(out.detach().requires_grad_())
        return kept[-1]

    hook = norm.register_forward_hook(keep)
    feature = clip.model.encode_image(images)
    hook.remove()
    torch.nn.functional.cosine_similarity(feature, text).sum().backward()
    patches, slopes = kept[0].detach()[:, 1:], kept[0].grad[:, 1:]  # behind the class token, row by row
    by_hand = (patches * slopes.mean(1, keepdim=True)).sum(-1).reshape(2, size[0] // 4, size[1] // 4)
    for maps in (cam_maps(clip, images, text), cam_operator(clip, images).maps(text), package_maps(clip, images, text)):
        assert torch.allclose(maps[0].double(), by_hand, rtol=1e-4, atol=1e-7)
    assert clip.image_shape == size and augmentation(clip)(Image.new("RGB", (50, 70))).shape[1:] == size
