"Everything that changes a feature is in a model's fingerprint, and a guessed activation is always warned of."

import json
import re
import warnings
from dataclasses import replace

import numpy as np
import open_clip
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file

from prograd_viz import cam
from prograd_viz.clip import load_clip
from prograd_viz.data import Split
from prograd_viz.maps import cam_maps
from prograd_viz.training import Recipe, Training

TEXTS = ["a photo of a dog."]


@pytest.fixture(scope="module")
def twins(tiny):
    "(GELU, QuickGELU) of the same weights"
    plain = tiny(precision="fp32")
    quick = load_clip(plain.name, "random", quick_gelu=True)
    quick.model.load_state_dict(plain.model.state_dict())
    return plain, quick


@pytest.fixture()
def renamed(twins, monkeypatch, tmp_path):
    "The small architecture under real names, which exist with either activation, and a file of its weights"
    configs, config = open_clip.factory._MODEL_CONFIGS, open_clip.get_model_config(twins[0].name)
    monkeypatch.setitem(configs, "ViT-B-32", config)
    monkeypatch.setitem(configs, "ViT-B-32-quickgelu", config | {"quick_gelu": True})
    save_file({k: v.contiguous() for k, v in twins[0].model.state_dict().items()}, tmp_path / "tuned.safetensors")
    return str(tmp_path / "tuned.safetensors")


def changed(clip):
    "name -> the same model but for one thing"
    wide = open_clip.transform.image_transform_v2(
        open_clip.transform.PreprocessCfg(**clip.model.visual.preprocess_cfg | {"mean": (0, 0, 0)}), is_train=False)
    return {"precision": replace(clip, autocast=torch.bfloat16), "preprocessing": replace(clip, preprocess=wide)}


def test_models_that_differ_in_activation_alone_have_otherfingerprints(twins):
    plain, quick = twins
    assert not torch.equal(plain.encode_text(TEXTS), quick.encode_text(TEXTS)), "they are other models"
    assert plain.image_fingerprint != quick.image_fingerprint
    assert plain.fingerprint() != quick.fingerprint()


@pytest.mark.parametrize("what", ["precision", "preprocessing"])
def test_whatever_changes_a_feature_changes_bothfingerprints(twins, what):
    other = changed(twins[0])[what]
    assert other.image_fingerprint != twins[0].image_fingerprint and other.fingerprint() != twins[0].fingerprint()


def test_logit_scale_context_length_and_heads_are_in_the_fingerprint(tiny):
    clip = tiny(precision="fp32")
    before, image = clip.fingerprint(), clip.image_fingerprint
    scale = clip.model.logit_scale.detach().clone()
    try:
        clip.model.logit_scale.data += 1
        assert clip.fingerprint() != before and replace(clip).image_fingerprint == image
    finally: clip.model.logit_scale.data = scale
    assert clip.fingerprint() == before
    length, clip.tokenizer.context_length = clip.tokenizer.context_length, 20
    try: assert clip.fingerprint() != before
    finally: clip.tokenizer.context_length = length
    attention = clip.model.visual.transformer.resblocks[0].attn
    heads, attention.num_heads = attention.num_heads, 2 * attention.num_heads
    try: assert clip.fingerprint() != before and replace(clip).image_fingerprint != image
    finally: attention.num_heads = heads


def test_two_loads_of_one_model_have_one_fingerprint(clip):
    again = load_clip("pocket")
    assert again.fingerprint() == clip.fingerprint() and again.image_fingerprint == clip.image_fingerprint


def test_runs_are_resumed_with_the_model_of_the_same_activation_alone(twins, task):
    trainings = [Training(c, task, [1.0], Recipe(views=0).checked(task)) for c in twins]
    plain, quick = (training.config(hashes=True)["hashes"] for training in trainings)
    assert (
        plain["model"] == twins[0].fingerprint() and plain["model"] != quick["model"] and plain["data"] == quick["data"]
    )


