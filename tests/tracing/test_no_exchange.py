"""Lanes are never given to the wrong modality: what is no exchange, and whose share is whose."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fusionscope.tracing import Trace, trace

from .models import B


def lanes(found: Trace) -> dict[str, list[list[str]]]:
    return {m: [[call.path for call in stretch] for stretch in found.lanes[m]] for m in found.modalities}


def vectors(*names: str) -> dict[str, Tensor]:
    return {name: torch.randn(B, 5) for name in names}


class Fuse(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(10, 5)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.layer(torch.cat([x, y], 1)).relu()


class Pairwise(nn.Module):
    """Each pair of three modalities goes through a fusion module of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.t, self.a, self.v = (nn.Linear(5, 5) for _ in range(3))
        self.ta, self.tv, self.av = (Fuse() for _ in range(3))
        self.norms = nn.ModuleList(nn.LayerNorm(5) for _ in range(3))
        self.head = nn.Linear(15, 2)

    def forward(self, t: Tensor, a: Tensor, v: Tensor) -> Tensor:
        t, a, v = self.t(t), self.a(a), self.v(v)
        pairs = (self.ta(t, a), self.tv(t, v), self.av(a, v))
        return self.head(torch.cat([norm(x) for norm, x in zip(self.norms, pairs, strict=True)], 1))


class Pyramid(nn.Module):
    """Two towers, a fusion at each of four levels, a layer behind each: no fusion feeds a tower."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.rgb, self.depth, self.after = (nn.ModuleList(nn.Linear(5, 5) for _ in range(4)) for _ in range(3))
        self.fuse = nn.ModuleList(Fuse() for _ in range(4)) if how == "module" else None

    def forward(self, rgb: Tensor, depth: Tensor) -> Tensor:
        total = torch.zeros(())
        for i, (one, two, after) in enumerate(zip(self.rgb, self.depth, self.after, strict=True)):
            rgb, depth = one(rgb).tanh(), two(depth).tanh()
            total = total + after(self.fuse[i](rgb, depth) if self.fuse is not None else rgb + depth)
        return total


class Joint(nn.Module):
    """One fusion module with two outputs of equal shape, for two tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.one, self.two = nn.Linear(10, 7), nn.Linear(7, 5), nn.Linear(7, 5)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        both = self.trunk(torch.cat([x, y], 1)).tanh()
        return self.one(both), self.two(both)


class TwoTasks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.joint = nn.Linear(5, 5), nn.Linear(5, 5), Joint()
        self.valence, self.arousal = nn.Linear(5, 3), nn.Linear(5, 3)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        x, y = self.joint(self.a(a), self.b(b))
        return torch.cat([self.valence(x), self.arousal(y)], 1)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("make", "names"),
    [
        (Pairwise, "tav"),
        (lambda: Pyramid("module"), ("rgb", "depth")),
        (lambda: Pyramid("sum"), ("rgb", "depth")),
        (TwoTasks, "ab"),
    ],
    ids=["pairwise", "pyramid of modules", "pyramid of sums", "two tasks"],
)
def test_fusion_side_by_side_is_no_exchange(make, names, seed: int) -> None:
    torch.manual_seed(seed)
    found = trace(make(), vectors(*names))
    assert not any(point.exchange for point in found.fusion_points)
    assert all(len(stretches) == 1 for stretches in found.lanes.values())


class CrossLayer(nn.Module):
    """Attention in both directions without a residual inside: what it gives is mostly the other modality."""

    def __init__(self) -> None:
        super().__init__()
        self.see_a, self.see_b = (nn.MultiheadAttention(12, 2, batch_first=True) for _ in range(2))
        self.norm_a, self.norm_b = nn.LayerNorm(12), nn.LayerNorm(12)

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return self.norm_a(a + self.see_a(a, b, b)[0]), self.norm_b(b + self.see_b(b, a, a)[0])


