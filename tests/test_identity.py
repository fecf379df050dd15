"What a model is: everything that changes a feature is in its fingerprint, and an activation is never guessed in silence."
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from prograd_viz.clip import load_clip, open_clip
from prograd_viz.data import Split
from prograd_viz.training import _fingerprints

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


def test_models_that_differ_in_activation_alone_have_other_fingerprints(twins):
    plain, quick = twins
    assert not torch.equal(plain.encode_text(TEXTS), quick.encode_text(TEXTS)), "they are other models"
    assert plain.image_fingerprint != quick.image_fingerprint
    assert plain.fingerprint() != quick.fingerprint()


@pytest.mark.parametrize("what", ["precision", "preprocessing"])
def test_whatever_changes_a_feature_changes_both_fingerprints(twins, what):
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
    plain, quick = (_fingerprints(c, task) for c in twins)
    assert plain["model"] == twins[0].fingerprint() and plain["model"] != quick["model"] and plain["data"] == quick["data"]


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
    with pytest.warns(UserWarning, match="tuned.safetensors' does not say its activation.*quick_gelu=True"):
        assert torch.equal(load_clip("ViT-B-32", renamed).encode_text(TEXTS), plain.encode_text(TEXTS))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(load_clip("ViT-B-32", renamed, quick_gelu=False).encode_text(TEXTS), plain.encode_text(TEXTS))
        named = load_clip("ViT-B-32-quickgelu", renamed)
    assert torch.equal(named.encode_text(TEXTS), quick.encode_text(TEXTS))


@pytest.mark.parametrize("pretrained", ["random", "file"])
def test_gelu_is_refused_by_an_architecture_with_quick_gelu(renamed, pretrained):
    with pytest.raises(ValueError, match="'ViT-B-32-quickgelu' is a model with QuickGELU.*name 'ViT-B-32'"):
        load_clip("ViT-B-32-quickgelu", renamed if pretrained == "file" else "random", quick_gelu=False)


def test_the_pocket_model_refuses_another_activation(clip):
    with pytest.raises(ValueError, match="'pocket' is a model with GELU, got quick_gelu=True"):
        load_clip("pocket", quick_gelu=True)
    assert torch.equal(load_clip("pocket", quick_gelu=False).encode_text(TEXTS), clip.encode_text(TEXTS))


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
    began = time.monotonic()
    with pytest.warns(UserWarning, match="QuickGELU"), pytest.raises(OSError, match="no weights for 'RN50-quickgelu'.*Download"):
        load_clip("RN50", "openai")
    out = capfd.readouterr()
    assert time.monotonic() - began < 15 and not caplog.records and "Retry" not in out.out + out.err
    assert constants.HF_HUB_OFFLINE is False, "nobody else is kept offline"
