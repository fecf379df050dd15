"""What a lower cross-entropy costs in divergence from zero-shot CLIP: the comparison at equal divergence.

ProGrad stays nearer to zero-shot CLIP than CoOp, so their last losses alone do not say which one spends a divergence
better. Here CoOp's lowest cross-entropy, while it has diverged no further than ProGrad's end, stands against that end.
"""
import numpy as np
import pandas as pd
import torch

from prograd_viz.gradients import cross_entropy
from prograd_viz.landscape import context_losses


def path_losses(runs, contexts):
    "Both losses over all training images, a row per context of [N, M, D] or [N, C, M, D]"
    found = context_losses(runs, contexts, "same")
    return pd.DataFrame({name: found[name] for name in ("loss_ce", "loss_kl")})


def cheapest(path, column, limit):
    "The state with the lowest cross-entropy on a path while a column is no higher than a limit, also between snapshots"
    numbers = path.sort_values("step").reset_index(drop=True)
    before, after = numbers.iloc[:-1].reset_index(drop=True), numbers.iloc[1:].reset_index(drop=True)
    crossed = (before[column] - limit) * (after[column] - limit) < 0
    share = ((limit - before[column]) / (after[column] - before[column]))[crossed]
    between = before[crossed] + (after[crossed] - before[crossed]).mul(share, axis=0)
    states = pd.concat([numbers[numbers[column] <= limit], between], ignore_index=True)
    return states.loc[states["loss_ce"].idxmin()] if len(states) else numbers.iloc[0] * np.nan


def readings(runs, every):
    """ProGrad's last cross-entropy over all training images minus CoOp's lowest while it has diverged no further, where
    CoOp's path is read every so many steps: a row for each of `every`"""
    contexts, (coop, ours) = torch.as_tensor(np.asarray(runs.contexts[:])), (runs.run(lam) for lam in (0.0, 1.0))
    path = path_losses(runs, contexts[:, coop]).assign(step=runs.snapshot_steps)
    end = path_losses(runs, contexts[-1:, ours]).iloc[0]
    lowest = [cheapest(path[path["step"] % n == 0], "loss_kl", end["loss_kl"])["loss_ce"] for n in every]
    return pd.DataFrame({"every": every, "matched_ce": end["loss_ce"] - np.array(lowest)})


def tradeoff(runs):
    """A row for zero-shot CLIP and one per lambda: both losses over all training images at the end, train_ce and
    train_kl; and matched_ce: ProGrad's last cross-entropy, and CoOp's lowest while it has diverged no further than
    ProGrad's end. NaN where it never is as near, and for others"""
    contexts = torch.as_tensor(np.asarray(runs.contexts[:]))  # [K, R, M, D] or [K, R, C, M, D]
    ends, (coop, ours) = path_losses(runs, contexts[-1]), (runs.run(lam) for lam in (0.0, 1.0))
    path = path_losses(runs, contexts[:, coop]).assign(step=runs.snapshot_steps)
    matched = np.full(len(runs), np.nan)
    matched[coop] = cheapest(path, "loss_kl", ends["loss_kl"][ours])["loss_ce"]
    matched[ours] = ends["loss_ce"][ours]
    return pd.DataFrame({"lam": [np.nan, *runs.lambdas], "train_ce": [zero_shot_loss(runs), *ends["loss_ce"]],
                         "train_kl": [0.0, *ends["loss_kl"]], "matched_ce": [np.nan, *matched]})


def zero_shot_loss(runs):
    "Cross-entropy of zero-shot CLIP over all training images"
    train, clip = runs.task.train, runs.clip
    features, labels = train.features(clip), torch.as_tensor(train.labels, device=clip.device)
    text = torch.as_tensor(runs.zero_shot).to(features)[None]  # [1, C, E]
    return cross_entropy(clip.logit_scale * features @ text.mT, labels).item()
