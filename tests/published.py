"""The published ProGrad trainer restated: no line of the library or of open_clip, only a state dict in OpenAI's format.

Every class prompt is padded to 77 tokens and encoded alone; each loss has a backward pass of its own; SGD is written
out. The keyword arguments of `train_published` after `epochs` break it in one place, for tests that must notice.
"""
import math

import torch
import torch.nn.functional as F


class TextTower:
    "OpenAI's text transformer, from its state dict"
    def __init__(self, state):
        self.state, self.width = state, state["ln_final.weight"].shape[0]
        self.layers = len({k.split(".")[2] for k in state if k.startswith("transformer.resblocks.")})

    def norm(self, x, name):
        return F.layer_norm(x, (self.width,), self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def linear(self, x, name): return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def attend(self, x, name):
        "Causal attention with heads of 64"
        n, length, width = x.shape
        projected = x @ self.state[f"{name}.in_proj_weight"].T + self.state[f"{name}.in_proj_bias"]
        q, k, v = projected.view(n, length, 3, width // 64, 64).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) / 8 + torch.full((length, length), -torch.inf, dtype=x.dtype).triu(1)
        return self.linear((scores.softmax(-1) @ v).transpose(1, 2).reshape(n, length, width), f"{name}.out_proj")

    def encode(self, embedded, tokens):
        "Normalised features of embedded prompts [C, 77, D], read at the token with the highest number"
        x = embedded + self.state["positional_embedding"]
        for i in range(self.layers):
            block = f"transformer.resblocks.{i}"
            x = x + self.attend(self.norm(x, f"{block}.ln_1"), f"{block}.attn")
            h = self.linear(self.norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc")
            x = x + self.linear(h * torch.sigmoid(1.702 * h), f"{block}.mlp.c_proj")
        x = self.norm(x, "ln_final")[torch.arange(len(x)), tokens.argmax(-1)] @ self.state["text_projection"]
        return x / x.norm(dim=-1, keepdim=True)


class PromptLearner:
    "Where the context starts, and the prompts it stands in; the class token at the end"
    def __init__(self, state, tokenize, names, n_ctx, template=None, start=None):
        prefix = " ".join(["X"] * n_ctx)
        embed = lambda texts: state["token_embedding.weight"][tokenize(texts)]
        if start is None:
            words = template.replace(" {}.", "")
            n_words = len(words.split(" "))
            start = torch.zeros(n_ctx, state["ln_final.weight"].shape[0])
            start[n_ctx - n_words:] = embed([words])[0, 1:1 + n_words]
            prefix = " ".join(["X"] * (n_ctx - n_words)) + " " + words
        self.context, self.tokens = start.clone(), tokenize([f"{prefix} {name}." for name in names])
        embedded = embed([f"{prefix} {name}." for name in names])
        self.first, self.rest = embedded[:, :1], embedded[:, 1 + n_ctx:]

    def prompts(self, context):
        every = context if context.ndim == 3 else context.unsqueeze(0).expand(len(self.tokens), -1, -1)
        return torch.cat([self.first, every, self.rest], 1)


def train_published(
    state,  # Of the model, OpenAI's names
    tokenize,  # Texts -> tokens [N, 77]
    names,  # Class names
    features,  # L2-normalised image features [N, E]
    labels,  # [N]
    batches,  # epoch -> list of index arrays
    lam,  # LOSS.LAMBDA
    n_ctx,  # TRAINER.COOP.N_CTX
    template="a photo of a {}.",  # Of the data set
    start=None,  # A random start; None: the template
    epochs=6,  # OPTIM.MAX_EPOCH
    seen=None,  # Function of every step before the update: its number, both losses, both gradients, context, features
    sign=-1, weight_decay=5e-4, warmup=1, momentum=0.9,
):  # contexts [S + 1, ...], and (L_ce, L_kl as a divergence, cosine) of every step, [S, 3]
    "Train one prompt"
    tower, learner = TextTower(state), PromptLearner(state, tokenize, names, n_ctx, template, start)
    scale = state["logit_scale"].exp()
    with torch.no_grad():
        texts = tokenize([template.format(name) for name in names])
        believed = (scale * features @ tower.encode(state["token_embedding.weight"][texts], texts).T).softmax(-1)
    v, buffer, path, record = learner.context, None, [learner.context], []
    for epoch in range(1, epochs + 1):
        lr = 1e-5 if epoch <= warmup else 0.002 * (1 + math.cos(math.pi * (epoch - 1 - warmup) / epochs)) / 2
        for batch in batches(epoch):
            ctx = v.clone().requires_grad_()
            text = tower.encode(learner.prompts(ctx), learner.tokens)
            logits = scale * features[batch] @ text.T
            xe_loss = F.cross_entropy(logits, labels[batch])
            kl_loss = -(believed[batch] * F.log_softmax(logits, -1)).sum(1).mean()
            kl_loss.backward(retain_graph=True)
            b_grad, ctx.grad = ctx.grad, None
            xe_loss.backward()
            a_grad = ctx.grad
            b_unit = b_grad / torch.linalg.norm(b_grad)
            cos = torch.dot((a_grad / torch.linalg.norm(a_grad)).flatten(), b_unit.flatten())
            entropy = -(believed[batch] * believed[batch].log()).sum(1).mean()
            if seen: seen(len(path), xe_loss, kl_loss - entropy, a_grad, b_grad, ctx, text)
            g = a_grad + sign * lam * torch.dot(a_grad.flatten(), b_unit.flatten()) * b_unit if cos < 0 else a_grad
            g = g.add(v, alpha=weight_decay)
            buffer = g if buffer is None else momentum * buffer + g
            v = v.add(buffer, alpha=-lr)
            path.append(v)
            record.append([xe_loss.item(), (kl_loss - entropy).item(), cos.item()])
    return torch.stack(path), torch.tensor(record)


def apart(ours, theirs):
    "Relative difference of the displacements at every step: |dv_ours - dv_theirs| / |dv_theirs|, [S]"
    ours, theirs = ((path[1:] - path[:1]).flatten(1).double() for path in (ours, theirs))
    return (ours - theirs).norm(dim=1) / theirs.norm(dim=1)
