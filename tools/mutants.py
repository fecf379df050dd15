"""Break the library one line at a time, in a copy, and see which test notices.

    make mutants                        # all of them; writes figures/mutants/mutants.csv
    make mutants ARGS="sign norm"       # those with one of these words in their names; writes nothing

Each mutant replaces one piece of text, which must occur exactly once, in a module of a temporary copy of the
tree, and runs the tests that are about that module until one fails. The copy without a mutant must pass them all.
"""
import csv
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import Queue

root = Path(__file__).resolve().parent.parent
out = root/'figures'/'mutants'/'mutants.csv'

Mutant = namedtuple('Mutant', 'name file old new tests')

# Selections of tests: arguments of pytest, quick ones first.
RULE    = ('tests/test_properties.py', '-k', 'gradient or projection or conflict or lambda or epsilons or cosine or kl')
DRAWS   = ('tests/test_properties.py', '-k', 'epoch or learning_rate or published or few_shots or order or interval or seed')
MEASURE = ('tests/test_properties.py', '-k', 'measures or share or area or mask or map or hit or empty or resized or contrast')
LOSSES  = ('tests/test_reference.py', '-k', 'losses or divergence or both_gradients')
PROMPT  = ('tests/test_reference.py', '-k', 'teacher or context or template or random_start or first_step')
ENCODER = ('tests/test_reference.py', '-k', 'fast_encoder and not published')
MAPS    = ('tests/test_reference.py', '-k', 'maps or map or operator or resizing or masks')
PARTS   = ('tests/test_training.py', '-k', 'parts_of_the_classes')
LOAD    = ('tests/test_reference.py', '-k', 'openai or checkpoint or conflict or features_are')
TRAIN   = ('tests/test_training.py', '-k', 'snapshots or first_step or published_trainers or accuracies or cosines_of_tokens or matters or view or beside')
SAME    = ('tests/test_training.py', '-k', 'seed_decides or starts_from or first_step')
WORLD   = ('tests/test_pocket.py', '-k', 'captions or strength or rho or new_classes or asked_for or pure_function or tight or noise')
RESUME  = ('tests/test_pocket.py', '-k', 'interrupted')
DEMO    = ('tests/test_cli.py', '-k', 'several_seeds')
INPUT   = ('tests/test_bad_input.py', '-k', 'check_lambdas or check_in_range or sensible or all_zero')

