"Models in each real format (archives, state dicts, hubs, folders), every family of towers, the table of architectures."

import copy
import hashlib
import json
import os
import pickle
import shutil
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import open_clip
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from prograd_viz import clip as clip_module
from prograd_viz.clip import Clip, load_clip
from prograd_viz.maps import foreground
from prograd_viz.prompts import has_fast_path, make_prompts, plain_text_features, text_features
from prograd_viz.training import train

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import models  # noqa: E402  tools/models.py
from conftest import small_timm, swin  # noqa: E402

TEXTS = ["a photo of a dog.", "a photo of a tabby cat."]


@pytest.fixture(scope="module")
def vit(tiny): return tiny(precision="fp32")


def state_of(clip): return {k: v.clone() for k, v in clip.model.state_dict().items()}


def same(a, b):
    "Two models give the same features, bit for bit"
    size = a.image_size
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    return (
        torch.equal(a.encode_text(TEXTS), b.encode_text(TEXTS))
        and torch.equal(a.encode_image(images), b.encode_image(images))
        and torch.equal(a.logit_scale, b.logit_scale)
    )


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        yield


# -- OpenAI's archives --------------------------------------------------------

class Weights(torch.nn.Module):
    "What an archive of OpenAI's holds: weights under CLIP's names, and three numbers"
    def __init__(self, model):
        super().__init__()
        for name, child in model.named_children(): self.add_module(name, child)
        for name, p in model.named_parameters(recurse=False): self.register_parameter(name, p)
        for name, n in (("input_resolution", 32), ("context_length", 77), ("vocab_size", 49408)):
            self.register_buffer(name, torch.tensor(n))

    def forward(self, x: torch.Tensor): return x * 2


@pytest.fixture(scope="module")
def quick(vit):
    "A tiny random model with QuickGELU"
    torch.manual_seed(1)
    return load_clip(vit.name, "random", quick_gelu=True)


@pytest.fixture(scope="module")
def archive(quick, tmp_path_factory):
    path = tmp_path_factory.mktemp("archive") / "tiny.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        holder = Weights(copy.deepcopy(quick.model))
        for child in list(holder.children()): child.forward = None  # only the weights are scripted
        scripted = torch.jit.trace(holder, torch.ones(1))
    scripted.save(str(path))
    return path


def test_an_unknown_archive_is_refused_unopened(archive, vit, monkeypatch):
    monkeypatch.setattr(torch.jit, "load", lambda *a, **k: pytest.fail("opened"))
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    with pytest.raises(ValueError, match="runs code when it is opened") as e: load_clip(vit.name, archive)
    assert digest[:12] in str(e.value) and "trust=True" in str(e.value)


def test_a_trusted_archive_is_opened_with_a_warning_and_gives_the_model(archive, vit, quick):
    with pytest.warns(UserWarning, match="opened because trust=True"): loaded = load_clip(vit.name, archive, trust=True)
    assert same(loaded, quick), "QuickGELU included"


