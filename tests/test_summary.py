"Means, intervals and paired differences of a table whose truth is known."
import numpy as np
import pandas as pd
import pytest

from prograd_viz.summary import summarise


def table(gain=0.05, noise=0.0, seeds=8, methods=("CoOp", "ProGrad")):
    "Accuracies that differ far more between seeds than between methods"
    rng = np.random.default_rng(0)
    rows = []
    for seed in range(seeds):
        ease = rng.normal(0.5, 0.2)
        for i, method in enumerate(methods):
            rows.append({"shots": 4, "seed": seed, "method": method, "lam": float(i),
                         "acc_new": ease + i * gain + rng.normal(0, noise)})
    return pd.DataFrame(rows)


def test_a_difference_is_the_method_minus_the_one_it_is_compared_with():
    found = summarise(table(gain=0.05)).differences
    assert found["method"].tolist() == ["ProGrad"] and found["against"].tolist() == ["CoOp"]
    assert np.isclose(found["mean"].item(), 0.05)
    assert np.isclose(summarise(table(gain=0.05), against="ProGrad").differences["mean"].item(), -0.05)


def test_numbers_of_any_type_are_averaged_and_a_table_without_any_is_refused():
    right = summarise(table(gain=0.05)).means
    for kind in (object, "Float64"):
        pd.testing.assert_frame_equal(summarise(table(gain=0.05).astype({"acc_new": kind})).means, right)
    with pytest.raises(ValueError, match="no column of numbers to average, only shots, seed, method, lam, acc_new"):
        summarise(table().astype({"acc_new": str}))


def test_rules_of_a_sweep_are_compared_with_the_one_coop():
    rows = [{"rule": rule, "seed": seed, "method": method, "lam": lam, "acc_same": value + seed / 10}
            for rule, method, lam, value in (("prograd", "CoOp", 0.0, 0.5), ("prograd", "ProGrad", 1.0, 0.7),
                                             ("sum", "sum 1", 1.0, 0.4)) for seed in (1, 2)]
    found = summarise(pd.DataFrame(rows)).differences.set_index("method")["mean"]
    assert np.allclose(found[["ProGrad", "sum 1"]], [0.2, -0.1]) and len(found) == 2
    apart = [row | {"rule": "sum", "method": "CoOp", "acc_same": 0.1} for row in rows[:2]]  # a CoOp of each rule
    found = summarise(pd.DataFrame(rows + apart)).differences.set_index("method")["mean"]
    assert np.allclose(found[["ProGrad", "sum 1"]], [0.2, 0.45])


def test_its_words_count_in_the_singular_too():
    assert repr(summarise(table())) == "Summary(1 column, 2 methods; 95% intervals over seeds, Student t)"
    two = pd.concat([table(), table().assign(shots=8)])
    assert repr(summarise(two)).startswith("Summary(1 column, 2 methods, 2 settings by shots; ")


def test_differences_are_paired_so_that_what_seeds_share_cancels():
    found = summarise(table(gain=0.05, noise=0.001))
    apart, paired = found.means["high"] - found.means["low"], found.differences["high"] - found.differences["low"]
    assert paired.item() < 0.02 * apart.min()


@pytest.mark.parametrize("gain, decided", [(0.05, True), (-0.05, True), (0.0, False)])
def test_a_difference_is_decided_where_its_interval_leaves_out_zero(gain, decided):
    found = summarise(table(gain=gain, noise=0.005)).differences.iloc[0]
    assert bool(found["decided"]) is decided and (found["low"] < 0 < found["high"]) is not decided


def test_a_seed_that_one_method_lacks_counts_in_its_mean_alone():
    rows = table(seeds=4)
    found = summarise(rows[~((rows["method"] == "ProGrad") & (rows["seed"] == 2))])
    seeds = found.means.set_index("method")["seeds"]
    assert seeds["CoOp"] == 4 and seeds["ProGrad"] == 3 and found.differences["seeds"].item() == 3


def test_a_missing_value_is_no_seed_and_no_zero():
    rows = table(seeds=4)
    rows.loc[rows["seed"] == 1, "acc_new"] = np.nan
    found = summarise(rows)
    expected = rows.dropna().groupby("method")["acc_new"].mean()
    assert found.means["seeds"].tolist() == [3, 3]
    assert np.allclose(found.means.set_index("method")["mean"], expected)


def test_one_setting_with_a_seed_twice_is_refused_and_two_settings_are_apart():
    rows = table(seeds=3)
    with pytest.raises(ValueError, match="^3 values share|^6 values share"):
        summarise(pd.concat([rows, rows.assign(acc_new=0.9)])[lambda t: t["method"] == "CoOp"])
    both = summarise(pd.concat([rows, rows.assign(shots=16, acc_new=rows["acc_new"] + 0.1)]))
    assert both.by == ("shots",) and len(both.means) == 4 and len(both.differences) == 2


def test_one_seed_has_a_mean_and_no_interval():
    found = summarise(table(seeds=1)).differences.iloc[0]
    assert np.isclose(found["mean"], 0.05) and np.isnan(found["low"]) and not found["decided"]
