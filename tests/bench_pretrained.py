"""
How fast a model of SmolLM2's shape reads and writes, beside transformers' Llama.

    python tests/bench_pretrained.py            # about five minutes on two cores
    python tests/bench_pretrained.py --quick    # does it run? The figures mean nothing

Greedy, by untrained models in float32. To write one token, all weights are read once: the last
table says how often a second that could be done, if nothing else took time.
"""
import torch
import transformers

from bench_model import ABOUT
from bench_tokenizer import race
from model import ARCHS, GPT, GPTConfig
from sample import generate
from tokenizer import Parser

SHAPE = dict(vocab_size=49_152, context_length=8192, n_layer=30, n_head=9, n_kv_head=3, n_embd=576,
             mlp_width=1536, rotary_base=1e5, tie_embeddings=True)


def theirs():
    """transformers' Llama of the same shape."""
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=49_152, max_position_embeddings=8192, num_hidden_layers=30, hidden_size=576,
        num_attention_heads=9, num_key_value_heads=3, intermediate_size=1536, rope_theta=1e5,
        tie_word_embeddings=True, bos_token_id=0, eos_token_id=None, pad_token_id=0)).eval()


@torch.inference_mode()
def write(model, prompts, n):
    """n tokens behind each of the prompts (B, T)."""
    if isinstance(model, GPT):
        list(generate(model, prompts.tolist(), n, lambda logits: logits.argmax(dim=-1)))
    else:
        model.generate(prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=n,
                       do_sample=False)


def main():
    parser = Parser("Measure how fast a model of SmolLM2's shape reads and writes.")
    parser.add_argument("--quick", action="store_true", help="few tokens, one round")
    quick = parser.parse_args().quick
    rounds = 1 if quick else 5
    print(f"{ABOUT}, {torch.get_num_threads()} threads; medians of {rounds}")
    models = {"ours": GPT(GPTConfig(**ARCHS["llama"] | SHAPE)).eval(), "transformers": theirs()}
    for what, B, T, n in (("writing one text", 1, 6, 100), ("prefill of 4 x 256 tokens", 4, 256, 1),
                          ("ten chats together", 10, 64, 40)):
        T, n = (T, n) if not quick else (8, min(n, 3))
        prompts = torch.randint(SHAPE["vocab_size"], (B, T))                # (B, T)
        runs = {name: lambda m=m: write(m, prompts, n) for name, m in models.items()}
        race(what, runs, rounds, "transformers", B * (n if n > 1 else T), "tokens/s")
    weights = [*models["ours"].parameters()]
    with torch.inference_mode():
        race(f"reading {4e-6 * sum(p.numel() for p in weights):,.0f} MB of weights", {
            "their sum": lambda: [p.sum() for p in weights]}, rounds, "their sum", 1, "a second")


if __name__ == "__main__":
    main()