def test_an_archive_with_a_published_hash_is_opened_silently(archive, vit, quick, monkeypatch):
    monkeypatch.setattr(
        clip_module, "_published_archives", lambda: {hashlib.sha256(archive.read_bytes()).hexdigest(): "tiny"}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert same(load_clip(vit.name, str(archive)), quick)


def test_open_clip_knows_the_hashes_of_openais_nine_archives():
    known = clip_module._published_archives()
    assert len(known) >= 9 and all(len(h) == 64 and set(h) <= set("0123456789abcdef") for h in known)
    assert known["afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762"].startswith("RN50") and known[
        "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"
    ].startswith("ViT-B-32")


@pytest.mark.filterwarnings("ignore:.*trust=True")
def test_an_archive_of_another_architecture_or_activation_is_named(archive, vit, tiny):
    with pytest.raises(ValueError, match="archive of this architecture"):
        load_clip(
            tiny({"image_size": 32, "layers": 2, "width": 16, "head_width": 16, "patch_size": 8}, "fp32").name,
            archive,
            trust=True,
        )
    with pytest.raises(ValueError, match="quick_gelu=False"): load_clip(vit.name, archive, quick_gelu=False, trust=True)


@pytest.mark.filterwarnings("ignore:.*trust=True")
def test_a_damaged_archive_is_named(archive, vit, tmp_path):
    cut = tmp_path / "cut.pt"
    cut.write_bytes(archive.read_bytes()[:-2000])
    with pytest.raises(ValueError, match="cut.pt"): load_clip(vit.name, cut, trust=True)


# -- state dicts --------------------------------------------------------------

@pytest.mark.parametrize("kind", ["safetensors", "state dict", "training checkpoint", "half"])
def test_checkpoints_of_each_format_give_the_model_they_were_saved_from(vit, tmp_path, kind):
    state, path = state_of(vit), tmp_path / ("m.safetensors" if kind == "safetensors" else "m.pt")
    if kind == "safetensors": save_file(state, path)
    if kind == "state dict": torch.save(state, path)
    if kind == "training checkpoint":
        torch.save({"epoch": 3, "name": "run", "state_dict": {f"module.{k}": v for k, v in state.items()}}, path)
    if kind == "half": torch.save({k: v.half() for k, v in state.items()}, path)
    loaded = load_clip(vit.name, path)
    if kind == "half":
        assert (
            torch.allclose(loaded.encode_text(TEXTS), vit.encode_text(TEXTS), atol=1e-2)
            and loaded.dtype == torch.float32
        )
    else: assert same(loaded, vit)


@pytest.mark.parametrize("wrapped", [False, True], ids=("plain", "in a checkpoint"))
def test_a_state_dict_in_openais_format_loads_with_its_three_numbers_and_its_quick_gelu(quick, vit, tmp_path, wrapped):
    state, path = (
        state_of(quick)
        | {"input_resolution": torch.tensor(32), "context_length": torch.tensor(77), "vocab_size": torch.tensor(49408)},
        tmp_path / "openai.pt",
    )
    torch.save({"state_dict": state, "epoch": 3} if wrapped else state, path)
    with pytest.warns(UserWarning, match="OpenAI's format, whose weights use QuickGELU"):
        loaded = load_clip(vit.name, path)
    assert same(loaded, quick)
    plain = load_clip(vit.name, path, quick_gelu=False)
    assert not torch.equal(plain.encode_text(TEXTS), quick.encode_text(TEXTS)), "who asks for GELU gets it"
    torch.save({k: v for k, v in state.items() if k != "text_projection"}, path)
    with (
        pytest.warns(UserWarning),
        pytest.raises(ValueError, match=r"(?s)openai.pt.*give a state dict of this architecture"),
    ):
        load_clip(vit.name, path)


class Bomb:
    def __reduce__(self): return (open, (str(Bomb.target), "w"))


def test_a_pickle_that_runs_code_is_refused_unopened(vit, tmp_path):
    Bomb.target = tmp_path / "opened"
    torch.save({"state_dict": Bomb()}, tmp_path / "a.pt"), (tmp_path / "b.pt").write_bytes(pickle.dumps(Bomb()))
    for name in ("a.pt", "b.pt"):
        with pytest.raises(ValueError, match=name): load_clip(vit.name, tmp_path / name)
    assert not Bomb.target.exists()


# -- hubs and folders, offline ------------------------------------------------

def fill_cache(repository, files):
    "A repository in the layout of the Hugging Face cache, by hand; returns its folder"
    base = Path(os.environ["HF_HOME"]) / "hub" / f"models--{repository.replace('/', '--')}"
    for path, write in {
        "refs/main": lambda p: p.write_text("0" * 40),
        **{f"snapshots/{'0' * 40}/{name}": w for name, w in files.items()},
    }.items():
        (base / path).parent.mkdir(parents=True, exist_ok=True)
        write(base / path)
    return base


def model_files(clip):
    config = json.dumps(
        {
            "model_cfg": open_clip.get_model_config(clip.name),
            "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
        }
    )
    return {
        "open_clip_config.json": lambda p: p.write_text(config),
        "open_clip_model.safetensors": lambda p: save_file(state_of(clip), p),
    }


def test_a_model_of_the_hub_is_loaded_offline_from_a_filled_cache(vit):
    folder = fill_cache("somebody/tiny", model_files(vit))
    try:
        loaded = load_clip("hf-hub:somebody/tiny")
        assert same(loaded, vit) and loaded.name == "hf-hub:somebody/tiny" and "0.25" in repr(loaded.preprocess)
    finally: shutil.rmtree(folder)
    with pytest.raises(OSError, match="HF_HOME"): load_clip("hf-hub:somebody/tiny")


def test_a_model_of_a_folder_is_loaded(vit, tmp_path):
    for name, write in model_files(vit).items(): write(tmp_path / name)
    assert same(load_clip(f"local-dir:{tmp_path}"), vit)
    with pytest.raises(ValueError, match="has its own weights"): load_clip(f"local-dir:{tmp_path}", "openai")


def test_rn50_with_openai_weights_is_rn50_quickgelu(tiny, monkeypatch, tmp_path):
    "The real names, tags and cache, with the architecture shrunk"
    small = tiny({"image_size": 64, "layers": [1, 1, 1, 1], "width": 8}, "fp32")
    config = open_clip.get_model_config(small.name)
    configs = open_clip.factory._MODEL_CONFIGS
    (
        monkeypatch.setitem(configs, "RN50", config),
        monkeypatch.setitem(configs, "RN50-quickgelu", config | {"quick_gelu": True}),
    )
    folder = fill_cache(
        "timm/resnet50_clip.openai", {"open_clip_model.safetensors": lambda p: save_file(state_of(small), p)}
    )
    try:
        with pytest.warns(UserWarning, match="QuickGELU: loading 'RN50-quickgelu'"):
            tagged = load_clip("RN50", "openai")
        named = load_clip("RN50-quickgelu", "openai")
    finally: shutil.rmtree(folder)
    assert same(tagged, named) and tagged.name == named.name == "RN50-quickgelu"
    assert not torch.equal(tagged.encode_text(TEXTS), small.encode_text(TEXTS)), "GELU would have been something else"


# -- towers of every family, end to end ---------------------------------------

def timm(name, size=64, **options):
    return {
        "timm_model_name": name,
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": "linear",
        "image_size": size,
        **options,
    }


SIGLIP_TEXT = {"no_causal_mask": True, "proj_bias": True, "pool_type": "last", "context_length": 64}
FAMILIES = {  # name -> (vision, text, the rest of the configuration)
    "ResNet": ({"image_size": 96, "layers": [1, 1, 1, 1], "width": 8}, {}, {"quick_gelu": True}),
    "ViT": ({"image_size": 64, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}, {}, {}),
    "EVA": (small_timm("eva"), {}, {"custom_text": True, "embed_dim": 32}),
    "MobileCLIP": (timm("fastvit_t8", 192, timm_pool="avg"), {"no_causal_mask": True}, {"custom_text": True}),
    "MobileCLIP2-S3": (
        timm("fastvit_t8", 128, timm_pool="avg"),
        {"no_causal_mask": True},
        {"custom_text": True},
    ),  # ends with 4 x 4 cells
    "swin": (swin(), {}, {}),
    "ConvNeXt": (timm("convnext_atto", 192, timm_pool="avg"), {}, {}),
    "timm ViT": (timm("vit_tiny_patch16_224", 224, timm_pool="map", timm_proj=None), {}, {"embed_dim": 192}),
    "SigLIP": (small_timm("siglip"), SIGLIP_TEXT, {"custom_text": True, "init_logit_bias": -10}),
    "CoCa": (
        {
            "image_size": 64,
            "layers": 2,
            "width": 32,
            "head_width": 16,
            "patch_size": 8,
            "attentional_pool": True,
            "attn_pooler_heads": 2,
            "output_tokens": True,
        },
        {"embed_cls": True, "output_tokens": True, "context_length": 76},
        {
            "custom_text": True,
            "multimodal_cfg": {
                "context_length": 76,
                "vocab_size": 49408,
                "width": 32,
                "heads": 2,
                "layers": 1,
                "attn_pooler_heads": 2,
            },
        },
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.filterwarnings("ignore:the text tower of")
def test_every_family_loads_trains_and_shows_where_it_looks(family, tmp_path, bare):
    vision, text, rest = FAMILIES[family]
    path = tmp_path / f"family-{list(FAMILIES).index(family)}.json"  # open_clip reads more into some names
    path.write_text(
        json.dumps(
            {
                "embed_dim": 24,
                "vision_cfg": vision,
                "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2} | text,
            }
            | rest
        )
    )
    open_clip.add_model_config(path)
    torch.manual_seed(0)
    model = load_clip(path.stem, "random")
    runs = train(model, bare, [0, 1], epochs=2, batch_size=8, views=0, lr=0.1, progress=False)
    assert has_fast_path(model) == (family not in ("MobileCLIP", "MobileCLIP2-S3", "SigLIP", "CoCa"))
    assert (
        abs(runs.contexts[-1] - runs.contexts[0]).max() > 0
        and runs.steps[["loss_ce", "loss_kl", "norm_gd"]].notna().all().all()
    )
    table = foreground(runs, "train", images=[0, 7], random_directions=2).rows
    assert table["share"].dropna().between(0, 1).all() and not table["empty"].all()


def test_the_bias_of_a_sigmoid_model_cancels_in_every_probability():
    config = {
        "embed_dim": 24,
        "vision_cfg": FAMILIES["SigLIP"][0],
        "text_cfg": {"vocab_size": 49408, "width": 32, "heads": 2, "layers": 1} | SIGLIP_TEXT,
        "init_logit_bias": -10,
    }
    model = open_clip.CustomTextCLIP(**config).eval()
    clip = Clip(model, open_clip.SimpleTokenizer(context_length=64), None, "siglip", "random")
    images, texts = torch.randn(3, 3, 32, 32), clip.encode_text(TEXTS)
    with torch.no_grad(): own = model.get_logits(images, clip.tokenize(TEXTS))[0]
    assert model.logit_bias.item() == -10
    assert torch.allclose(
        own.softmax(-1), (clip.logit_scale * clip.encode_image(images) @ texts.T).softmax(-1), atol=1e-5
    )


# -- tokenizers of Hugging Face -----------------------------------------------

class NoStart:
    "As T5's and mT5's tokenizers: an end token, padding, no start token, no `encode`"
    def __init__(self, inner, pad): self.inner, self.context_length, self.pad = inner, 30, pad

    def ids(self, text): return [*self.inner.encode(text), 49407]

    def tokenizer(self, text): return {"input_ids": self.ids(text)}

    def __call__(self, texts): return torch.tensor([(self.ids(t) + [self.pad] * 30)[:30] for t in texts])


@pytest.mark.parametrize("class_specific", [False, True])
@pytest.mark.filterwarnings("ignore:class-specific")
def test_without_a_start_token_the_context_begins_at_the_first_position(tiny, class_specific):
    clip = tiny(pool_type="eos", eos_id=49407, context_length=30, custom_text=True)
    clip = replace(clip, tokenizer=NoStart(clip.tokenizer, 0))
    prompts = make_prompts(clip, ["dog", "tabby cat"], n_ctx=3, init="random", class_specific=class_specific)
    names = [[clip.tokenizer.inner.decoder[i] for i in row[3:] if i] for row in prompts.tokens.tolist()]
    assert prompts.where.tolist() == [[0, 1, 2]] * 2 and names == [
        ["dog</w>", ".</w>", "<end_of_text>"],
        ["tabby</w>", "cat</w>", ".</w>", "<end_of_text>"],
    ], "no class name is written over"
    contexts = torch.randn(2, *prompts.start.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert has_fast_path(clip) and torch.allclose(
        text_features(prompts, contexts), plain_text_features(prompts, contexts), atol=1e-10
    )


def test_from_a_template_without_a_start_token_the_prompt_is_the_template(tiny):
    clip = tiny(pool_type="eos", eos_id=49407, context_length=30, custom_text=True)
    clip = replace(clip, tokenizer=NoStart(clip.tokenizer, 0))
    prompts = make_prompts(clip, ["dog", "tabby cat"])
    assert torch.allclose(text_features(prompts, prompts.start[None])[0], clip.encode_text(TEXTS), atol=1e-10)


def test_a_text_that_a_tokenizer_would_cut_off_is_refused(tiny):
    clip = tiny(pool_type="eos", eos_id=49407, context_length=30, custom_text=True)
    with pytest.raises(ValueError, match="41 tokens, but only 30 fit"):
        replace(clip, tokenizer=NoStart(clip.tokenizer, 0)).tokenize(["dog " * 40])


def test_what_needs_another_package_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(OSError, match="no tokenizer for 'ViT-B-16-SigLIP'.*\n.*pip install prograd_viz.hf."):
        clip_module._tokenizer("ViT-B-16-SigLIP")
    with pytest.raises(
        OSError, match="'roberta-ViT-B-32' is a Hugging Face model: it needs `pip install prograd_viz.hf.`"
    ):
        load_clip("roberta-ViT-B-32", "random")


# -- the table ----------------------------------------------------------------

TABLE = pd.read_csv(ROOT / "figures" / "models" / "models.csv", dtype=str, keep_default_na=False)
SAMPLE = (
    "RN50",
    "RN50x4-quickgelu",
    "ViT-B-32",
    "ViT-L-14-quickgelu",
    "ViT-B-16-SigLIP",
    "EVA02-B-16",
    "MobileCLIP-S1",
    "convnext_tiny",
    "coca_ViT-B-32",
    "roberta-ViT-B-32",
    "ViT-H-14-worldwide",
    "swin_base_patch4_window7_224",
)


def test_the_table_names_every_architecture_and_the_page_shows_it():
    assert sorted(TABLE["architecture"]) == sorted(models.names()) and len(TABLE) == 144
    assert (ROOT / "figures" / "models" / "models.md").read_text(encoding="utf-8") == models.markdown(TABLE)
    assert set(TABLE["works"]) == {"fully", "text at full length", "refused"} and all(
        TABLE.loc[TABLE["works"] == "refused", "remark"].str.contains("pip install prograd_viz[hf]", regex=False)
    )


@pytest.mark.parametrize("name", SAMPLE)
def test_a_row_of_the_table_is_what_building_the_model_says(name):
    "All rows: python tools/models.py --check"
    assert {k: str(v) for k, v in models.row(name).items()} == TABLE[TABLE["architecture"] == name].iloc[0].to_dict()


def test_a_gpu_that_torch_does_not_see_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"device='cuda': torch \S+ sees no GPU here; leave device out"):
        load_clip("pocket", device="cuda")
    assert load_clip("pocket", device=torch.device("cpu")).device.type == "cpu"
