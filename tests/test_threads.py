"Several threads use one model: the explorer prepares maps and trains beside whatever the notebook does."
import ast
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from threading import Barrier, Event, Thread

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import prograd_viz
from prograd_viz.data import Split, augmentation, drawing_from
from prograd_viz.explorer import Work, explore
from prograd_viz.faithful import map_scores
from prograd_viz.maps import cam_maps
from prograd_viz.training import train

LIBRARY = Path(prograd_viz.__file__).parent


def test_maps_of_threads_are_those_of_one_after_another(clip):
    draw = torch.Generator().manual_seed(0)
    images, directions = (
        torch.randn(12, 4, 3, 112, 112, generator=draw),
        F.normalize(torch.randn(3, 128, generator=draw), dim=-1),
    )
    alone = [np.asarray(cam_maps(clip, x, directions)) for x in images]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda x: np.asarray(cam_maps(clip, x, directions)), images))
    for a, b in zip(alone, together, strict=True): assert np.allclose(a, b, atol=1e-6)


@pytest.fixture
def noise():
    "Another thread that draws from torch's global generator, and seeds it, all the while"
    stop, begun = Event(), Event()

    def draw():
        while not stop.is_set():
            torch.manual_seed(7)
            torch.rand(100)
            begun.set()

    thread = Thread(target=draw)
    with torch.random.fork_rng(devices=[]):
        thread.start()
        begun.wait()
        yield
        stop.set()
        thread.join()


def at_once(jobs):
    "The results of functions that start together, each in a thread of its own"
    ready = Barrier(len(jobs))

    def run(job):
        ready.wait()
        return job()

    with ThreadPoolExecutor(len(jobs)) as pool: return list(pool.map(run, jobs))


def renewed(split): return replace(split, images=list(split.images))  # remembers no features


def of_global_stream(clip, split, rows, views, seed):
    "The views as torchvision draws them from the global generator, features [views, N, E]"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        augment = augmentation(clip)
        drawn = [torch.stack([augment(split.image(i)) for i in rows]) for _ in range(views)]
        return torch.stack([clip.encode_image(view) for view in drawn])


def test_views_are_those_of_the_global_stream_seeded_alike(clip, bare):
    wide = [np.zeros((40, 400, 3), np.uint8) + np.arange(400).astype(np.uint8)[None, :, None] for _ in range(4)]
    for split in (bare.train, Split(wide, [0, 1, 0, 1], ("dog", "cat"))):  # crops of a wide one fall back to the centre
        expected = of_global_stream(clip, split, range(len(split)), 2, 5)
        assert torch.equal(renewed(split).view_features(clip, 2, 5), expected)
    state = int(np.random.SeedSequence([1, 2, 3]).generate_state(1)[0])
    fresh = bare.train.fresh_features(clip, [4, 1], [1, 2, 3])
    assert torch.equal(fresh, of_global_stream(clip, bare.train, [4, 1], 1, state)[0])


def test_views_do_not_depend_on_the_default_type(clip, bare):
    views = bare.train.view_features(clip, 2, 1)
    torch.set_default_dtype(torch.float64)
    try: again = renewed(bare.train).view_features(clip, 2, 1)
    finally: torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(again.float(), views, rtol=0, atol=1e-5)


def test_views_do_not_depend_on_what_other_threads_draw(clip, bare, noise):
    first, again = (renewed(bare.train).view_features(clip, 2, 5) for _ in range(2))
    assert torch.equal(first, again)


@pytest.mark.parametrize("views", [2, "fresh"])
def test_trainings_at_once_are_those_of_one_after_another(clip, bare, views):
    def job(seed):
        task = replace(bare, train=renewed(bare.train))
        return lambda: train(clip, task, [0, 1], epochs=2, views=views, seed=seed, progress=False)

    for a, b in zip([job(s)() for s in (1, 2)], at_once([job(s) for s in (1, 2)]), strict=True):
        assert np.array_equal(a.contexts, b.contexts)
        assert np.array_equal(a.text_features, b.text_features)


def test_views_that_are_remembered_are_the_right_ones(clip, bare, tmp_path, noise):
    seeds = (1, 1, 2, 3)
    right = {seed: renewed(bare.train).view_features(clip, 2, seed) for seed in set(seeds)}
    remembering = replace(clip, cache=tmp_path)
    for _ in ("computed", "from the folder"):
        found = at_once([lambda s=seed: renewed(bare.train).view_features(remembering, 2, s) for seed in seeds])
        for seed, features in zip(seeds, found, strict=True): assert torch.equal(features, right[seed])
    assert len(list(tmp_path.iterdir())) == 3  # a file per seed, and nothing half written


def test_the_noise_of_road_is_nobody_elses(clip, task, noise):
    draw = torch.Generator().manual_seed(0)
    images, text = task.train.tensor(clip, [0, 1]), F.normalize(torch.randn(6, 128, generator=draw), dim=-1)
    maps = torch.randn(2, 4, 4, generator=draw)
    score = lambda: map_scores(clip, images, maps, text, [0, 1], columns=["road"], percentiles=[50], seed=3)
    first, *others = at_once([score, score, score])
    for other in others: assert first.equals(other)


def test_private_draws_are_those_of_the_global_generator_and_leave_it_alone():
    def draws():
        return [torch.rand(3), torch.randn(20), torch.randint(0, 9, (5,)), torch.empty(1).uniform_(),
                torch.empty(20).normal_(), torch.randn_like(torch.zeros(4, 30).t())]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        shared = draws()
    before = torch.get_rng_state()
    with drawing_from(torch.Generator().manual_seed(11)): private = draws()
    assert torch.equal(torch.get_rng_state(), before)
    for a, b in zip(shared, private, strict=True): assert torch.equal(a, b)


# where the library seeds or sets what all threads of a process share
SHARED = {
    ("pretrain", "manual_seed"): 3,  # in fork_rng, which puts it back: a command that trains the pocket model
}


def test_no_other_module_seeds_a_shared_generator():
    found = {}
    for path in sorted(LIBRARY.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call): continue
            name = ast.unparse(node.func)
            if name in ("torch.manual_seed", "random.seed", "np.random.seed", "torch.seed", "torch.set_default_dtype"):
                key = path.stem, name.rpartition(".")[2]
                found[key] = found.get(key, 0) + 1
    assert found == SHARED


@pytest.fixture
def two_cores():
    "Torch on two cores, as it is on a user's machine; tests themselves run on one"
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("alone, cores", [(True, 1), (False, 2)])
def test_a_small_model_is_computed_on_one_core_beside_the_kernel(two_cores, alone, cores):
    said, found = [], []
    work = Work(lambda text, wrong=False, done=None: said.append((text, wrong, done)), alone=alone)
    work.start("counting", lambda tick: torch.get_num_threads(), found.append)
    work.wait()
    assert found == [cores] and torch.get_num_threads() == 2 and said[-1] == ("", False, None)
    new = []
    thread = Thread(target=lambda: new.append(torch.get_num_threads()))
    thread.start(), thread.join()
    assert new == [2], "other threads are left as they were"


@pytest.mark.parametrize("further, small", [(0, True), (10**7, False)])
def test_the_pocket_model_is_small(clip, task, further, small):
    model = deepcopy(clip.model)
    model.visual.register_parameter("further", torch.nn.Parameter(torch.empty(further)))
    runs = train(replace(clip, model=model), task, [1.0], epochs=1, views=0, progress=False)
    assert explore(runs, panels=["cosine"]).work.alone == small
