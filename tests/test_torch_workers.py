"""PyTorch's dropout by this library in other processes: DataLoader's workers and data-parallel ranks."""

import json

import pytest

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

torch = pytest.importorskip("torch")

import cdropout.torch as ct  # noqa: E402


class Dropped(torch.utils.data.Dataset):
    """Rows of ones, dropped when they are loaded; the last one is large enough for a second thread."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return ct.dropout(torch.ones(1 << 20 if index == 5 else 1000), 0.5)


def load(seed, n_workers):
    loader = torch.utils.data.DataLoader(
        Dropped(), batch_size=None, num_workers=n_workers, generator=torch.Generator().manual_seed(seed)
    )
    return list(loader)


@pytest.mark.parametrize("n_workers", [1, 2])
def test_workers_of_a_loader_draw_masks_of_their_own_that_its_seed_repeats(n_workers):
    ct.dropout(torch.ones(1 << 20))  # starts threads, which forked workers do not have
    rows, again, other = load(1, n_workers), load(1, n_workers), load(2, n_workers)
    assert all(torch.equal(a, b) for a, b in zip(rows, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(rows, other, strict=True))
    small = rows[:5]
    assert all(not torch.equal(a, b) for i, a in enumerate(small) for b in small[:i])
    assert all(0.4 < (row == 0).double().mean() < 0.6 for row in rows)


RANKS = """
import json, os, sys
import torch
import torch.distributed as dist
import cdropout.torch as ct
from torch.nn.parallel import DistributedDataParallel

folder, children = sys.argv[1], []
for rank in range(2):  # forked when PyTorch has been imported, which takes longer than all that follows
    children.append(os.fork())
    if children[-1] == 0:
        break
else:
    sys.exit([os.waitpid(child, 0)[1] for child in children] != [0, 0])
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
torch.manual_seed(0)
layer = torch.nn.TransformerEncoderLayer(16, 4, 32, dropout=0.5, batch_first=True)
model = torch.nn.Sequential(torch.nn.Linear(20, 16), torch.nn.Dropout(0.5), layer, torch.nn.Linear(16, 3))
n_replaced = ct.replace_dropout(model)
parallel = DistributedDataParallel(model)
optimizer = torch.optim.SGD(parallel.parameters(), lr=0.1)
x = torch.ones(4, 5, 20)
torch.manual_seed(100 + rank)
kept = (model[1](torch.ones(200)) != 0).tolist()
losses = []
for _ in range(3):
    optimizer.zero_grad()
    loss = parallel(x).square().mean()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
with open(f"{folder}/{rank}.json", "w") as file:
    weights = [p.flatten().tolist() for p in model.parameters()]
    json.dump({"n_replaced": n_replaced, "kept": kept, "losses": losses, "weights": weights}, file)
del parallel, model, optimizer  # before their group: PyTorch may abort at its exit otherwise
dist.destroy_process_group()
"""


@pytest.mark.ci
def test_each_rank_of_data_parallel_training_draws_its_own_masks_and_all_weights_agree(run_python, tmp_path):
    done = run_python("-c", RANKS, str(tmp_path), check=False)
    assert done.returncode == 0, done.stderr.decode()
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first["n_replaced"] == second["n_replaced"] == 4
    assert first["kept"] != second["kept"]
    assert first["losses"] != second["losses"]
    assert first["weights"] == second["weights"]
