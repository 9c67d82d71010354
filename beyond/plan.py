"""
Plan: what it takes to train a large model on many GPUs, worked out before one is rented.

    does it fit?     weights, gradients and AdamW's states are 16 bytes a parameter (bfloat16 2 + 2,
                     float32 weights and two means 4 + 4 + 4); beside them lie the activations
    does it wait?    the bytes a GPU sends in a step, over the bandwidth of its link, against the
                     time it computes; well done, most of the one is hidden behind the other
    how long?        the FLOPs of all tokens, over what a GPU really does: a share of its peak

    python -m beyond.plan                               # 7B and 70B on 8 and on 512 GPUs
    python -m beyond.plan --gpu H100 --across 50        # newer GPUs, and a faster network

A layout is tensor x pipeline x data. Tensor ranks sit in one machine, as each product waits for
their messages; the others in many. Every layout here computes each block again in backward
(activation checkpointing), and reads one text at a time. Then what is known of two published runs:
the share of the peak that they reached. per_rank() has the formulas of beyond/parallel.py's ways;
its tests hold them against what ranks keep and send.

Papers: Llama 2 (Touvron et al., 2023); OLMo (Groeneveld et al., 2024); ZeRO (Rajbhandari et al.,
2020), for the 16 bytes.
"""
import json
import math
from dataclasses import replace

from beyond.anatomy import PEAK, activations, block_matrices, flops_per_token, parameters
from beyond.tensor import cut_config
from model import ARCHS, GPTConfig
from tokenizer import Parser, clear_errors


def per_rank(way, c, B, T, R, rank=0, M=1):
    """How many numbers rank r of R keeps and sends in a step of B texts of T tokens, by each way:
    weights, activations, sent. Gradients are as many as weights, AdamW's means twice as many."""
    R = 1 if way == "alone" else R
    n, L, C, ring, x = parameters(c), c.n_layer, c.n_embd, (R - 1) / R, B * T * c.n_embd
    total, norm = sum(n.values()), C * (1 + (c.bias and c.norm == "layernorm"))
    qkv = (c.n_head + 2 * c.n_kv_head) * c.head_size
    up = c.mlp_width * (2 if c.activation == "swiglu" else 1)
    block = block_matrices(c) + 2 * norm + c.bias * (qkv + up + 2 * C)
    rest = total - L * block
    if way in ("alone", "data"):
        return total, activations(c, B / R, T), 2 * ring * total
    if way == "sharded":        # a row of numbers is filled up to a multiple of R
        blocks, other = L * math.ceil(block / R), math.ceil(rest / R)
        kept = activations(replace(c, activation_checkpointing=True), B / R, T) + rest
        return blocks + other, kept, (R - 1) * (3 * blocks + 2 * other)
    if way == "tensor":
        part = cut_config(c, R)
        once = (2 * L + 1) * norm + n["position table"] + c.bias * (rank == 0) * L * 2 * C
        split = total - (2 * L + 1) * norm - n["position table"] - c.bias * L * 2 * C
        kept = activations(part, B, T) - L * (x - x / R)        # of the heads' results, 1/R
        return split / R + once, kept, 2 * ring * (x * (4 * L + 1 + c.ngram) + 3 * B * T)
    stages = [L * (r + 1) // R - L * r // R for r in range(R)]
    first, last, table = rank == 0, rank == R - 1, C * c.vocab_size
    ends = first * (rest - norm - table * (not c.tie_embeddings)) + last * (norm + table)
    top = activations(replace(c, n_layer=0), B / M, T)          # of the last norm and the logits
    each = activations(replace(c, n_layer=1), B / M, T) - top
    held = M if way == "gpipe" else min(M, R - rank)            # micro-batches
    tied = table * (c.tie_embeddings and (first or last))
    sent = x * ((not first) + (not last)) + tied
    return stages[rank] * block + ends, held * (stages[rank] * each + last * top), sent

