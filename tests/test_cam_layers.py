"Layers that hooks find hard: followed by an in-place ReLU, returning a tuple, pooled."
import pytest
import torch

from prograd_viz.cam import cam_maps, cam_operator

RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8}


def inputs(clip):
    generator = torch.Generator().manual_seed(0)
    size = clip.image_size
    return torch.randn(2, 3, size, size, generator=generator), clip.encode_text(["a photo of a dog."])


def test_maps_at_a_batch_norm_do_not_depend_on_whether_the_relu_behind_it_writes_in_place(tiny):
    clip = tiny(RESNET, "fp32")
    images, directions = inputs(clip)
    block = clip.model.visual
    relu, found = block.act1, {}
    for inplace in (False, True):
        block.act1 = torch.nn.ReLU(inplace=inplace)
        try: found[inplace] = cam_maps(clip, images, directions, "bn1")
        finally: block.act1 = relu
    assert found[True].abs().max() > 0 and torch.equal(found[True], found[False])


@pytest.mark.parametrize(("vision", "layer", "said"), [(None, "transformer.resblocks.0.attn", "returns a tuple"),
                                                       (RESNET, "attnpool", r"returns a tensor \(2, ")])
def test_a_layer_without_cells_is_named(tiny, vision, layer, said):
    clip = tiny(precision="fp32") if vision is None else tiny(vision, "fp32")
    images, directions = inputs(clip)
    for call in (lambda: cam_maps(clip, images, directions, layer), lambda: cam_operator(clip, images, layer)):
        with pytest.raises(ValueError, match=said): call()
