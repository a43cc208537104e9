"""FiLM HT Demucs: HT Demucs that listens to a query.

The query's condition acts in every layer of the cross-transformer after the first, in both branches, on the tokens that
attention and feed-forward part read, and once on the residual stream behind the last layer (`FilmConfig.film` "layers"; older
weights have it on the stream behind each). Then it acts on the input and the skip connection of every decoder layer: skips
carry all that the mixture holds past the transformer, so they must hear the query too.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from unisep_htdemucs.transformer import AS_THEY_ARE, Reads

from .config import FilmConfig
from .core import Core
from .film import FiLM, Projectors
from .mask import MaskHTDemucs
from .presence import Presence
from .stems import StemsHTDemucs

N_BRANCHES = 2  # frequency and time


class FilmHTDemucs(nn.Module):
    """Isolates from a mixture what each of its queries describes.

    Axes: b batch, n queries, s sources of the HT Demucs underneath, c audio channels, l samples,
    d length of the query vectors, k condition channels. What precedes the first FiLM (both encoders and
    the first pair of transformer layers) is computed once, however many queries there are.
    """

    def __init__(self, config: FilmConfig) -> None:
        super().__init__()
        self.config = config
        shape, k = config.separator, config.condition_channels
        self.core: Core = MaskHTDemucs(config) if config.output == "mask" else StemsHTDemucs(shape)
        self.projectors = Projectors(config.spaces, k)
        tokens, widths = shape.transformer_channels, shape.encoder_channels[::-1] * self.core.n_decoders
        n_inside, n_behind = (shape.t_layers - 1, 1) if config.film == "layers" else (0, shape.t_layers)
        self.film_attention = nn.ModuleList(FiLM(k, tokens) for _ in range(N_BRANCHES * n_inside))
        self.film_feed = nn.ModuleList(FiLM(k, tokens) for _ in range(N_BRANCHES * n_inside))
        self.film_tokens = nn.ModuleList(FiLM(k, tokens) for _ in range(N_BRANCHES * n_behind))
        self.film_inputs = nn.ModuleList(FiLM(k, width) for width in widths)
        self.film_skips = nn.ModuleList(FiLM(k, width) for width in widths)
        self.mix = nn.Linear(k, len(shape.sources))
        self.presence = Presence(shape, k)
        if config.gated:
            self.gate = nn.Linear(1, 1)
            nn.init.ones_(self.gate.weight)
            nn.init.constant_(self.gate.bias, 2.0)  # 1 dB down at even odds
        self.forget_query()

    def forget_query(self, source: str | None = None) -> None:
        """Make every FiLM the identity and the target one `source`, or the mean of all for None.

        With the parameters of an HT Demucs in place the model then gives that model's stem.
        """
        for module in self.modules():
            if isinstance(module, FiLM):
                module.reset()
        names = self.config.separator.sources
        shares = [1 / len(names) if source is None else float(name == source) for name in names]
        nn.init.zeros_(self.mix.weight)
        with torch.no_grad():
            self.mix.bias.copy_(torch.tensor(shares))

    def conditions(self, queries: Tensor, space: str) -> Tensor:
        """Conditions `[..., k]` of query vectors `[..., d]` of `space`."""
        out: Tensor = self.projectors.of(space)(queries)
        return out

    def forward(self, mixture: Tensor, conditions: Tensor) -> tuple[Tensor, Tensor]:
        """Targets `[b, n, c, l]` and presence `[b, n]` in log-odds, of `mixture [b, c, l]`.

        conditions: `[b, n, k]`, n queries for each item of the batch. On a CPU that only separates they are answered
        one after the other, which needs less memory and no more time.
        """
        transformer, encoded = self.core.transformer, self.core.encode(mixture)
        tokens = transformer.layer(0, *transformer.begin(*self.core.widened(encoded.x, encoded.xt)))
        together = torch.is_grad_enabled() or mixture.device.type != "cpu"
        parts = [conditions] if together else conditions.split(1, dim=1)
        powers = self.presence.powers(mixture)
        answers = [self._answered(mixture, powers, encoded, tokens, some) for some in parts]
        if len(answers) == 1:
            return answers[0]
        targets, logits = zip(*answers, strict=True)
        return torch.cat(targets, dim=1), torch.cat(logits, dim=1)

    def _answered(
        self, mixture: Tensor, powers: Tensor, encoded: Any, tokens: tuple[Tensor, Tensor], conditions: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Targets and presence as `forward` gives them, from what all queries share."""
        n_samples, n_queries = mixture.shape[-1], conditions.shape[1]
        condition = rearrange(conditions, "b n k -> (b n) k")
        x, xt = self._bottom(tokens, encoded.x.shape[2], condition, n_queries)
        films = tuple(
            partial(self._film_decoder, condition=condition, branch=branch) for branch in range(self.core.n_decoders)
        )
        targets = self.core.decode(x, xt, encoded, self.mix(condition), films)
        targets = rearrange(targets, "(b n) c l -> b n c l", n=n_queries)[..., :n_samples]
        logits: Tensor = self.presence(mixture, targets, conditions, powers)
        return targets * self._gain(logits), logits

    def _gain(self, logits: Tensor) -> Tensor | float:
        """Gains `[b, n, 1, 1]` between 0 and 1 of the targets, by the log-odds `[b, n]` that they are there."""
        if not self.config.gated:
            return 1.0
        turned: Tensor = self.gate(logits[..., None].to(self.mix.weight.dtype)).float()
        return torch.sigmoid(turned)[..., None]

    def _bottom(
        self, tokens: tuple[Tensor, Tensor], n_freqs: int, condition: Tensor, n_queries: int
    ) -> tuple[Tensor, Tensor]:
        """Both branches `[(b n), c, f, t]`, `[(b n), c, s]` after the transformer, from the tokens of its first layer."""
        transformer = self.core.transformer
        x, xt = (repeat(each, "b s c -> (b n) s c", n=n_queries) if n_queries > 1 else each for each in tokens)
        n_layers = self.config.separator.t_layers
        first_behind = n_layers - len(self.film_tokens) // N_BRANCHES
        for index in range(n_layers):
            if index:
                reads = [self._reads(index, branch, condition) for branch in range(N_BRANCHES)]
                x, xt = transformer.layer(index, x, xt, *reads)
            if index >= first_behind:
                film, film_t = self.film_tokens[N_BRANCHES * (index - first_behind) :][:N_BRANCHES]
                x, xt = film(x, condition, channel_axis=2), film_t(xt, condition, channel_axis=2)
        return self.core.narrowed(*transformer.end(x, xt, n_freqs))

    def _reads(self, index: int, branch: int, condition: Tensor) -> Reads:
        """Return what the two parts of a transformer layer make of the tokens that they read."""
        if self.config.film == "stream":
            return AS_THEY_ARE
        place = N_BRANCHES * (index - 1) + branch
        attention, feed = self.film_attention[place], self.film_feed[place]
        return partial(attention, condition=condition, channel_axis=2), partial(
            feed, condition=condition, channel_axis=2
        )

    def _film_decoder(
        self, index: int, x: Tensor, skip: Tensor, *, condition: Tensor, branch: int
    ) -> tuple[Tensor, Tensor]:
        place = branch * self.config.separator.depth + index
        return self.film_inputs[place](x, condition), self.film_skips[place](skip, condition)
