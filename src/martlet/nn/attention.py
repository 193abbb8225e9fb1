"""Attention of ragged rows: projection, rotation, and each row's own softmax over its own past."""

# T tokens of all rows, t tokens of one row, L tokens it can see, N query heads, K key/value heads, H head width

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from martlet.arch import Arch, Layer, QKNorm
from martlet.nn.cache import RowCache
from martlet.nn.draws import SampleDropout
from martlet.nn.lean import rotate
from martlet.nn.norm import RMSNorm
from martlet.nn.ragged import Ragged
from martlet.nn.rows import attend_rows, attend_with_dropout


class Attention(nn.Module):
    """softmax(q k' * scale) v over what each token may see: its row's past, or all of its row, within the window."""

    def __init__(self, arch: Arch, layer: Layer, index: int) -> None:
        super().__init__()
        self.arch, self.layer, self.index = arch, layer, index
        hidden, bias = arch.hidden_size, arch.qkv_bias
        self.q_proj = nn.Linear(hidden, arch.query_size, bias)
        self.k_proj = nn.Linear(hidden, arch.key_value_size, bias)
        self.v_proj = nn.Linear(hidden, arch.key_value_size, bias)
        self.o_proj = nn.Linear(arch.query_size, hidden, arch.out_bias)
        if arch.qk_norm is not QKNorm.NONE:
            full = arch.qk_norm is QKNorm.FULL
            self.q_norm = RMSNorm(arch.query_size if full else arch.head_dim, arch)
            self.k_norm = RMSNorm(arch.key_value_size if full else arch.head_dim, arch)
        self.dropout = SampleDropout(arch.dropout.attention)

    def forward(
        self,
        x_TD: Tensor,
        rows: Ragged,
        turn: tuple[Tensor, Tensor] | None,
        caches: list[RowCache] | None,
        weights: list[Tensor] | None,
    ) -> Tensor:
        """`turn` is (cos, sin) of each token; `weights`, if a list, receives each row's `(N, t, L)` attention."""
        arch = self.arch
        q, k, v = self.q_proj(x_TD), self.k_proj(x_TD), self.v_proj(x_TD)
        if arch.qk_norm is QKNorm.FULL:
            q, k = self.q_norm(q), self.k_norm(k)
        q_TNH = q.view(-1, arch.num_attention_heads, arch.head_dim)
        k_TKH = k.view(-1, arch.num_key_value_heads, arch.head_dim)
        v_TKH = v.view(-1, arch.num_key_value_heads, arch.head_dim)
        if arch.qk_norm is QKNorm.HEAD:
            q_TNH, k_TKH = self.q_norm(q_TNH), self.k_norm(k_TKH)
        if turn is not None:
            q_TNH, k_TKH = rotate(q_TNH, *turn), rotate(k_TKH, *turn)
        if self.training and caches is None and weights is None and not arch.attn_softcap:
            joined: Tensor = self.o_proj(attend_rows(q_TNH, k_TKH, v_TKH, rows, self._attend_group))
            return joined
        out = []
        for row, (start, end) in enumerate(rows.spans):
            q_Nt, k_Kt, v_Kt = (x[start:end].transpose(0, 1) for x in (q_TNH, k_TKH, v_TKH))
            if caches is not None:
                k_Kt, v_Kt = caches[row].append(self.index, k_Kt, v_Kt)
            out.append(self._attend(q_Nt, k_Kt, v_Kt, weights, row).transpose(0, 1).reshape(end - start, -1))
        result: Tensor = self.o_proj(out[0] if len(out) == 1 else torch.cat(out))
        return result

    def _attend_group(self, q_GNtH: Tensor, k_GKtH: Tensor, v_GKtH: Tensor, rows: tuple[int, ...]) -> Tensor:
        """Rows of one length, whole, while training: `(G, heads, t, H)`."""
        arch, window, length, mask = self.arch, self.layer.window, q_GNtH.shape[2], None
        copies = q_GNtH.shape[1] // k_GKtH.shape[1]
        in_groups = copies > 1 and self.dropout.p == 0 and takes_groups(q_GNtH.device.type)
        if copies > 1 and not in_groups:
            k_GKtH, v_GKtH = (x.repeat_interleave(copies, 1) for x in (k_GKtH, v_GKtH))
        if arch.causal and (self.dropout.p > 0 or 0 < window < length):
            mask = visible(length, length, window, q_GNtH.device)
        if self.dropout.p > 0:
            shape = (arch.num_attention_heads, length, length)
            dropped, keep = self.dropout.dropped_rows(rows, shape, q_GNtH.device), 1.0 - self.dropout.p
            hidden = None if mask is None else ~mask
            return attend_with_dropout(q_GNtH, k_GKtH, v_GKtH, dropped, keep, arch.score_scale, hidden)
        more = {"enable_gqa": True} if in_groups else {}
        return F.scaled_dot_product_attention(
            q_GNtH, k_GKtH, v_GKtH, mask, is_causal=arch.causal and mask is None, scale=arch.score_scale, **more
        )

    def _attend(self, q_NtH: Tensor, k_KLH: Tensor, v_KLH: Tensor, weights: list[Tensor] | None, row: int) -> Tensor:
        arch, window = self.arch, self.layer.window
        heads, tokens, length = q_NtH.shape[0], q_NtH.shape[1], k_KLH.shape[1]
        drops = self.training and self.dropout.p > 0
        if weights is not None or arch.attn_softcap or drops:
            return self._attend_plainly(q_NtH, k_KLH, v_KLH, weights, row)
        kv_heads = k_KLH.shape[0]
        if tokens == 1:
            # one token sees all that is left, so the heads of a group are queries of one key head and need no mask
            first = max(0, length - window) if window else 0
            grouped = q_NtH.reshape(1, kv_heads, heads // kv_heads, arch.head_dim)
            out = F.scaled_dot_product_attention(
                grouped, k_KLH[None, :, first:], v_KLH[None, :, first:], scale=arch.score_scale
            )
            return out.reshape(heads, 1, arch.head_dim)
        mask = None
        if arch.causal and (tokens != length or 0 < window < length):
            mask = visible(tokens, length, window, q_NtH.device)[None]
        if kv_heads != heads:
            k_KLH, v_KLH = (x.repeat_interleave(heads // kv_heads, 0) for x in (k_KLH, v_KLH))
        is_causal = arch.causal and mask is None
        out = F.scaled_dot_product_attention(
            q_NtH[None], k_KLH[None], v_KLH[None], attn_mask=mask, is_causal=is_causal, scale=arch.score_scale
        )
        return out[0]

    def _attend_plainly(
        self, q_NtH: Tensor, k_KLH: Tensor, v_KLH: Tensor, weights: list[Tensor] | None, row: int
    ) -> Tensor:
        """The formula as it stands: what soft-caps, `output_attentions` and dropout need."""
        arch = self.arch
        group = q_NtH.shape[0] // k_KLH.shape[0]
        k_NLH, v_NLH = k_KLH.repeat_interleave(group, 0), v_KLH.repeat_interleave(group, 0)
        scores = (q_NtH @ k_NLH.transpose(1, 2)).float() * arch.score_scale
        if arch.attn_softcap:
            scores = torch.tanh(scores / arch.attn_softcap) * arch.attn_softcap
        if arch.causal:
            mask = visible(q_NtH.shape[1], k_NLH.shape[1], self.layer.window, scores.device)
            scores = scores.masked_fill(~mask, float("-inf"))
        shares = scores.softmax(-1).to(q_NtH.dtype)
        if weights is not None:
            weights.append(shares)
        return self.dropout.drop_row(shares, row) @ v_NLH


@functools.cache
def takes_groups(device_type: str) -> bool:
    """Whether torch's kernel reads a key head for a group of query heads as it is, so that no copies are kept."""
    if device_type != "cpu":
        return False
    # hooks of its own: those of a checkpointed block that runs it would count what it keeps
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda kept: kept, lambda kept: kept)
    try:
        with torch.inference_mode(False), torch.enable_grad(), hooks:
            q, k = (torch.zeros((1, heads, 1, 8), requires_grad=True, device=device_type) for heads in (2, 1))
            out = F.scaled_dot_product_attention(q, k, k, is_causal=True, enable_gqa=True)
    except TypeError:  # torch before 2.5
        return False
    return "Flash" in type(out.grad_fn).__name__


def visible(tokens: int, length: int, window: int, device: torch.device) -> Tensor:
    """`(tokens, length)`: whether each of the last `tokens` of `length` sees each token: itself and those before it."""
    behind = torch.arange(length - tokens, length, device=device)[:, None] - torch.arange(length, device=device)
    seen = behind >= 0
    return seen & (behind < window) if window else seen