def test_arrays_of_the_same_bytes_and_another_shape_are_other_images(twins, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 40, 3), dtype=np.uint8)
    wide, high = Split([pixels], [0], ("dog", "cat")), Split([pixels.reshape(40, 20, 3)], [0], ("dog", "cat"))
    assert wide.fingerprint() != high.fingerprint()
    assert wide.fingerprint() == Split([Image.fromarray(pixels)], [0], ("dog", "cat")).fingerprint()
    clip = replace(twins[0], cache=tmp_path)
    assert not torch.equal(wide.features(clip), high.features(clip)), "nor do they share a file of the cache"


def test_two_activations_do_not_share_a_file_of_the_cache(twins, tmp_path):
    split = Split([np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)], [0], ("dog", "cat"))
    plain, quick = (split.features(replace(c, cache=tmp_path)) for c in twins)
    assert not torch.equal(plain, quick) and len(list(tmp_path.glob("*.safetensors"))) == 2


def test_a_file_that_does_not_say_its_activation_is_warned_of(twins, renamed):
    plain, quick = twins
    with pytest.warns(UserWarning, match="tuned.safetensors' does not define its activation.*quick_gelu=True"):
        assert torch.equal(load_clip("ViT-B-32", renamed).encode_text(TEXTS), plain.encode_text(TEXTS))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(
            load_clip("ViT-B-32", renamed, quick_gelu=False).encode_text(TEXTS), plain.encode_text(TEXTS)
        )
        named = load_clip("ViT-B-32-quickgelu", renamed)
    assert torch.equal(named.encode_text(TEXTS), quick.encode_text(TEXTS))


@pytest.mark.parametrize("pretrained", ["random", "file"])
def test_gelu_is_refused_by_an_architecture_with_quick_gelu(renamed, pretrained):
    with pytest.raises(ValueError, match="'ViT-B-32-quickgelu' has QuickGELU.*load 'ViT-B-32'"):
        load_clip("ViT-B-32-quickgelu", renamed if pretrained == "file" else "random", quick_gelu=False)


def test_the_pocket_model_refuses_another_activation(clip):
    with pytest.raises(ValueError, match="'pocket' has GELU, got quick_gelu=True"):
        load_clip("pocket", quick_gelu=True)
    assert torch.equal(load_clip("pocket", quick_gelu=False).encode_text(TEXTS), clip.encode_text(TEXTS))


TIMM = {
    "timm_model_name": "vit_tiny_patch16_224",
    "timm_model_pretrained": False,
    "timm_pool": "token",
    "timm_proj": "linear",
    "image_size": 32,
}


def test_quick_gelu_is_refused_beside_a_tower_that_it_cannot_change(tiny):
    name = tiny(TIMM, "fp32").name
    with pytest.raises(ValueError, match="has towers with GELU and QuickGELU, and quick_gelu=True cannot change"):
        load_clip(name, "random", quick_gelu=True)
    for said in (None, False): assert load_clip(name, "random", quick_gelu=said).name == name


def test_a_resnet_of_relus_takes_quick_gelu_in_its_text_tower(tiny):
    name = tiny({"image_size": 64, "layers": [1, 1, 1, 1], "width": 8}, "fp32").name
    quick = load_clip(name, "random", quick_gelu=True).model
    assert {type(m).__name__ for m in quick.transformer.modules()} >= {"QuickGELU"}