@pytest.mark.parametrize("seed", range(3))
def test_queries_tell_whose_lane_attention_continues(seed: int) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers, self.head = nn.ModuleList(CrossLayer() for _ in range(2)), nn.Linear(24, 3)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            for layer in self.layers:
                a, b = layer(a, b)
            return self.head(torch.cat([a.mean(1), b.mean(1)], 1))

    torch.manual_seed(seed)
    found = trace(Net(), {"a": torch.randn(B, 11, 12), "b": torch.randn(B, 11, 12)})
    for modality in "ab":
        own = [[f"layers.{i}.see_{modality}", f"layers.{i}.norm_{modality}"] for i in range(2)]
        assert lanes(found)[modality] == [[], *own]


class Named(nn.Module):
    """An exchange of dictionaries, or by keywords, whose results come in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.weigh = nn.Linear(10, 10)

    def forward(self, rgb: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
        u, v = self.weigh(torch.cat([rgb, depth], 1)).sigmoid().chunk(2, 1)
        return rgb + 0.3 * u * depth, depth + 0.3 * v * rgb


class ByName(Named):
    def forward(self, xs: dict[str, Tensor]) -> dict[str, Tensor]:  # ty: ignore[invalid-method-override]
        rgb, depth = super().forward(xs["rgb"], xs["depth"])
        return {"depth": depth, "rgb": rgb}


@pytest.mark.parametrize("by_name", [False, True])
def test_the_order_of_arguments_and_keys_does_not_matter(by_name: bool) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rgb, self.depth = (nn.ModuleList(nn.Linear(5, 5) for _ in range(3)) for _ in range(2))
            self.swap = nn.ModuleList((ByName if by_name else Named)() for _ in range(2))

        def forward(self, rgb: Tensor, depth: Tensor) -> Tensor:
            for i in range(3):
                rgb, depth = self.rgb[i](rgb), self.depth[i](depth)
                if i < 2 and by_name:
                    both = self.swap[i]({"depth": depth, "rgb": rgb})
                    rgb, depth = both["rgb"], both["depth"]
                elif i < 2:
                    rgb, depth = self.swap[i](depth=depth, rgb=rgb)
            return rgb * depth

    torch.manual_seed(0)
    found = trace(Net(), vectors("rgb", "depth"))
    assert lanes(found) == {m: [[f"{m}.{i}"] for i in range(3)] for m in ("rgb", "depth")}


class Sums(nn.Module):
    """Each of two lanes takes a little of the other, in the model's own code."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (nn.ModuleList(nn.Linear(5, 5) for _ in range(3)) for _ in range(2))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        for one, two in zip(self.a, self.b, strict=True):
            x, y = one(a).tanh(), two(b).tanh()
            a, b = x + 0.1 * y, y - 0.1 * x
        return a * b


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_wrapper_changes_nothing(wrapped: bool) -> None:
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Sums()

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.net(a, b)

    torch.manual_seed(0)
    found = trace(Wrapper() if wrapped else Sums(), vectors("a", "b"))
    before = "net." if wrapped else ""
    assert lanes(found) == {m: [[f"{before}{m}.{i}"] for i in range(3)] for m in "ab"}


def test_what_was_fused_elsewhere_is_nobodys_lane() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.t, self.a, self.v, self.next_a, self.next_v = (nn.Linear(5, 5) for _ in range(5))
            self.both, self.swap = nn.Bilinear(5, 5, 5), Named()

        def forward(self, t: Tensor, a: Tensor, v: Tensor) -> Tensor:
            t, a, v = self.t(t), self.a(a), self.v(v)
            side = self.both(t, v)
            a, v = self.swap(a, v)
            return self.next_a(a) * self.next_v(v + side)

    torch.manual_seed(0)
    found = trace(Net(), vectors("t", "a", "v"))
    assert found.call("next_v").lane is None
    assert found.call("next_v").wired_to == {"t", "a", "v"}
