"Every architecture of open_clip, shrunk: the chosen text path equals the model's own encode_text."
import copy
import math
import warnings
from functools import cache

import open_clip
import pytest
import torch
import torch.nn.functional as F

from prograd_viz.clip import Clip
from prograd_viz.prompts import has_fast_path, make_prompts, plain_text_features, text_features

TINY_IMAGES = {"layers": 1, "width": 32, "head_width": 32, "patch_size": 32, "image_size": 32}


@cache
def shrunk(name):
    "A small random model with the text tower's layout of `name`, in double precision"
    cfg = copy.deepcopy(open_clip.get_model_config(name))
    cfg["vision_cfg"], cfg["embed_dim"] = TINY_IMAGES, 32
    text, custom = cfg["text_cfg"], cfg.pop("custom_text", False)
    text.update(width=32, heads=2, layers=2, vocab_size=49408)
    if text.get("pool_type") == "eos": text["eos_id"] = 49407  # of the tokenizer used here
    for k in ("hf_tokenizer_name", "tokenizer_kwargs"): text.pop(k, None)
    if "multimodal_cfg" in cfg: cfg["multimodal_cfg"].update(width=32, heads=2, layers=1)
    kind = open_clip.CoCa if "multimodal_cfg" in cfg else open_clip.CustomTextCLIP if custom else open_clip.CLIP
    torch.manual_seed(0)
    model = kind(**{k: v for k, v in cfg.items() if k != "init_logit_bias"
                    or kind is not open_clip.CoCa}).double().eval().requires_grad_(False)
    with torch.no_grad():  # biases and gains start at 0 and 1, which would hide a path that forgets them
        for p in model.parameters(): p.add_(0.02 * torch.randn_like(p))
    return Clip(model, open_clip.SimpleTokenizer(context_length=text.get("context_length", 77)), None, name, "random")


def text_layout(name):
    "What decides the path: the text configuration without sizes"
    cfg = open_clip.get_model_config(name)
    skip = ("width", "heads", "layers", "vocab_size", "hf_tokenizer_name", "tokenizer_kwargs", "hf_model_name",
            "hf_tokenizer")
    kept = sorted((k, v) for k, v in cfg["text_cfg"].items() if k not in skip)
    return str(kept) + str((cfg.get("custom_text"), cfg.get("quick_gelu"), "multimodal_cfg" in cfg))


LOCAL = [n for n in open_clip.list_models() if "hf_model_name" not in open_clip.get_model_config(n)["text_cfg"]
         and n != "pocket"]
LAYOUTS = {text_layout(n): n for n in LOCAL}


@pytest.mark.parametrize("name", sorted(LAYOUTS.values()))
def test_chosen_path_equals_encode_text_for_every_text_layout(name):
    clip = shrunk(name)
    texts = [f"a photo of a {n}." for n in ("dog", "tabby cat", "magnifying glass")]
    prompts = make_prompts(clip, ["dog", "tabby cat", "magnifying glass"])
    own = F.normalize(clip.model.encode_text(clip.tokenize(texts)), dim=-1)
    for encode in (text_features, plain_text_features):
        assert (encode(prompts, prompts.start[None])[0] - own).abs().max() < 1e-10
    contexts = prompts.start + 0.1 * torch.randn(2, 4, 32, dtype=torch.float64)
    grads = [torch.autograd.grad((encode(prompts, c) * own).sum(), c)[0]
             for encode in (text_features, plain_text_features) for c in [contexts.clone().requires_grad_()]]
    assert (grads[0] - grads[1]).norm() < 1e-9 * grads[1].norm()


@pytest.mark.parametrize("name", sorted(LAYOUTS.values()))
def test_the_slow_path_says_so_and_the_fast_one_is_silent(name):
    clip = shrunk(name)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        make_prompts(clip, ["dog", "tabby cat"])
    assert len(said) == (0 if has_fast_path(clip) else 1) and all("encodes all" in str(w.message) for w in said)


def test_the_slow_path_says_so_once_for_each_place_it_is_called_from():
    "Python's own filter, as a user has it: `default` shows a warning once for each place"
    clip = shrunk(next(name for name in sorted(LAYOUTS.values()) if not has_fast_path(shrunk(name))))
    with warnings.catch_warnings(record=True) as said:
        warnings.resetwarnings()
        warnings.simplefilter("default")
        for _ in range(3): make_prompts(clip, ["dog", "tabby cat"])
        assert len(said) == 1 and said[0].filename == __file__, "and it names the caller's line"
        make_prompts(clip, ["dog", "tabby cat"])
    assert len(said) == 2, "another place is another warning"


def test_what_shares_less_of_its_prompts_says_so_once():
    clip = shrunk("RN50")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        for _ in range(3): make_prompts(clip, ["dog", "tabby cat"], n_ctx=4, init="random", class_specific=True)
        for _ in range(3): make_prompts(clip, ["dog", "tabby cat"], n_ctx=4, init="random", position="front")
    assert [str(w.message).split(":")[0] for w in said] == ["class-specific contexts", "the class name in the front"]


@pytest.mark.parametrize("name", sorted(LAYOUTS.values()))
def test_class_specific_contexts_and_other_positions_equal_encode_text_for_every_layout(name):
    clip = shrunk(name)
    for options in ({"class_specific": True}, {"position": "middle"}, {"position": "front"}):
        prompts = make_prompts(clip, ["dog", "tabby cat", "magnifying glass"], n_ctx=3, init="random", **options)
        for memory_gb in (math.inf, 1e-3):
            parts = prompts.parts(2, memory_gb)
            contexts = prompts.start + 0.1 * torch.randn(2, *prompts.start.shape, dtype=torch.float64)
            ours = torch.cat([text_features(part, contexts if contexts.ndim == 3 else contexts[:, rows])
                              for rows, part in parts], 1)
            assert (ours - plain_text_features(prompts, contexts)).abs().max() < 1e-10


def test_most_published_architectures_take_the_fast_path():
    fast = sum(has_fast_path(shrunk(LAYOUTS[text_layout(n)])) for n in LOCAL)
    assert fast >= 80, f"{fast} of {len(LOCAL)}"
    assert has_fast_path(shrunk("RN50")) and has_fast_path(shrunk("ViT-B-16-quickgelu"))
    assert not has_fast_path(shrunk("coca_ViT-B-32")), "CoCa appends a class token of its own"
    assert not has_fast_path(shrunk("ViT-B-16-SigLIP")), "SigLIP's text tower is bidirectional"
