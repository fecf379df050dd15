"Numbers of a record, each against a value worked out by hand, and folders that a hash alone would not refuse."
import math

import numpy as np
import pytest
import torch

from prograd_viz import store
from prograd_viz.runs import Recorder, load_runs
from prograd_viz.training import train

G_D = torch.tensor([[1.0, 0.0], [0.0, 2.0]])  # [M, D]


def record_of(*steps, methods="mine", **options):
    "A recorder that has logged some steps of two classes"
    record = Recorder(["cat", "dog"], methods, **options)
    for i, values in enumerate(steps, 1): record.log(i, **values)
    return record


def test_the_angle_is_in_degrees():
    g_g = torch.tensor([[-1.0, 1.0], [0.0, 0.0]])
    steps = record_of({"g_d": torch.tensor([[1.0, 0.0], [0.0, 0.0]]), "g_g": g_g}, {}).runs().steps
    assert math.isclose(steps["angle_deg"][0], 135, abs_tol=1e-4) and steps["conflict"][0]
    assert math.isclose(steps["cos"][0], -math.sqrt(0.5), rel_tol=1e-6)


def test_the_update_is_as_long_as_the_way_of_the_context():
    steps = record_of({"context": torch.zeros(2, 2)}, {"context": torch.tensor([[3.0, 0.0], [0.0, 4.0]])}).runs().steps
    assert math.isclose(steps["norm_update"][0], 5, rel_tol=1e-6)


def test_where_the_prompt_agrees_with_the_teacher_no_cosine_is_a_number():
    noise = {"g_d": G_D, "g_g": 1e-12 * G_D, "context": torch.zeros(2, 2)}
    runs = record_of(noise, {"context": torch.ones(2, 2)}).runs()
    first = runs.steps.iloc[0]
    assert first["agree"] and np.isnan([first["cos"], first["cos_step_gg"]]).all()
    assert np.isnan(runs.token_cos[0]).all() and math.isfinite(first["cos_step_gd"])


def test_a_number_that_one_method_lacks_is_nan_there():
    record = Recorder(["cat", "dog"], ["one", "other"])
    for method, more in (("one", {"gain": 2.0}), ("other", {})): record.log(1, method, loss_ce=1.0, **more)
    gain = record.runs().steps.set_index("method")["gain"]
    assert gain["one"] == 2 and np.isnan(gain["other"])


def test_of_a_training_that_diverges_the_finite_steps_are_kept():
    with pytest.raises(FloatingPointError) as error, Recorder(["cat", "dog"]) as record:
        for step, loss in enumerate((1.0, 0.5, math.nan, math.nan), 1): record.log(step, loss_ce=loss)
        raise FloatingPointError("diverged")
    assert error.value.runs.steps["loss_ce"].tolist() == [1.0, 0.5]


@pytest.fixture
def folder(tmp_path):
    "A stored run set"
    record_of({"text_features": torch.eye(2)}, {"text_features": torch.eye(2)}, out=tmp_path / "run").close()
    return tmp_path / "run"


def test_a_part_that_has_grown_is_refused(folder):
    part = folder / "part-00001.safetensors"
    part.write_bytes(part.read_bytes() + b"x")
    with pytest.raises(ValueError, match=r"part-00001.safetensors in .* is damaged: it has [\d,]+ bytes, expected"):
        load_runs(folder)


def test_a_newer_format_is_refused_with_the_version_that_wrote_it(folder):
    text = (folder / store.RUN).read_bytes()[83:-2].replace(b'"format":%d' % store.FORMAT, b'"format":99', 1)
    (folder / store.RUN).write_bytes(store._SEAL % (store.sha256(text).encode(), text))
    with pytest.raises(ValueError, match="it has format '?99'?, this version of prograd_viz reads"): load_runs(folder)


def test_a_column_that_is_listed_twice_is_refused(folder):
    contents = store.read_contents(store.Folder.of(folder))
    contents.about["columns"][-1] = contents.about["columns"][0]
    (folder / store.RUN).write_bytes(contents.seal())
    with pytest.raises(ValueError, match="lists something twice"): load_runs(folder)


def test_a_gap_before_a_tensor_is_refused(folder):
    "Every byte has a hash: what is between two tensors, or before the first, would have none"
    contents = store.read_contents(store.Folder.of(folder))
    contents.parts[0].header[0] -= 8
    (folder / store.RUN).write_bytes(contents.seal())
    with pytest.raises(ValueError, match="at byte .* does not fit what is before it"): load_runs(folder)


def test_a_replacement_counts_when_it_is_finished_and_not_before(folder):
    place = store.Folder.of(folder)
    before = store.read_contents(place)
    part = before.parts[0]
    file = store.PartFile(place, part)
    tensors = {name: file.tensor(name) for name in store.TENSORS if name != "zero_shot"}
    with store.Writer(folder) as writer:
        writer.begin(before.about, replaces=True)
        writer.add([*range(1, part.rows + 1)], part.snapshots, tensors)
        assert store.read_contents(place).parts == before.parts
        writer.add([], [], tensors, finished=True)
    assert store.read_contents(place).parts != before.parts


def test_a_training_that_diverges_is_stopped_where_it_is_evaluated(clip, task):
    options = {"epochs": 4, "views": 0, "lr": 1e30, "evaluate_every": 1, "progress": False}
    with pytest.raises(FloatingPointError, match="the training has diverged by step"): train(clip, task, [0], **options)
