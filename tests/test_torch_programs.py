"""PyTorch's dropout by this library in other packages' training loops, in checkpointed layers and in other processes.

Each test runs after `replace_dropout` and after `enable`: the same seed must give the same masks in both, and the
backward pass must use those of the forward pass.
"""

import importlib
import json
import os

import pytest
from conftest import switches_settings

pytestmark = [pytest.mark.filterwarnings("ignore"), switches_settings]

torch = pytest.importorskip("torch")

import cdropout.torch as ct  # noqa: E402
from benchmarks.torch_programs import PROGRAMS, GraphNetwork, Perceptron  # noqa: E402

nn, F = torch.nn, torch.nn.functional
checkpoint = torch.utils.checkpoint.checkpoint
HOW = ("replaced", "enabled")


def import_or_skip(name, *attributes):
    """Return a module; skip the test if it, or one of its attributes, cannot be imported."""
    try:
        module = importlib.import_module(name)
        for attribute in attributes:  # transformers imports most of its modules when they are used
            getattr(module, attribute)
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision for another build of PyTorch
        pytest.skip(f"{name} cannot be imported: {str(error).splitlines()[0]}")
    return module


@pytest.fixture(autouse=True)
def _switch_off():
    yield
    ct.disable()


def let_drop(model, how, also=()):
    """Let a model drop by this library, in one of the ways of `HOW`; otherwise it keeps PyTorch's dropout."""
    if how == "replaced":
        ct.replace_dropout(model, also=also)
    elif how == "enabled":
        ct.enable(bernoulli=True)
    return model


def sites_of_torch(model, *inputs, **named_inputs):
    sites = ct.report(model, *inputs, **named_inputs)
    assert sites
    return [str(site) for site in sites if not site.is_ours]


def weights_of(model):
    return torch.cat([weight.detach().flatten() for weight in model.parameters()]).clone()


def assert_two_ways_agree(train):
    """Check a function that trains a model in one of the ways of `HOW` and returns numbers that depend on the masks."""
    replaced, again, enabled = (train(how) for how in ("replaced", "replaced", "enabled"))
    ct.disable()
    assert replaced.isfinite().all()
    assert torch.equal(replaced, again)
    assert torch.equal(replaced, enabled)
    assert not torch.equal(replaced, train("its own"))


class Block(nn.Module):
    """All kinds of dropout: of a module, of a function, of attention, and by a mask that is drawn by hand."""

    def __init__(self, p=0.3):
        super().__init__()
        self.p = p
        self.linear, self.module = nn.Linear(16, 16), nn.Dropout(p)

    def forward(self, x):
        y = F.dropout(self.linear(self.module(x)), self.p, self.training)
        y = F.scaled_dot_product_attention(y, y, y, dropout_p=self.p if self.training else 0.0)
        return x + y * x.new_empty(len(x), 1, 1).bernoulli_(1 - self.p)


class Net(nn.Module):
    """Classify 16 numbers."""

    def __init__(self, p=0.5):
        super().__init__()
        self.p = p
        self.layers = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Dropout(p), nn.Linear(32, 3))

    def forward(self, x):
        return self.layers(F.dropout(x, self.p, self.training))


def data():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(32, 16, generator=generator), torch.randint(3, (32,), generator=generator)


# ---- activation checkpointing ----


class Checkpointed(nn.Module):
    """Blocks in checkpoints; without, if use_reentrant is None."""

    def __init__(self, use_reentrant):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.use_reentrant = use_reentrant

    def forward(self, x):
        for block in self.blocks:
            x = block(x) if self.use_reentrant is None else checkpoint(block, x, use_reentrant=self.use_reentrant)
        return x


def output_and_gradients(model, x):
    torch.manual_seed(5)
    x = x.clone().requires_grad_()
    y = model(x)
    y.square().sum().backward()
    return torch.cat([t.detach().flatten() for t in (y, x.grad, *(weight.grad for weight in model.parameters()))])


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("how", HOW)
def test_checkpointed_layers_have_the_gradients_of_others(how, use_reentrant):
    x = torch.randn(4, 6, 16, generator=torch.Generator().manual_seed(1))
    expected, found = (
        output_and_gradients(let_drop(Checkpointed(kind), how, [Block]), x) for kind in (None, use_reentrant)
    )
    assert torch.equal(expected, found)
    assert not sites_of_torch(let_drop(Checkpointed(use_reentrant), how, [Block]), x)


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("function", [ct.dropout, F.dropout], ids=["ours", "enabled"])
def test_backward_pass_of_a_checkpoint_drops_what_the_forward_pass_dropped(function, use_reentrant):
    if function is F.dropout:
        ct.enable()
    x = torch.ones(3000, requires_grad=True)
    y = checkpoint(function, x, 0.4, use_reentrant=use_reentrant)
    torch.rand(5)  # moves the generator between the passes
    y.sum().backward()
    assert torch.equal(x.grad, y)
    assert 0 < y.count_nonzero() < y.numel()


# ---- training loops of other packages ----