@pytest.fixture()
def folder(twins, tmp_path):
    "(says) -> the address of a folder whose configuration says this of the activation"
    def write(preprocess=(), **says):
        config = {"model_cfg": open_clip.get_model_config(twins[0].name) | says, "preprocess_cfg": dict(preprocess)}
        (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
        save_file(
            {k: v.contiguous() for k, v in twins[0].model.state_dict().items()},
            tmp_path / "open_clip_model.safetensors",
        )
        return f"local-dir:{tmp_path}"
    return write


def test_a_folder_that_does_not_say_its_activation_is_warned_of_and_the_fix_works(twins, folder):
    plain, quick = (t.encode_text(TEXTS) for t in twins)
    with pytest.warns(
        UserWarning, match="the configuration of 'local-dir:.*does not define its activation.*quick_gelu=True"
    ) as w:
        assert torch.equal(load_clip(folder()).encode_text(TEXTS), plain)
    assert w[0].filename == __file__, "it names the line that called"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(load_clip(folder(), quick_gelu=True).encode_text(TEXTS), quick)
        assert torch.equal(load_clip(folder(), quick_gelu=False).encode_text(TEXTS), plain)
        assert torch.equal(load_clip(folder(quick_gelu=True)).encode_text(TEXTS), quick)
        assert torch.equal(load_clip(folder(quick_gelu=False)).encode_text(TEXTS), plain)


@pytest.mark.parametrize("says", [True, False])
def test_what_a_folder_says_of_its_activation_is_not_overruled(folder, says):
    with pytest.raises(ValueError, match=f"has {'QuickGELU' if says else 'GELU'}, got quick_gelu={not says}"):
        load_clip(folder(quick_gelu=says), quick_gelu=not says)


class Gain:
    "A step of one's own, whose repr says nothing"
    def __init__(self, gain): self.gain = gain
    def __call__(self, x): return x * self.gain


def test_steps_of_one_s_own_are_in_the_fingerprint_by_what_they_compute(twins):
    compose, wrap = torchvision.transforms.Compose, torchvision.transforms.Lambda
    with_step = lambda step: (
        replace(twins[0], preprocess=compose([*twins[0].preprocess.transforms, step])).image_fingerprint
    )
    scaled = lambda gain: lambda x: x * gain
    others = [
        lambda x: x * 2,
        lambda x: x * 3,
        wrap(lambda x: x + 2),
        wrap(lambda x: x + 3),
        scaled(5),
        scaled(6),
        Gain(2),
        Gain(3),
    ]
    assert len({with_step(step) for step in others}) == len(others)
    assert with_step(lambda x: x * 2) == with_step(lambda x: x * 2) and with_step(Gain(2)) == with_step(Gain(2))
    assert replace(twins[0]).image_fingerprint == twins[0].image_fingerprint


def test_an_unknown_word_names_a_fix_that_works_where_it_is_read(clip, task):
    from prograd_viz.training import train
    with pytest.raises(ValueError, match="never trained on") as e:
        train(clip, task, [0], init="a zyzzyva of a", epochs=1, progress=False)
    assert "load a real CLIP" in str(e.value) and "allow_unknown" not in str(e.value)


def test_weights_that_cannot_be_had_are_one_sentence_at_once(monkeypatch, caplog, capfd):
    import time

    from huggingface_hub import constants

    from prograd_viz import clip as module
    monkeypatch.setattr(module, "_hub_answers", lambda: False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    with (
        pytest.warns(UserWarning, match="QuickGELU"),
        pytest.raises(OSError, match="no weights for 'RN50-quickgelu'.*download"),
    ):
        load_clip("RN50", "openai")
    out = capfd.readouterr()
    assert not waits and not caplog.records and "Retry" not in out.out + out.err
    assert constants.HF_HUB_OFFLINE is False, "nobody else is kept offline"


@pytest.mark.parametrize(
    ("name", "tag", "fix", "closed"),
    [
        (
            "hub",
            None,
            "load it as 'local-dir:FOLDER', or fill the cache",
            "pretrained=",
        ),  # a hub's model takes no pretrained=
        (
            "MobileCLIP-S1",
            "datacompdr",
            "Fill the cache .* does not define its mean, std, interpolation",
            "pass its path",
        ),
        ("RN50-quickgelu", "openai", "pass its path as pretrained=", "local-dir"),
    ],
)
def test_the_way_out_of_missing_weights_is_open_to_the_model_that_was_asked_for(name, tag, fix, closed):
    with pytest.raises(OSError, match=f"no weights for '.*{fix}") as e:
        load_clip("hf-hub:nobody/here" if name == "hub" else name, tag)
    assert closed not in str(e.value).split("open_clip says")[0]


def test_a_file_that_is_no_pocket_model_names_a_way_that_works(renamed):
    assert load_clip("ViT-B-32", renamed, quick_gelu=False).name == "ViT-B-32"
    with pytest.raises(
        ValueError, match="is not a pocket model; leave pretrained out, or give the name of the file's architecture"
    ):
        load_clip("pocket", renamed)


def test_a_cache_that_is_a_file_is_named_by_where_it_was_set(renamed, monkeypatch):
    with pytest.raises(ValueError, match="^cache=.*tuned.safetensors' is a file"): load_clip(cache=renamed)
    monkeypatch.setenv("PROGRAD_VIZ_CACHE", renamed)
    with pytest.raises(ValueError, match=r"^\$PROGRAD_VIZ_CACHE=.*tuned.safetensors' is a file"): load_clip()


def test_a_model_without_a_usual_layer_offers_none_in_the_explorer(tiny):
    clip = tiny({"image_size": 64, "layers": [1, 1, 1, 1], "width": 8}, "fp32")
    maps = cam_maps(clip, torch.ones(1, 3, 64, 64), clip.encode_text(TEXTS), target_layer="layer2")
    assert maps.abs().max() > 0, "a named one works"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prograd_viz.cam.find_layer", lambda clip: cam._deepest_grid(clip, clip.model.visual, 99))
        assert cam.layer_names(clip) == []


SIGLIP = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "resize_mode": "squash"}
MOBILE = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "interpolation": "bilinear"}


