"What the tests share: no network, repeatable examples, and small models."
import csv
import gc
import json
import os
import signal
import tempfile
from collections import defaultdict
from functools import cache
from pathlib import Path

# Before anything imports huggingface_hub: an empty cache, and no way out of this machine.
# One thread, for the subprocesses too: the tests are many small operations, between which threads would wait for each
# other.
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HOME": tempfile.mkdtemp(prefix="no-weights-"), "MPLBACKEND": "Agg",
               "OMP_NUM_THREADS": "1"}

gc.disable()  # nothing of what is imported is garbage

# Tests press Ctrl-C; a shell that starts them in the background has it ignored, which every child would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
from hypothesis import HealthCheck, settings

import prograd_viz.torchvision_ops  # noqa: F401  before torchvision, in whatever order a test imports

TIMES = Path(__file__).resolve().parent.parent / "figures" / "times" / "times.csv"

# derandomize: the same examples in every run, so that a red test is red for everybody
settings.register_profile("repeatable", deadline=None, derandomize=True, database=None, max_examples=60,
                          suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
settings.load_profile("repeatable")


def pytest_report_header():
    import prograd_viz
    return f"library: {os.path.dirname(prograd_viz.__file__)}"


def seconds_of_files():
    "What each file took when `make times` ran last"
    if not TIMES.is_file(): return {}
    seconds = defaultdict(float)
    with TIMES.open(encoding="utf-8") as file:
        for row in csv.DictReader(file): seconds[row["name"].partition("::")[0]] += float(row["seconds"])
    return seconds


def pytest_collection_modifyitems(items):
    "A worker takes a file at a time (`make test`); a long one that began last would run alone, so these begin first"
    seconds = seconds_of_files()
    items.sort(key=lambda item: -seconds.get(item.nodeid.partition("::")[0], 0))


def pytest_collection_finish():
    "What was imported stays: no search for garbage goes through it again"
    gc.freeze()
    gc.enable()


TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 3}
VIT = {"image_size": 32, "layers": 3, "width": 32, "head_width": 16, "patch_size": 4}
RESNET = {"image_size": 96, "layers": [1, 1, 1, 1], "width": 8}
# ends with 4 x 4 cells, as MobileCLIP2-S3 does
FASTVIT = {"timm_model_name": "fastvit_t8", "timm_model_pretrained": False, "timm_pool": "avg", "timm_proj": "linear",
           "image_size": 128}


@cache
def swin():
    "Configuration of a swin transformer of three stages, which timm knows by name once this was called"
    from timm.models import register_model
    from timm.models.swin_transformer import SwinTransformer

    def small_swin(pretrained=False, **options):
        trunk = SwinTransformer(img_size=96, window_size=6, embed_dim=24, depths=(2, 2, 1), num_heads=(2, 2, 2),
                                num_classes=0)
        trunk.default_cfg = {"pool_size": (6, 6)}
        return trunk

    register_model(small_swin)
    return {"timm_model_name": "small_swin", "timm_model_pretrained": False, "timm_pool": "avg", "timm_proj": "linear",
            "image_size": 96}


@cache
def small_timm(kind):
    "Configuration of a small tower of timm: eva, siglip (a ViT with an attention pool), resnet or convnext"
    from timm.models import register_model
    from timm.models.convnext import ConvNeXt
    from timm.models.eva import Eva
    from timm.models.resnet import BasicBlock, ResNet
    from timm.models.vision_transformer import VisionTransformer
    tokens = {"img_size": 32, "patch_size": 4, "depth": 3, "num_heads": 2}

    def small_eva(pretrained=False, num_classes=0, global_pool="token", **options):
        return Eva(**tokens, embed_dim=32, mlp_ratio=2, qkv_fused=False, swiglu_mlp=True, scale_mlp=True,
                   scale_attn_inner=True, use_rot_pos_emb=True, ref_feat_shape=(8, 8), num_classes=num_classes,
                   global_pool=global_pool)

    def small_siglip(pretrained=False, num_classes=0, global_pool="map", **options):
        return VisionTransformer(**tokens, embed_dim=24, class_token=False, num_classes=num_classes,
                                 global_pool=global_pool)

    def small_resnet(pretrained=False, **options):
        trunk = ResNet(BasicBlock, (1, 1, 1, 1), channels=(8, 16, 32, 48), stem_width=8, stem_type="deep_tiered",
                       avg_down=True, num_classes=0)
        trunk.default_cfg = {"pool_size": (2, 2)}
        return trunk

    def small_convnext(pretrained=False, **options):
        trunk = ConvNeXt(depths=(1, 1, 2, 1), dims=(8, 16, 32, 48), conv_mlp=True, num_classes=0)
        trunk.default_cfg = {"pool_size": (2, 2)}
        return trunk

    register_model({"eva": small_eva, "siglip": small_siglip, "resnet": small_resnet, "convnext": small_convnext}[kind])
    pool, proj, size = {"eva": ("token", None, 32), "siglip": ("map", "none", 32), "resnet": ("avg", "linear", 64),
                        "convnext": ("avg", "linear", 64)}[kind]
    name = f"small_{kind}"
    return {"timm_model_name": name, "timm_model_pretrained": False, "timm_pool": pool, "timm_proj": proj,
            "image_size": size}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """(vision, precision, **text config) -> a CLIP of a few thousand weights besides its token table, random from a
    fixed seed"""
    import open_clip
    import torch

    from prograd_viz.clip import load_clip
    folder, built = tmp_path_factory.mktemp("configs"), {}

    def make(vision=VIT, precision="fp64", custom_text=False, **text):
        config = json.dumps({"embed_dim": 24, "custom_text": custom_text, "vision_cfg": vision,
                             "text_cfg": TEXT | text})
        if (config, precision) not in built:
            path = folder / f"tiny-{len(built)}.json"
            path.write_text(config)
            open_clip.add_model_config(path)
            with torch.random.fork_rng():
                torch.manual_seed(0)
                clip = load_clip(path.stem, "random", precision=precision)
                # open_clip starts with tiny embeddings, between which a text tower hardly tells
                # the same in every precision
                clip.token_embedding.weight.copy_(0.5 * torch.randn(clip.token_embedding.weight.shape,
                                                                    dtype=torch.float64))
            built[config, precision] = clip
        return built[config, precision]

    return make


@pytest.fixture(scope="session")
def browser():
    "Chromium, of which a process has one: playwright refuses a second while the first is open"
    import lab
    with lab.chromium() as browser: yield browser


@pytest.fixture(scope="session")
def clip():
    "The pocket model"
    from prograd_viz.clip import load_clip
    return load_clip("pocket")


@pytest.fixture(scope="session")
def exact():
    "The pocket model in float64"
    from prograd_viz.clip import load_clip
    return load_clip("pocket", precision="fp64")


@pytest.fixture(scope="session")
def task():
    "Six classes, each on its own texture, four images of each to learn from: zero-shot is right on most, not on all"
    from prograd_viz.tasks import few_shot
    return few_shot("pocket", shots=4, seed=3, classes=6, test_per_class=4)


@pytest.fixture(scope="session")
def bare(task):
    "The same few shots without test sets"
    from prograd_viz.data import Task
    return Task("bare", task.train, {})
