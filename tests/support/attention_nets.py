"""Small transformers of every structure that is recognised, and one that is not."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.architectures import _torchvision_shim  # noqa: F401 (goes before torchvision)
from pruning.architectures._attention import open_attention_
from pruning.seeding import seeded

SHAPE = (3, 8, 8)


class FusedAttention(nn.Module):
    """Attention as in timm: one projection to queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = heads, width // heads
        self.fused_attn = True
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm, self.k_norm = nn.LayerNorm(self.head_dim), nn.Identity()
        self.attn_drop = nn.Dropout(0.1)
        self.proj, self.proj_drop = nn.Linear(width, width), nn.Dropout(0.1)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(x).reshape(batch, length, 3, self.num_heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        q, k = self.q_norm(q), self.k_norm(k)
        p = self.attn_drop.p if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, dropout_p=p)
        return self.proj_drop(self.proj(x.transpose(1, 2).reshape(batch, length, width)))


class InterleavedAttention(FusedAttention):
    """Queries, keys and values of each head side by side: the projections look alike."""

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(x).reshape(batch, length, self.num_heads, 3, self.head_dim)
        q, k, v = qkv.permute(3, 0, 2, 1, 4).unbind(0)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(batch, length, width))


class SelfAttention(nn.Module):
    """The first half of an attention as in transformers: three projections, a tuple returned."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.config = SimpleNamespace(num_attention_heads=heads)
        self.num_attention_heads, self.attention_head_size = heads, width // heads
        self.dropout_prob = 0.1
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        shape = (*hidden_states.shape[:2], self.num_attention_heads, self.attention_head_size)
        q = self.query(hidden_states).view(shape).transpose(1, 2)
        k = self.key(hidden_states).view(shape).transpose(1, 2)
        v = self.value(hidden_states).view(shape).transpose(1, 2)
        weights = (q @ k.transpose(-1, -2) / self.attention_head_size**0.5).softmax(-1)
        context = (weights @ v).transpose(1, 2)
        return context.reshape(hidden_states.shape), weights


class SeparateAttention(nn.Module):
    """An attention as in transformers: `attention`, then `output.dense`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = SelfAttention(width, heads)
        self.output = nn.Module()
        self.output.dense = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        context, _ = self.attention(x)
        answer: Tensor = self.output.get_submodule("dense")(context)
        return answer


class Block(nn.Module):
    """A transformer's block with normalisation first."""

    def __init__(self, attention: nn.Module, width: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = attention
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Transformer(nn.Module):
    """A vision transformer of two blocks with a class token, for images of 8 x 8."""

    def __init__(
        self, attention: Callable[[int, int], nn.Module], width: int = 12, heads: int = 3
    ) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, width, 4, stride=4)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 5, width))
        blocks = [Block(attention(width, heads), width, 10) for _ in range(2)]
        self.blocks, self.norm = nn.Sequential(*blocks), nn.LayerNorm(width)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1) + self.pos_embed
        return self.head(self.norm(self.blocks(x))[:, 0])


class Encoder(nn.Module):
    """torch.nn's own encoder layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Conv2d(3, 12, 4, stride=4), nn.Linear(12, 3)
        layers = [
            nn.TransformerEncoderLayer(12, 4, 10, dropout=0.0, batch_first=True) for _ in range(2)
        ]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(self.embed(x).flatten(2).transpose(1, 2)).mean(1))


def build_vit() -> nn.Module:
    """A vision transformer of torchvision of two blocks."""
    from torchvision.models import VisionTransformer

    return VisionTransformer(
        image_size=8, patch_size=4, num_layers=2, num_heads=3, hidden_dim=12, mlp_dim=10,
        num_classes=3,
    )  # fmt: skip


def build_swin(v2: bool = False) -> nn.Module:
    """A Swin transformer of two stages, with windows of 2 x 2."""
    from torchvision.models import swin_transformer as swin

    second = {"block": swin.SwinTransformerBlockV2, "downsample_layer": swin.PatchMergingV2}
    return swin.SwinTransformer(
        **(second if v2 else {}),
        patch_size=[2, 2], embed_dim=8, depths=[2, 1], num_heads=[2, 4], window_size=[2, 2],
        num_classes=3,
    )  # fmt: skip


def build_convnext() -> nn.Module:
    """A ConvNeXt of two stages."""
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    return ConvNeXt([CNBlockConfig(8, 12, 1), CNBlockConfig(12, None, 1)], num_classes=3)


TRANSFORMERS: dict[str, Callable[[], nn.Module]] = {
    "vit": build_vit,
    "swin": build_swin,
    "swin_v2": lambda: build_swin(True),
    "fused": lambda: Transformer(FusedAttention),
    "separate": lambda: Transformer(SeparateAttention),
    "encoder": Encoder,
}


def build_disturbed(make: Callable[[], nn.Module]) -> nn.Module:
    """A network in float64 and eval mode whose parameters are all random, also biases."""
    with seeded(0), torch.no_grad():
        net = make().double().eval()
        for parameter in net.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return net


def build_transformer(name: str) -> nn.Module:
    """A transformer by name, opened so that it can lose heads."""
    return open_attention_(build_disturbed(TRANSFORMERS[name]))


def draw_images(count: int = 4, side: int = 8) -> Tensor:
    """Images in float64."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, side, side, generator=generator, dtype=torch.float64)
