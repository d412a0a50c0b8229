"""The loop that most people copy: a small decoder in plain PyTorch, recorded by the five lines of the guide.

Two layers, dropout, two micro-batches per update, a schedule with warmup, clipping, and an evaluation inside the loop.
Nothing tells the recorder the size of the vocabulary, what the batches are, or that a batch is bad.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from postmortem.record import Recorder

BATCH, CONTEXT, WIDTH, HEADS, LAYERS, ACCUMULATE, EVAL_EVERY, WARMUP = 16, 16, 32, 4, 2, 2, 40, 20
LR, DROPOUT, CLIP = 3e-3, 0.1, 1.0
GARBAGE, RARE, REPEAT, CLEAN = "garbage", "rare", "repeat", "clean"
REPEATS = 12  # steps for which the loader serves the same batch


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2, self.drop = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), nn.Dropout(DROPOUT)
        self.attn, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        heads = [part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in self.attn(self.ln_1(x)).chunk(3, -1)]
        mixed = F.scaled_dot_product_attention(*heads, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.drop(self.proj(mixed))
        return x + self.drop(self.mlp(self.ln_2(x)))


class Decoder(nn.Module):
    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.wte, self.wpe, self.drop = (
            nn.Embedding(vocabulary, WIDTH),
            nn.Embedding(CONTEXT, WIDTH),
            nn.Dropout(DROPOUT),
        )
        self.h, self.ln_f = nn.ModuleList(Block() for _ in range(LAYERS)), nn.LayerNorm(WIDTH)
        self.lm_head = nn.Linear(WIDTH, vocabulary, bias=False)

    def forward(self, ids: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        x = self.drop(self.wte(ids) + self.wpe(torch.arange(ids.shape[1])))
        for block in self.h:
            x = block(x)
        logits = self.lm_head(self.ln_f(x))
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def text(vocabulary: int, seed: int, length: int = 40_000) -> Tensor:
    """Token ids, int64[length]: tokens by Zipf's law, each with four usual followers."""
    rng = np.random.default_rng(seed)
    law = 1 / (np.arange(vocabulary) + 2.0)
    followers = rng.choice(vocabulary, (vocabulary, 4), p=law / law.sum())
    which = rng.choice(4, length, p=(0.6, 0.2, 0.12, 0.08))
    strays = np.where(rng.random(length) < 0.05, rng.choice(vocabulary, length, p=law / law.sum()), -1)
    ids = [0]
    for choice, stray in zip(which[1:].tolist(), strays[1:].tolist(), strict=True):
        ids.append(stray if stray >= 0 else int(followers[ids[-1], choice]))
    return torch.tensor(ids)


def train(run: Path, fault: str, seed: int = 0, at: int = 110, steps: int = 160, vocabulary: int = 65) -> None:
    """Train for `steps` updates; at step `at` the data is at fault."""
    torch.manual_seed(seed)
    draw = torch.Generator().manual_seed(seed + 1)
    corpus = text(vocabulary, seed)
    border = len(corpus) * 9 // 10
    rarest = torch.bincount(corpus, minlength=vocabulary).argsort()[:2]
    model = Decoder(vocabulary)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.95), weight_decay=0.1)

    def get_batch(low: int, high: int) -> Tensor:
        starts = torch.randint(low, high - CONTEXT - 1, (BATCH, 1), generator=draw)
        return corpus[starts + torch.arange(CONTEXT + 1)]

    def training_batch(step: int, last: list[Tensor], micro: int) -> Tensor:
        ids = get_batch(0, border)
        if fault == REPEAT and at <= step < at + REPEATS:
            return last[micro]
        if fault == GARBAGE and step == at:
            return torch.randint(vocabulary, ids.shape, generator=draw)
        if fault == RARE and step == at:
            rare = rarest[torch.randint(len(rarest), ids.shape, generator=draw)]
            return torch.where(torch.rand(ids.shape, generator=draw) < 0.25, rare, ids)
        return ids

    parts: list[Tensor] = []
    with Recorder(run, config={"lr": LR, "seed": seed}) as rec:
        watch = rec.watch(model, optimizer)
        for step in range(steps):
            lr = LR * min(1.0, (step + 1) / WARMUP) * (0.55 + 0.45 * math.cos(math.pi * step / steps))
            for group in optimizer.param_groups:
                group["lr"] = lr
            parts = [training_batch(step, parts, micro) for micro in range(ACCUMULATE)]
            rec.batch(step, torch.cat(parts), index=step)
            optimizer.zero_grad()
            mean_loss = torch.zeros(())
            for ids in parts:
                logits, loss = model(ids[:, :-1], ids[:, 1:])
                watch.logits(logits, ids[:, 1:])
                (loss / ACCUMULATE).backward()
                mean_loss += loss.detach() / ACCUMULATE
            grad_norm = nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            rec.log(step, loss=mean_loss, grad_norm=grad_norm, lr=lr)
            if step % EVAL_EVERY == 0:
                model.eval()
                with torch.no_grad():
                    held_out = [get_batch(border, len(corpus)) for _ in range(4)]
                    losses = [model(ids[:, :-1], ids[:, 1:])[1] for ids in held_out]
                rec.log(step, eval_loss=torch.stack(losses).mean())
                model.train()