def small(name):
    """Return a function that makes a model of transformers, and one that makes its inputs."""
    transformers = import_or_skip("transformers", "BertForSequenceClassification", "LlamaForCausalLM")
    sizes = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 32, "max_position_embeddings": 16}
    if name == "Bert":
        config = transformers.BertConfig(**sizes, hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3)
        kind = transformers.BertForSequenceClassification
    else:
        config = transformers.LlamaConfig(**sizes, attention_dropout=0.3, use_cache=False)
        kind = transformers.LlamaForCausalLM

    def make():
        torch.manual_seed(0)
        return kind(config).train()

    ids = torch.randint(50, (8, 12), generator=torch.Generator().manual_seed(0))
    return make, {"input_ids": ids, "labels": ids[:, 0] % 2 if name == "Bert" else ids}


@pytest.mark.ci
def test_trainer_of_transformers(tmp_path):
    transformers = import_or_skip("transformers", "Trainer")
    import_or_skip("accelerate")
    make, inputs = small("Bert")
    rows = [{"input_ids": ids, "labels": label} for ids, label in zip(*inputs.values(), strict=True)]

    def train(how, checkpoints=False):
        model = let_drop(make(), how)
        arguments = transformers.TrainingArguments(
            str(tmp_path), max_steps=3, per_device_train_batch_size=4, report_to=[], use_cpu=True, save_strategy="no"
        )
        arguments.gradient_checkpointing, arguments.disable_tqdm = checkpoints, True
        transformers.Trainer(model, arguments, train_dataset=rows).train()
        return weights_of(model)

    assert_two_ways_agree(train)
    assert torch.equal(train("replaced", checkpoints=True), train("enabled", checkpoints=True))


@pytest.mark.ci
@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", ["Bert", "Llama"])
def test_gradient_checkpointing_of_transformers(name, how, use_reentrant):
    make, inputs = small(name)

    def gradients(checkpoints):
        model = make()
        if checkpoints:
            model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
            model.enable_input_require_grads()
        let_drop(model, how)
        torch.manual_seed(3)
        model(**inputs).loss.backward()
        return torch.cat([weight.grad.flatten() for weight in model.parameters()])

    assert torch.equal(gradients(True), gradients(False))


@pytest.mark.ci
def test_lightning():
    lightning = import_or_skip("lightning.pytorch")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = Net()

        def training_step(self, batch, _index):
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def train(how):
        lightning.seed_everything(0, verbose=False)
        module = let_drop(Module(), how, [Net])
        rows = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data()), batch_size=8)
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = lightning.Trainer(max_epochs=2, accelerator="cpu", devices=1, enable_model_summary=False, **quiet)
        trainer.fit(module, rows)
        return weights_of(module)

    assert_two_ways_agree(train)


@pytest.mark.ci
def test_accelerate():
    accelerate = import_or_skip("accelerate")

    def train(how):
        torch.manual_seed(0)
        model = let_drop(Net(), how, [Net])
        rows = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data()), batch_size=8)
        accelerator = accelerate.Accelerator(cpu=True)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model, optimizer, rows = accelerator.prepare(model, optimizer, rows)
        for x, labels in rows:
            accelerator.backward(F.cross_entropy(model(x), labels))
            optimizer.step()
            optimizer.zero_grad()
        return weights_of(model)

    assert_two_ways_agree(train)


@pytest.mark.ci
def test_forward_passes_that_hooks_of_accelerate_have_kept_are_enabled():
    hooks = import_or_skip("accelerate.hooks")
    model = Net()
    for module in model.modules():
        hooks.add_hook_to_module(module, hooks.ModelHook())
    x, _ = data()
    assert len(sites_of_torch(model, x)) == 2
    ct.enable()
    assert not sites_of_torch(model, x)