MUTANTS = [Mutant(*m) for m in (
    # the rule
    ('sign of the projection', 'gradients', 'projected = d - (lam', 'projected = d + (lam', RULE),
    ('conflict where they agree', 'gradients', 'conflict = cos < 0', 'conflict = cos > 0', RULE),
    ('no conflict test', 'gradients', 'keep = ~conflict | (lam == 0)', 'keep = agree | (lam == 0)', RULE),
    ('norm not squared', 'gradients', '[:, None] * unit', '[:, None] * g', RULE),
    ('no norm at all', 'gradients', 'unit = near_g / long_g.clamp_min(torch.finfo(g.dtype).tiny)[:, None]', 'unit = near_g', RULE),
    ('lambda ignored', 'gradients', '(lam * (d * unit).sum(1))', '((d * unit).sum(1))', RULE),
    ('agreement threshold ignored', 'gradients', 'agree = norm_g <= eps_rel * norm_d', 'agree = norm_g <= 0 * norm_d', RULE),
    ('agreement at one epsilon', 'gradients', 'eps_rel = 100 * torch', 'eps_rel = 1 * torch', RULE),
    ('cosine of unequal lengths', 'gradients', 'dot / (long_d * long_g)', 'dot / (long_d * long_d)', RULE),
    # the losses
    ('T^2 dropped', 'gradients', 'return temperature**2 * (teacher', 'return (teacher', LOSSES),
    ('divergence the wrong way round', 'gradients', '(teacher.exp() * (teacher - student))', '(student.exp() * (student - teacher))', LOSSES),
    ('teacher not tempered', 'gradients', '(teacher_logits / temperature)', '(teacher_logits)', LOSSES),
    ('loss summed over the batch', 'gradients', '.mean((1, 2))', '.sum((1, 2))', LOSSES),
    ('logit scale not applied', 'gradients', 'logits = prompts.clip.logit_scale * images', 'logits = images', LOSSES),
    # prompts
    ('template words off by one', 'prompts', '[0, first:first + n]', '[0, first - 1:first - 1 + n]', PROMPT),
    ('words before the zeros', 'prompts', 'start[n_ctx - n:] =', 'start[:n] =', PROMPT),
    ('comma rule', 'prompts', 'n_words = len(words.split())', 'n_words = len(clip.tokenizer.encode(words))', PROMPT),
    ('random start too wide', 'prompts', '* 0.02', '* 0.2', PROMPT),
    ('random start ignores its seed', 'prompts', 'manual_seed(check_seed(seed))', 'manual_seed(0)', PROMPT),
    ('teacher not normalised', 'prompts', 'return F.normalize(torch.stack(each).mean(0), dim=-1)', 'return 2 * torch.stack(each).mean(0)', PROMPT),
    # the fast encoder
    ('last token instead of the end token', 'prompts', 'return prompts.tokens.argmax(-1)', 'return prompts.tokens.argmax(-1).max().expand(len(prompts.tokens))', ENCODER),
    ('no causal mask among own tokens', 'prompts', '-torch.inf, dtype=q.dtype', '0.0, dtype=q.dtype', ENCODER),
    ('no causal mask in the prefix', 'prompts', 'is_causal=True', 'is_causal=False', ENCODER),
    ('positions shifted by one', 'prompts', 'clip.text_tower.positional_embedding.to(clip.dtype)', 'clip.text_tower.positional_embedding.roll(1, 0).to(clip.dtype)', ENCODER),
    ('attention not scaled', 'prompts', 'q = q * q.shape[-1]**-0.5', 'q = q * 1', ENCODER),
    ('end token looks behind itself', 'prompts', '.triu(1 + k_c.shape[3] - q_c.shape[3])', '.triu(2 + k_c.shape[3] - q_c.shape[3])', ENCODER),
    ('classes left in packed order', 'prompts', '.index_select(1, pack.back)', '', ENCODER),
    ('one context for all classes', 'prompts', '(rows[slots] * m if prompts.class_specific else 0)', '0', ENCODER),
    ('parts overlap', 'gradients', 'at_text[:, :, rows]', 'at_text[:, :, :rows.stop - rows.start]', PARTS),
    # loading
    ('activation does not follow the tag', 'clip', 'wanted = bool((get_pretrained_cfg', 'wanted = not bool((get_pretrained_cfg', LOAD),
    ('image features not normalised', 'clip', 'return F.normalize(torch.cat(features).to(self.wide), dim=-1)', 'return torch.cat(features).to(self.wide)', LOAD),
    # training
    ('schedule one epoch early', 'training', 'math.pi * (epoch - 2)', 'math.pi * (epoch - 1)', DRAWS),
    ('no warm-up', 'training', 'if epoch == 1 else', 'if epoch == 0 else', DRAWS),
    ('too few epochs', 'training', '100 if shots <= 4 else 200', '100 if shots <= 8 else 200', DRAWS),
    ('last, smaller batch kept', 'training', 'range(0, n - batch_size + 1, batch_size)', 'range(0, n, batch_size)', DRAWS),
    ('same order in every epoch', 'training', 'default_rng([seed, epoch]).permutation', 'default_rng([seed, 0]).permutation', DRAWS),
    ('order ignores the seed', 'training', 'default_rng([seed, epoch]).permutation', 'default_rng([0, epoch]).permutation', DRAWS),
    ('momentum off', 'training', 'recipe.lr, recipe.momentum, weight_decay', 'recipe.lr, 0, weight_decay', TRAIN),
    ('weight decay off', 'training', 'weight_decay=recipe.weight_decay)', 'weight_decay=0)', TRAIN),
    ('learning rate of the first epoch throughout', 'training', 'learning_rate(epoch, recipe.epochs', 'learning_rate(1, recipe.epochs', TRAIN),
    ('another start for each run', 'training', 'start = torch.stack([self.prompts.start] * len(self.lambdas))', 'start = torch.stack([self.prompts.start * (1 + r / 100) for r in range(len(self.lambdas))])', SAME),
    ('lambdas in reverse', 'training', 'self.evaluator.text, self.lambdas,', 'self.evaluator.text, self.lambdas.flip(0),', TRAIN),
    ('step drawn against the gradient', 'runs', 'moved = (last[\"context\"] - values[\"context\"])', 'moved = (values[\"context\"] - last[\"context\"])', TRAIN),
    ('token cosines over the wrong axis', 'runs', 'torch.cosine_similarity(d, g, dim=-1, eps=0)', 'torch.cosine_similarity(d, g, dim=-2, eps=0)[:, :d.shape[1]]', TRAIN),
    ('accuracy of the wrong split', 'evaluate', '_accuracy(self.clip, texts[s.classes], s)', '_accuracy(self.clip, text, self.splits[\"train\"])', TRAIN),
    ('new classes judged by the old names', 'evaluate', '{c: text_features(p, context) for c', '{c: text for c', TRAIN),
    ('one view for all', 'training', 'bank[views, batch] if', 'bank[0, batch] if', TRAIN),
    # data
    ('few shots ignore the seed', 'data', 'random.Random(number)', 'random.Random(0)', DRAWS),
    ('few shots by class number', 'data', 'for items in groups.values() for i in', 'for _, items in sorted(groups.items()) for i in', DRAWS),
    ('pocket task ignores the seed', 'tasks', 'default_rng([seed, 11])', 'default_rng([0, 11])', WORLD),
    ('rho ignored', 'tasks', 'if rng.random() < keep', 'if rng.random() < 1', WORLD),
    ('shifted textures not deranged', 'tasks', 'if (homes[p] != homes).all(): return p', 'return p', WORLD),
    ('shifted is same', 'tasks', 'split(base, test_per_class, moved, rho)', 'split(base, test_per_class, homes, rho)', WORLD),
    ('new classes are old ones', 'tasks', 'tuple(drawn[classes:])', 'tuple(drawn[:classes])', WORLD),
    ('mask inverted', 'pocket', 'return image * (1 - fill) + colour * fill, whole[..., 0] > 0.5', 'return image * (1 - fill) + colour * fill, whole[..., 0] <= 0.5', WORLD),
    ('noise of another scale', 'pocket', '255 * noise', '128 * noise', WORLD),
    ('captions name the wrong thing', 'pocket', '"texture": scene.texture', '"texture": scene.noun', WORLD),
    # maps and measures
    ('ReLU dropped', 'cam', '.float().relu().reshape', '.float().reshape', MEASURE),
    ('nearest instead of bilinear', 'cam', 'mode="bilinear", align_corners=False', 'mode="nearest"', MAPS),
    ('f^ term dropped', 'cam', 'return (t - (t * unit).sum(-1, keepdim=True) * unit) / norm', 'return t / norm', MAPS),
    ('division by |f| dropped', 'cam', '* unit) / norm', '* unit)', MAPS),
    ('gradients summed, not averaged', 'cam', '.mean((-1, -2)).unflatten', '.sum((-1, -2)).unflatten', MAPS),
    ('the pool\'s query stands still', 'cam', ', by_head(w_q)) / cells', ') / cells', MAPS),
    ('the class token moves with the patches', 'cam', 'a[:, :, -cells:].sum(-2, keepdim=True)', 'a.sum(-2, keepdim=True)', MAPS),
    ('keys stand still', 'cam', 'weighed[:, :, -cells:].sum(-2)[..., None]', 'weighed.sum(-2)[..., None]', MAPS),
    ('class token taken for a patch', 'cam', 'x[:, -math.prod(shape):]', 'x[:, :math.prod(shape)]', MAPS),
    ('share of the background', 'cam', 'share = (cams * masks)', 'share = (cams * ~masks)', MEASURE),
    ('hit at the minimum', 'cam', 'cams.argmax(1, keepdim=True)', 'cams.argmin(1, keepdim=True)', MEASURE),
    ('preference not divided by area', 'cam', '"preference": share / area', '"preference": share', MEASURE),
    ('empty maps count as zero', 'cam', 'torch.where(undefined, torch.nan, v)', 'torch.where(undefined, 0.0, v)', MEASURE),
    ('maps of the other prompt', 'cam', 'texts += list(runs.text_features[k])', 'texts += list(runs.text_features[k][::-1])', MAPS),
    ('masks left uncut', 'cam', 'picture = shown_image(clip, Image.fromarray(mask.astype(np.uint8) * 255).convert(\"RGB\"))', 'picture = Image.fromarray(mask.astype(np.uint8) * 255).convert(\"RGB\").resize((clip.image_size,) * 2)', MAPS),
    ('contrast with itself', 'cam', '[..., None], -torch.inf)', '[..., None], torch.inf)', MEASURE),
    # records, studies, checks, pretraining
    ('normal instead of t', 'runs', 'stdtrit(len(v) - 1, 0.5 + confidence / 2)', 'stdtrit(1e9, 0.5 + confidence / 2)', DRAWS),
    ('deviation of the population', 'runs', 'ddof=1', 'ddof=0', DRAWS),
    ('difference the wrong way round', 'summary', 'gaps["value"] -= gaps["value_of_base"]', 'gaps["value"] = gaps["value_of_base"] - gaps["value"]', DEMO),
    ('NaN lies everywhere', 'checks', 'if math.isfinite(number) and low <= value <= high: return number', 'if not (number < low or number > high): return number', INPUT),
    ('moments forgotten on resuming', 'pretrain', 'optimiser.state[p] = {', 'optimiser.state[torch.zeros(1)] = {', RESUME),
)]


