"""What a trained net can read from one modality, from both, and by night: the planted types, measured.

Where the table says that a modality carries nothing on a class, the class of each stone is an independent draw given
all that the net sees, so the AUC is a Mann-Whitney statistic under its null, whatever the net learnt: mean 1/2 and a
known standard error. Four of them are allowed.
"""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import rankdata
from torch import nn

from fusionscope.data import SCENE_TABLE, SceneDataset
from fusionscope.data import _scenes as scenes_module

CLASSES = SCENE_TABLE.classes
STONES = 49
INNER = torch.tensor([0 < i // 7 < 6 and 0 < i % 7 < 6 for i in range(STONES)])


class StoneNet(nn.Module):
    """Convolutions over the whole image, then the mean over each stone's pixels."""

    def __init__(self, channels):
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(channels, 16, 4, 2, 1), nn.ReLU()),
            *(nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, 1, 1), nn.ReLU()),
        )
        self.head = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, len(CLASSES)))

    def forward(self, x, cell):
        features = self.features(x).flatten(2).transpose(1, 2)
        member = F.one_hot(cell[:, ::2, ::2].flatten(1).long(), STONES).float()
        mean = member.transpose(1, 2) @ features / member.sum(1).clamp_min(1)[..., None]
        return self.head(mean)[:, INNER].flatten(0, 1)


def images(scenes, seen):
    rgb, depth = scenes.rgb.float() / 51 - 2.1, scenes.depth.float()
    return {"rgb": rgb, "depth": depth, "both": torch.cat((rgb, depth), 1)}[seen]


def per_stone(scenes, states=None):
    """Values of the inner stones; their labels unless told otherwise."""
    if states is None:
        states = torch.zeros(len(scenes), STONES, dtype=torch.int64)
        states.scatter_reduce_(1, scenes.cell.flatten(1).long(), scenes.label.flatten(1).long(), "amax")
    return states[:, INNER].flatten()


def auc(score, positive):
    """Area under the ROC curve with ties counted half, and its standard error where score and label are independent."""
    rank = torch.from_numpy(rankdata(score.double().numpy()))
    n1 = int(positive.sum())
    n0 = len(positive) - n1
    area = (rank[positive].sum() - n1 * (n1 + 1) / 2) / (n1 * n0)
    return area.item(), ((n1 + n0 + 1) / (12 * n1 * n0)) ** 0.5


def oracle(seen, train, test, epochs=6):
    """Train on one set of scenes; class probabilities of the stones of another, [stones, K]."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x, y, batches = images(train, seen), per_stone(train).view(len(train), -1), len(train) // 16
        net = StoneNet(x.shape[1])
        optimizer = torch.optim.Adam(net.parameters(), 1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, epochs * batches)
        for _ in range(epochs):
            for rows in torch.randperm(len(train))[: 16 * batches].view(batches, 16):
                optimizer.zero_grad()
                F.cross_entropy(net(x[rows], train.cell[rows]), y[rows].flatten()).backward()
                optimizer.step()
                schedule.step()
    with torch.no_grad():
        pairs = zip(images(test, seen).split(50), test.cell.split(50), strict=True)
        return torch.cat([net(x, cell) for x, cell in pairs]).softmax(1)


@pytest.fixture(scope="module")
def scenes():
    return SceneDataset(600, seed=1), SceneDataset(600, seed=2)


@pytest.fixture(scope="module")
def read(scenes):
    """Probabilities by what the oracle saw, and the labels."""
    return {seen: oracle(seen, *scenes) for seen in ("rgb", "depth", "both")}, per_stone(scenes[1])


def assert_blind(score, positive):
    area, error = auc(score, positive)
    assert abs(area - 0.5) < 4 * error, f"AUC {area:.3f}, standard error {error:.3f}"


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSES[1:])
@pytest.mark.parametrize("seen", ["rgb", "depth"])
def test_each_modality_reads_what_is_planted_in_it_and_nothing_else(read, seen, name):
    probability, label = read
    k = CLASSES.index(name)
    score, positive = probability[seen][:, k], label == k
    if SCENE_TABLE.planted[k] != "both" and seen in SCENE_TABLE.truth[name]["modalities"]:
        assert auc(score, positive)[0] > 0.95
    else:
        assert_blind(score, positive)


@pytest.mark.slow
def test_only_both_modalities_tell_a_misfit_from_the_floor(read, scenes):
    probability, label = read
    misfit = CLASSES.index("misfit")
    score = {seen: p[:, misfit] / (p[:, misfit] + p[:, 0]) for seen, p in probability.items()}
    chosen = (label == misfit) | (label == 0)
    assert auc(score["both"][chosen], label[chosen] == misfit)[0] > 0.95
    for seen, states in (("rgb", scenes[1].colour), ("depth", scenes[1].relief)):
        alike = chosen & (per_stone(scenes[1], states) < 2)  # a red misfit is no floor, which needs no second look
        assert_blind(score[seen][alike], label[alike] == misfit)


@pytest.mark.slow
def test_accuracies_come_near_to_bayes_and_never_pass_it(read):
    probability, label = read
    for seen, p in probability.items():
        bayes = SCENE_TABLE.accuracy(seen)
        error = (bayes * (1 - bayes) / len(label)) ** 0.5
        accuracy = (p.argmax(1) == label).float().mean().item()
        assert bayes - 0.06 < accuracy < bayes + 4 * error, seen


@pytest.mark.slow
def test_night_blinds_the_rgb_oracle():
    train, test = SceneDataset(300, seed=3, night=1.0), SceneDataset(400, seed=4, night=1.0)
    probability, label = oracle("rgb", train, test), per_stone(test)
    for k, name in enumerate(CLASSES):
        area, error = auc(probability[:, k], label == k)
        assert abs(area - 0.5) < 4 * error, name


def test_the_bound_sees_a_leak(monkeypatch):
    """With camouflage in floor colours only, a red stone excludes a bump: a colour score is no longer blind."""

    def colour_score(scenes):
        return -(per_stone(scenes, scenes.colour) >= 2).float(), per_stone(scenes) == CLASSES.index("bump")

    assert_blind(*colour_score(SceneDataset(400, seed=5)))
    p = SCENE_TABLE.p.copy()
    p[3] = 0
    p[3, :2, 2] = 0.025
    monkeypatch.setattr(scenes_module, "SCENE_TABLE", replace(SCENE_TABLE, p=p))
    with pytest.raises(AssertionError, match="AUC 0.5[5-9]"):
        assert_blind(*colour_score(SceneDataset(400, seed=5)))
