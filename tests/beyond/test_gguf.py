"""GGUF: the blocks and the file, against the package gguf; a whole Llama through one."""
import json

import numpy as np
import pytest
import torch

from beyond import gguf as ours
from conftest import TEXT, inside, one_line
from sample import load_run
from test_pretrained import publish_llama, same

gguf = pytest.importorskip("gguf")
KINDS = {kind: getattr(gguf.GGMLQuantizationType, name) for kind, (name, *_) in ours.TYPES.items()}


def write(path, theirs, bpe, kinds=KINDS, arch="llama", pre="smollm"):
    """A Llama of theirs as llama.cpp's converter writes it, with matrices of all kinds in turn."""
    c, writer = theirs.config, gguf.GGUFWriter(path, arch)
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_block_count(c.num_hidden_layers)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_rope_freq_base(500.0)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_tokenizer_pre(pre)
    words = sorted(bpe.get_vocab(), key=bpe.token_to_id)
    writer.add_token_list(words)
    writer.add_token_types([3] * 3 + [1] * (len(words) - 3))
    merges = json.loads(bpe.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_eos_token_id(2)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, c.num_hidden_layers)
    for i, (name, p) in enumerate(theirs.named_parameters()):
        x, kind = p.detach(), KINDS[0] if p.dim() < 2 else [*kinds.values()][i % len(kinds)]
        packed = gguf.quants.quantize(x.numpy(), kind)
        p.data.copy_(torch.from_numpy(gguf.quants.dequantize(packed, kind)))
        if "q_proj" in name or "k_proj" in name:        # rows in pairs, as llama.cpp turns them
            H = c.num_attention_heads if "q_proj" in name else c.num_key_value_heads
            packed = packed.reshape(H, 2, -1, packed.shape[-1]).swapaxes(1, 2).reshape(packed.shape)
        writer.add_tensor(names.get_name(name, (".weight",)), packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def made(tmp_path):
    theirs, bpe = publish_llama(tmp_path)
    write(tmp_path / "it.gguf", theirs, bpe)
    return tmp_path, theirs, bpe


def test_it_computes_what_transformers_does(made):
    cwd, theirs, bpe = made
    inside("beyond.pretrained", "it.gguf", "--name", "it", cwd=cwd)
    model, tokenizer = load_run(cwd / "runs/it")
    same(model, theirs)
    assert tokenizer.encode(TEXT) == bpe.encode(TEXT).ids and tokenizer.eot == 0


def test_every_number_is_the_packages(made):
    cwd, _, _ = made
    raw, found = ours.read_raw(cwd / "it.gguf"), set()
    fields, tensors = ours.parse(raw)
    reader = gguf.GGUFReader(cwd / "it.gguf")
    for tensor in reader.tensors:
        shape, kind, at = tensors[tensor.name]
        expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(shape)
        np.testing.assert_array_equal(ours.weights(raw, tensor.name, shape, kind, at), expected)
        found.add(kind)
    assert found == {*ours.TYPES} and len(tensors) == len(reader.tensors) == 21
    assert fields == {key: field.contents() for key, field in reader.fields.items()
                      if not key.startswith("GGUF.")}
    assert "Q4_1" in inside("beyond.gguf", "it.gguf", cwd=cwd)


def test_what_is_not_read_is_one_line(made):
    cwd, theirs, bpe = made
    whole = (cwd / "it.gguf").read_bytes()
    says = lambda: one_line("beyond.pretrained", "bad.gguf", cwd=cwd)   # noqa: E731
    for n in (0, 3, 20, 300, len(whole) // 2, len(whole) - 40):
        (cwd / "bad.gguf").write_bytes(whole[:n])
        assert "bad.gguf is no GGUF file, is not whole" in says()
    for n in range(4, 4000, 97):        # damaged anywhere: a run, or one line
        (cwd / "bad.gguf").write_bytes(whole[:n] + b"\xff" * 4 + whole[n + 4:])
        try:
            ours.read(cwd / "bad.gguf")
        except ValueError as error:
            assert "bad.gguf" in str(error) and "\n" not in str(error)
    for kinds, arch, pre, said in (({9: gguf.GGMLQuantizationType.Q5_1}, "llama", "smollm", "type 7"),
                                   (KINDS, "qwen2", "smollm", "architecture is qwen2"),
                                   (KINDS, "llama", "qwen2", "split as for qwen2")):
        write(cwd / "bad.gguf", theirs, bpe, kinds, arch, pre)
        assert said in says()
    assert not (cwd / "runs").exists()