def copy(
    to:Path, # An empty folder
)->Path:
    "What the tests need of the tree."
    skip = shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints')
    for d in 'prograd_viz', 'tests': shutil.copytree(root/d, to/d, ignore=skip)
    shutil.copy(root/'pyproject.toml', to)
    return to


def check(
    mutant:Mutant,
):
    "The text of a mutant is there, once."
    n = (root/'prograd_viz'/f'{mutant.file}.py').read_text(encoding='utf-8').count(mutant.old)
    if n != 1: sys.exit(f'mutant {mutant.name!r}: {mutant.old!r} occurs {n} times in prograd_viz/{mutant.file}.py, not once')


@contextmanager
def mutated(
    tree:Path, # A copy
    mutant:Mutant, # What to break in it
):
    "The copy with one line changed, for the time of a with block."
    path = tree/'prograd_viz'/f'{mutant.file}.py'
    before = path.read_text(encoding='utf-8')
    path.write_text(before.replace(mutant.old, mutant.new), encoding='utf-8')
    try: yield
    finally: path.write_text(before, encoding='utf-8')


def run(
    tree:Path, # A copy
    tests:tuple, # Arguments of pytest
)->tuple: # (exit code, first failure or "", end of the output)
    "Run tests of a copy on the library of that copy, until the first failure."
    env = {**os.environ, 'PYTHONPATH': str(tree), 'PYTHONDONTWRITEBYTECODE': '1', 'OMP_NUM_THREADS': '1'}
    cmd = [sys.executable, '-m', 'pytest', '-x', '-rfE', '--tb=short', '-p', 'no:cacheprovider', *tests]
    try: res = subprocess.run(cmd, cwd=tree, env=env, capture_output=True, text=True, timeout=600)
    except subprocess.TimeoutExpired: return 1, 'ran longer than ten minutes', ''
    if f'library: {tree/"prograd_viz"}\n' not in res.stdout: sys.exit(f'the tests did not import the copy in {tree}:\n{res.stdout[-2000:]}{res.stderr[-2000:]}')
    found = re.findall(r'^(?:FAILED|ERROR) (.+?)(?: - .*)?$', res.stdout, re.M)
    return res.returncode, found[0].partition('::')[2] if found else '', res.stdout[-3000:]