@pytest.mark.parametrize(
    ("name", "said", "followed"),
    [
        (
            "ViT-B-16-SigLIP",
            r"with that of its published weights \(mean=\(0.5, 0.5, 0.5\), .*resize_mode=squash\)",
            SIGLIP,
        ),
        (
            "MobileCLIP-S1",
            r"with that of its published weights \(mean=\(0.0, 0.0, 0.0\), .*interpolation=bilinear\)",
            MOBILE,
        ),
        ("ViT-H-14", "with OpenAI's, but 'dfn5b' has resize_mode=squash", {}),
        ("ViT-B-32", None, {}),
    ],
)
def test_a_file_does_not_say_how_images_are_prepared(renamed, twins, monkeypatch, name, said, followed):
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, open_clip.get_model_config(twins[0].name))
    monkeypatch.setattr("prograd_viz.clip._tokenizer", lambda name: twins[0].tokenizer)  # SigLIP's needs a network
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        clip = load_clip(name, renamed, quick_gelu=False)
    texts = [str(w.message) for w in caught if "does not define the preprocessing" in str(w.message)]
    assert all(w.filename == __file__ for w in caught)
    assert len(texts) == (said is not None) and all(re.search(said, t) and "'local-dir:FOLDER'" in t for t in texts)
    usual = open_clip.transform.PreprocessCfg(size=clip.model.visual.image_size)
    wanted = replace(usual, **followed)
    got = open_clip.transform.PreprocessCfg(**clip.model.visual.preprocess_cfg)
    assert {k: getattr(got, k) for k in SIGLIP | MOBILE} == {k: getattr(wanted, k) for k in SIGLIP | MOBILE}
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    assert torch.equal(clip.preprocess(photo), open_clip.transform.image_transform_v2(wanted, is_train=False)(photo))


def test_a_folder_says_how_images_are_prepared(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clip = load_clip(folder(quick_gelu=False, preprocess={"mean": [0, 0, 0], "resize_mode": "squash"}))
    assert list(clip.model.visual.preprocess_cfg["mean"]) == [0, 0, 0]
    assert clip.model.visual.preprocess_cfg["resize_mode"] == "squash"