@pytest.mark.ci
def test_adapters_of_peft():
    peft = import_or_skip("peft")
    make, inputs = small("Llama")

    def train(how):
        config = peft.LoraConfig(r=4, lora_dropout=0.3, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        model = let_drop(peft.get_peft_model(make(), config), how)
        assert not sites_of_torch(model, **inputs) or how == "its own"
        torch.manual_seed(4)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            model(**inputs).loss.backward()
            optimizer.step()
        return weights_of(model)

    assert_two_ways_agree(train)


@pytest.mark.ci
def test_skorch():
    skorch = import_or_skip("skorch")
    x, labels = (values.numpy() for values in data())

    def train(how):
        torch.manual_seed(0)
        net = skorch.NeuralNetClassifier(
            Net, criterion=nn.CrossEntropyLoss, max_epochs=2, lr=0.1, batch_size=8, train_split=None, verbose=0
        ).initialize()
        let_drop(net.module_, how, [Net])
        return weights_of(net.partial_fit(x, labels).module_)

    assert_two_ways_agree(train)
    # `fit` makes the module again: only the switch reaches it.
    ct.enable()
    torch.manual_seed(0)
    net = skorch.NeuralNetClassifier(Net, criterion=nn.CrossEntropyLoss, max_epochs=1, train_split=None, verbose=0)
    assert not sites_of_torch(net.fit(x, labels).module_.train(), torch.from_numpy(x))


# ---- other processes ----


class Dropped(torch.utils.data.Dataset):
    """Rows of ones, dropped by PyTorch's function when they are loaded."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return F.dropout(torch.ones(1000), 0.5)


class DroppedByUs(Dropped):
    """The same, dropped by this library's function."""

    def __getitem__(self, index):
        return ct.dropout(torch.ones(1000), 0.5)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_workers_that_are_forked_have_the_switch_of_their_parent():
    def load(rows):
        generator = torch.Generator().manual_seed(1)
        options = {"batch_size": None, "num_workers": 2, "multiprocessing_context": "fork"}
        return torch.stack(list(torch.utils.data.DataLoader(rows, generator=generator, **options)))

    before, expected = load(Dropped()), load(DroppedByUs())
    ct.enable()
    assert torch.equal(load(Dropped()), expected)
    assert not torch.equal(before, expected)


RANKS = """
import json, os, sys
import torch
import torch.distributed as dist
import torch.nn.functional as F
import cdropout.torch as ct
from torch.nn.parallel import DistributedDataParallel

folder, children = sys.argv[1], []
ct.enable(bernoulli=True)
for rank in range(2):
    children.append(os.fork())
    if children[-1] == 0:
        break
else:
    sys.exit([os.waitpid(child, 0)[1] for child in children] != [0, 0])
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = torch.nn.LSTM(20, 16, 2, dropout=0.5, batch_first=True)
        self.layer = torch.nn.TransformerEncoderLayer(16, 4, 32, dropout=0.5, batch_first=True)

    def forward(self, x):
        return self.layer(F.dropout(self.lstm(x)[0], 0.5))

torch.manual_seed(0)
model = Net()
parallel = DistributedDataParallel(model)
optimizer = torch.optim.SGD(parallel.parameters(), lr=0.1)
x = torch.ones(4, 5, 20)
theirs = [str(site) for site in ct.report(model, x) if not site.is_ours]
torch.manual_seed(100 + rank)
kept = (F.dropout(torch.ones(200)) != 0).tolist()
torch.manual_seed(100 + rank)
of_function = (ct.dropout(torch.ones(200)) != 0).tolist()
for _ in range(3):
    optimizer.zero_grad()
    parallel(x).square().mean().backward()
    optimizer.step()
with open(f"{folder}/{rank}.json", "w") as file:
    weights = [p.flatten().tolist() for p in model.parameters()]
    json.dump({"theirs": theirs, "kept": kept, "of_function": of_function, "weights": weights}, file)
del parallel, model, optimizer  # before their group: PyTorch may abort at its exit otherwise
dist.destroy_process_group()
"""


@pytest.mark.ci
def test_each_rank_of_data_parallel_training_has_the_switch_and_its_own_masks(run_python, tmp_path):
    done = run_python("-c", RANKS, str(tmp_path), check=False)
    assert done.returncode == 0, done.stderr.decode()
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    for rank in (first, second):
        assert rank["theirs"] == []
        assert rank["kept"] == rank["of_function"]
    assert first["kept"] != second["kept"]
    assert first["weights"] == second["weights"]


# ---- the programs of `python -m benchmarks torch-models` ----

# Functions of PyTorch that these call stay PyTorch's, and their sites are reported, unless `also` names the class.
CALL_FUNCTIONS = {"graph network": GraphNetwork, "MLP": Perceptron}


@pytest.mark.ci
@pytest.mark.parametrize("name", PROGRAMS)
def test_no_site_of_a_program_is_left_to_pytorch(name):
    try:
        program = PROGRAMS[name]()
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision of another PyTorch
        pytest.skip(f"cannot be built here: {str(error).splitlines()[0]}")
    model, inputs = program.model, program.inputs
    n_sites = sum(site.n_calls for site in ct.report(model, **inputs))
    with ct.enabled(bernoulli=True):
        sites = ct.report(model, **inputs)
        assert all(site.is_ours for site in sites)
        assert sum(site.n_calls for site in sites) == n_sites
        torch.manual_seed(1)
        expected = program.loss()
    replaced = ct.replace_dropout(model)
    theirs = [site for site in replaced.report(model, **inputs) if not site.is_ours]
    if name in CALL_FUNCTIONS:
        assert {site.class_name for site in theirs} == {CALL_FUNCTIONS[name].__name__}
        assert all("torch_programs.py" in site.line for site in theirs)
        replaced = ct.replace_dropout(model, also=[CALL_FUNCTIONS[name]])
        theirs = [site for site in replaced.report(model, **inputs) if not site.is_ours]
    assert not theirs
    torch.manual_seed(1)
    assert torch.equal(program.loss(), expected)


# ---- compilers ----


def test_caches_of_compilers_tell_graphs_with_the_switch_on_from_others():
    config = pytest.importorskip("torch.compiler.config")
    tags = []
    with config.patch(cache_key_tag="mine"):
        for bernoulli in (False, True):
            with ct.enabled(bernoulli=bernoulli):
                tags.append(config.cache_key_tag)
            assert config.cache_key_tag == "mine"
    assert len({*tags, "mine"}) == 3
