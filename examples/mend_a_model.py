"""Mend a fusion: calibrate a model of one's own without touching its code, then give two modalities one encoder."""

import torch
from torch import Tensor, nn

import fusionscope as fs


class Mine(nn.Module):
    """Two backbones whose features meet in a concatenation, as they might stand in a model of yours."""

    def __init__(self) -> None:
        super().__init__()
        self.rgb = fs.nn.Pooled(fs.nn.resnet18(3, width=8, small=True))
        self.depth = fs.nn.Pooled(fs.nn.resnet18(1, width=8, small=True))
        self.head = nn.Linear(self.rgb.channels + self.depth.channels, 5)

    def forward(self, rgb: Tensor, depth: Tensor) -> Tensor:
        return self.head(torch.cat([self.rgb(rgb), self.depth(depth)], 1))


torch.manual_seed(0)
batch = {"rgb": torch.randn(8, 3, 24, 24), "depth": torch.randn(8, 1, 24, 24)}
model = Mine().eval()
before = model(**batch).detach()

calibration = fs.nn.attach_calibration(model, batch)
assert torch.allclose(model(**batch), before, atol=1e-6)  # the identity, until it is trained
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
model(**batch).logsumexp(1).mean().backward()
optimizer.step()
assert any(name.startswith("contextual_calibration.") for name in model.state_dict())
print(f"calibrated: {sum(p.numel() for p in calibration.parameters()):,} parameters before the concatenation")
fs.nn.detach_calibration(model)

shared = fs.nn.share(model.rgb, {"rgb": 3, "depth": 1}, exchange=fs.nn.AsymFusion())
features = shared(batch)
assert {m: list(x.shape) for m, x in features.items()} == {"rgb": [8, 64], "depth": [8, 64]}
one, two = (sum(p.numel() for p in net.parameters()) for net in (model.rgb, shared))
assert two < 1.01 * one
print(f"shared: {two:,} parameters for two modalities, {one:,} for one")