def judge(trees, job):
    "(job, exit code, first failure, output, seconds) of a mutant, or of a selection on the unmutated copy."
    tree, start = trees.get(), time.time()
    try:
        if isinstance(job, Mutant):
            with mutated(tree, job): result = run(tree, job.tests)
        else: result = run(tree, job)
    finally: trees.put(tree)
    return job, *result, time.time() - start


def main(words):
    chosen = [m for m in MUTANTS if not words or any(w in m.name for w in words)]
    if not chosen: sys.exit(f'no mutant has {" or ".join(words)} in its name')
    for m in chosen: check(m)
    workers, start, rows = os.cpu_count() or 1, time.time(), []
    with tempfile.TemporaryDirectory() as tmp, ThreadPoolExecutor(workers) as pool:
        trees = Queue()
        for i in range(workers): trees.put(copy(Path(tmp).resolve()/str(i)))
        selections = dict.fromkeys(m.tests for m in chosen)
        for tests, code, first, text, seconds in pool.map(lambda job: judge(trees, job), selections):
            if code: sys.exit(f'without a mutant {" ".join(tests)} fails, first {first}:\n{text}')
            print(f'{seconds:6.1f} s  unbroken: {" ".join(tests)}', flush=True)
        for m, code, first, text, seconds in pool.map(lambda job: judge(trees, job), chosen):
            if code not in (0, 1): sys.exit(f'mutant {m.name!r} does not run (pytest exit code {code}):\n{text}')
            caught = first if code else 'SURVIVED'
            print(f'{seconds:6.1f} s  {m.name:44} {m.file + ".py":13} {caught}', flush=True)
            rows.append({'name': m.name, 'file': f'prograd_viz/{m.file}.py', 'change': f'{m.old} -> {m.new or "(nothing)"}', 'caught by': caught, 'seconds': f'{seconds:.1f}'})
    alive = [r['name'] for r in rows if r['caught by'] == 'SURVIVED']
    if not words:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open('w', newline='', encoding='utf-8') as f:
            writer = csv.DictWriter(f, list(rows[0]), lineterminator='\n')
            writer.writeheader(), writer.writerows(rows)
        print(f'\nwrote {out.relative_to(root)}')
    print(f'{len(rows) - len(alive)} of {len(rows)} mutants caught in {time.time() - start:.0f} s')
    if alive: sys.exit(f'nothing catches: {", ".join(alive)}')


if __name__ == '__main__': main(sys.argv[1:])
