"""The chapters, too: bad input is exit code 2 and one line, and no file changes."""
import json
import os
import shutil

import pytest
import torch

from beyond.chat import END, START
from conftest import TEXT
from sample import make_model
from test_hostile import (BEST, CONFIG, DEEP, ELSEWHERE, FOLDER, LAST, MANY, META, TOKENS, damage,
                          here, put, refused, rows, table, template)     # noqa: F401, fixtures
from tokenizer import BPETokenizer

METRICS = "runs/first/metrics.jsonl"
MORE = {"bad.csv": 'text\n"open', "two.csv": "text,b\nx\n", "no.csv": "body\nx\n",
        "theirs/config.json": json.dumps(dict(vocab_size=300, n_embd=16, n_layer=1, n_head=2,
                                              n_positions=8)),
        "theirs/vocab.json": "{}", "theirs/merges.txt": "", "theirs/model.safetensors": "x" * 99,
        "long.txt": TEXT, "bad.gguf": "GGUF\3", "few.tsv": "a\tb\n",
        "few.jsonl": '{"question": "1?", "solution": "1", "answer": "1"}\n' * 3
                     + '{"problem": "2?", "solution": "\\\\boxed{2}"}',
        "bare.jsonl": '{"problem": "2?", "solution": "\\\\boxed{2"}',
        "quiz/test/x_test.csv": "Why?,a,b,c,d,A\n", "cut/test/x_test.csv": "Why?,a,b,c,d\n",
        "half/test/x_test.csv": "Why?,a,b,c,d,A\n", "half/dev/x_dev.csv": "Why?,a,b,c,d,?\n",
        "he/HumanEval.jsonl": json.dumps(dict(task_id="0", prompt="1", entry_point="f", test="x")),
        "one.csv": "text,label\n" + "".join(f"{n},a\n" for n in range(99)),
        "good.csv": "text,label\n" + "".join(f"{n},{'ab'[n % 2]}\n" for n in range(199)),
        "say.json": '[{"instruction": "a", "output": "b"}]', "mute.jsonl": '{"instruction": "a"}',
        "none.json": '{"data": []}', "half-said.json": '[{"instruction": "a", "output": "\\ud83d"}]'}


@pytest.fixture
def there(here):        # noqa: F811
    for name, content in MORE.items():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(content)
    talks, words = shutil.copytree(here / "runs/first", here / "runs/talks"), BPETokenizer.train([], 257)
    BPETokenizer([*words.vocab, START, END]).save(talks / "tokenizer.json")
    config = json.loads((here / CONFIG).read_text())
    config["model"] |= {"vocab_size": 259, "context_length": 100}
    (talks / "config.json").write_text(json.dumps(config))
    torch.save({"model": make_model(config["model"]).state_dict()}, talks / "best.pt")
    for path in talks.glob("*.pt"):
        os.utime(path, (0, 0))      # the newest run is another
    return here


@pytest.mark.slow
@pytest.mark.parametrize("command, says", rows(f"""
    ingest -> SOURCE
    ingest "" -> ''
    ingest nowhere -> nowhere
    ingest no*.md -> no*.md
    ingest empty -> empty
    ingest loop -> loop
    ingest lost.txt -> lost.txt
    ingest empty.txt -> empty.txt
    ingest blank.txt -> blank.txt
    ingest latin.txt -> latin.txt, line 1: the byte 0xe9
    ingest binary.bin -> binary.bin
    ingest no.txt.gz -> no.txt.gz
    ingest cut.txt.gz -> cut.txt.gz
    ingest rot.txt.gz -> rot.txt.gz
    ingest no.jsonl -> line 2 is not JSONL
    ingest none.jsonl -> body: str
    ingest list.jsonl -> list
    ingest number.jsonl -> text: int
    ingest null.jsonl -> text: NoneType
    ingest deep.jsonl -> deep.jsonl
    ingest half.jsonl -> half a character
    ingest bad.csv -> bad.csv
    ingest two.csv -> two.csv
    ingest no.csv -> body: str
    ingest text.txt --encoding utf-16 -> --encoding
    ingest text.txt --encoding rot13 -> rot13
    ingest text.txt --field text -o "" -> -o
    ingest text.txt --field body -> --field
    ingest text.txt --undecodable drop -> --undecodable
    ingest text.txt -o text.txt -> text.txt
    ingest short.txt -o text.txt -> text.txt
    ingest short.txt -o text.txt/new -> text.txt
    ingest text.txt latin.txt -o new -> latin.txt
    ingest text.txt latin.txt -o new/and/newer -> latin.txt
    ingest text.txt cut.txt.gz -o empty -> cut.txt.gz
    ingest bad -o bad -> be one of the sources
    ingest text.txt --redact -> --redact
    clean nowhere -> nowhere
    clean bad -o new -> bad/b.txt
    clean blank.txt -o new -> no text
    clean text.txt -o text.txt -> text.txt
    clean text.txt --redact-except email -> no use without --redact
    clean text.txt --redact --redact-except mail -> mail
    clean text.txt --nfc 1 -> 1
    clean --redact -> SOURCE
    overlap nowhere -> nowhere
    overlap bad --near -o new -> bad/b.txt
    overlap --near -> near
    overlap text.txt -o "" -> -o
    overlap --leaks "" -> no whole corpus
    overlap --leaks nowhere -> nowhere
    overlap --leaks text.txt -> text.txt
    overlap --leaks no-meta -> no-meta
    overlap --leaks corpus --near -> near
    ngram nowhere -> nowhere
    ngram text.txt -> text.txt
    ngram no-meta -> no-meta
    ngram corpus --run first -> --run
    ngram corpus --order 0 -> order
    ngram corpus --order -1 -> order
    ngram corpus --order 7 -> order
    ngram corpus --order {MANY} -> order
    ngram corpus --order nan -> --order
    ngram --run -> --run
    ngram --run nobody -> nobody
    ngram --run first nobody -> nobody
    ngram --run bare -> bare
    ngram --source nowhere -> nowhere
    ngram --source one.txt -> too little text
    ngram corpus --source text.txt -> --source
    curves -> RUN
    curves nobody -> nobody
    curves first nobody -> nobody
    curves first --out text.txt -> text.txt
    curves first --out "" -> .png
    curves first --out nowhere/x.png -> nowhere/x.png
    curves first --out text.txt/x.png -> text.txt/x.png
    curves first --out {BEST} -> best.pt
    curves first --out {"y" * 300}.png -> yyy
    curves first --against time -> --against
    ablation --steps 0 -> steps
    ablation --steps many -> --steps
    ablation --source nowhere --out x.png -> nowhere
    ablation --source bad --out x.png -> bad/b.txt
    ablation --n-layers 3 --out x.png -> --n-layers
    ablation --n-embd 17 --source text.txt --out x.png -> n_embd
    ablation --learning-rate 1 -> --learning-rate
    ablation --resume -> --resume
    ablation --device tpu --out x.png -> tpu
    ablation --device {ELSEWHERE} --out x.png -> {ELSEWHERE}
    ablation --out nowhere/x.png -> nowhere/x.png
    ablation --out text.txt -> text.txt
    ablation text.txt --out x.png -> text.txt
    bootstrap nobody -> nobody
    bootstrap first --out nowhere/x.png -> nowhere/x.png
    bootstrap first --out text.txt -> text.txt
    bootstrap first --out "" -> .png
    bootstrap first --out x.png --text nowhere.txt -> nowhere.txt
    bootstrap first --out x.png --text one.txt -> one.txt
    bootstrap first --out x.png --text blank.txt -> blank.txt
    bootstrap first --out x.png --text binary.bin -> binary.bin
    memorised "" -> no text
    memorised a --tokens 0 -> --tokens
    memorised --run first --tokens -1 -> --tokens
    memorised --run nobody -> nobody
    memorised --file nowhere.txt -> nowhere.txt
    memorised --file empty.txt -> no text
    memorised --file latin.txt -> latin.txt
    memorised a --source nowhere -> nowhere
    memorised a --run first --source text.txt -> source
    memorised a --run first --vocab-size 5 -> vocab_size
    ngram --run first --tokenizer char -> --run
    ngram "" -> no whole corpus
    memorised "a\udcff" --run first -> surrogate
    probabilities nobody -> nobody
    probabilities --top-p 0 -> --top-p
    probabilities --top-p nan -> top_p
    probabilities --min-p 2 -> --min-p
    probabilities --temperature -1 -> temperature
    probabilities --repetition-penalty 0 -> penalty
    probabilities --repetition-penalty nan -> penalty
    probabilities --repetition-penalty inf -> penalty
    probabilities --tokens 0 -> tokens
    probabilities --seed {2 ** 64} -> seed
    probabilities --prompt "a\udcff" -> surrogate
    probabilities --json -> --json
    probabilities --text "" -> not empty
    probabilities --text a --plot -> --prompt
    probabilities --text binary.bin -> binary.bin
    probabilities --text blank.txt -> not empty
    anatomy --n-embd 0 -> n_embd
    anatomy --n-embd 17 -> n_embd
    anatomy --n-embd {10 ** 17 * 8} -> overflow
    anatomy --n-layer {2 ** 64} -> n_layer
    anatomy --batch-size 0 -> batch_size
    anatomy --batch-size {10 ** 18} -> overflow
    anatomy --context-length {10 ** 18} -> overflow
    anatomy --dropout nan -> dropout
    anatomy --arch bert -> --arch
    anatomy --gpu Z80 -> --gpu
    anatomy --attention first -> --attention
    anatomy --attention nobody text -> nobody
    anatomy --attention first "a\udcff" -> surrogate
    anatomy --attention first "" -> no text
    anatomy --utilisation nobody -> nobody
    playground nobody -> nobody
    playground bare -> bare
    playground first --port many -> --port
    playground first --port 65536 -> 0-65535
    playground first --port -1 -> 0-65535
    playground first --device cpu -> --device
    pretrained -> model
    pretrained nowhere -> nowhere
    pretrained text.txt -> text.txt
    pretrained empty -> empty
    pretrained theirs --name first -> first
    pretrained theirs --name a/b -> a/b
    pretrained theirs --name .. -> ..
    pretrained theirs --context-length 9 -> 8 positions
    pretrained theirs --context-length -1 -> 8 positions
    pretrained theirs -> vocab.json
    pretrained bad.gguf -> bad.gguf
    pretrained nowhere.gguf -> nowhere.gguf
    gguf -> file
    gguf nowhere.gguf -> nowhere.gguf
    gguf text.txt -> text.txt is no GGUF
    gguf bad.gguf -> bad.gguf is no GGUF
    gguf empty -> empty
    bytelevel first -> file
    bytelevel nobody x.json -> nobody
    bytelevel first nowhere/x.json -> nowhere
    counterparts nobody -> nobody
    counterparts first -> not even
    export first -> folder
    export nobody new -> nobody
    export first new -> relu2
    export first empty -> empty is there
    export first text.txt -> text.txt is there
    export first "" -> is there
    chat nobody -> nobody
    chat first --tokens 0 -> tokens
    chat first --prompt a -> --prompt
    chat first --samples 2 -> --samples
    chat first --system a -> never taught
    chat first --system "a\udcff" -> surrogate
    chat first --tokens {MANY} -> tokens
    chat first --device tpu -> tpu
    sharded --steps many -> --steps
    sharded --preset x -> --preset
    sharded --device tpu -> torchrun
    sharded text.txt -> text.txt
    sharded --data corpus --device cpu -> torchrun
    recurrent --steps 0 -> steps
    recurrent --steps many -> --steps
    recurrent --source nowhere -> nowhere
    recurrent --source bad -> bad/b.txt
    recurrent --source text.txt --tokenizer char --context-length 9999 -> context-length
    recurrent --n-embd 17 -> n_embd
    recurrent --out nowhere/x.png -> nowhere/x.png
    recurrent --out text.txt -> text.txt
    recurrent --device tpu -> tpu
    recurrent --prompt x -> --prompt
    recurrent --write nobody -> nobody
    recurrent --write first -> no recurrent network
    recurrent --write first --temperature -1 -> temperature
    recurrent --write first --steps 3 -> --steps
    recurrent --write first --prompt "a\udcff" -> surrogate
    latex -> answers
    latex 1 -> two answers
    latex 1 2 3 -> two answers
    maths -> run
    maths nobody -> nobody
    maths first --data nowhere -> nowhere
    maths first --data empty -> empty has 0 problems
    maths first --data text.txt -> text.txt
    maths first --data latin.txt -> latin.txt
    maths first --data deep.jsonl -> deep.jsonl
    maths first --data list.jsonl -> list.jsonl, line 1
    maths first --data number.jsonl -> number.jsonl, line 1
    maths first --data half.jsonl -> half.jsonl, line 1
    maths first --data few.jsonl -> 2 problems
    maths first --data bare.jsonl -> bare.jsonl, line 1 has no answer
    maths first --shots 9 -> --shots
    maths first --shots -1 -> --shots
    maths first --tokens 0 -> --tokens
    maths first --questions -1 -> other numbers
    maths first --questions many -> --questions
    maths first --seed -1 -> other numbers
    maths first --device tpu -> tpu
    arena -> no votes
    arena first -> two different runs
    arena first first -> two different runs
    arena first nobody -> nobody
    arena first --judge nobody -> nobody
    arena --judge first -> two different runs
    arena first --prompts nowhere.txt -> nowhere.txt
    arena first --prompts blank.txt -> prompts
    arena first --prompts latin.txt -> latin.txt
    arena first --prompt a -> --prompt
    arena first --tokens 0 -> tokens
    arena first --temperature -1 -> temperature
    translate --steps 0 -> steps
    translate --steps many -> --steps
    translate --pairs nowhere.tsv -> nowhere.tsv
    translate --pairs text.txt -> text.txt, line 1
    translate --pairs empty.txt -> empty.txt, line 1
    translate --pairs latin.txt -> latin.txt
    translate --pairs cut.txt.gz -> cut.txt.gz
    translate --pairs few.tsv -> few.tsv has too few pairs
    translate --pairs "" -> no file
    translate "" -> empty
    translate 123456789 -> longer
    translate "a\udcff" -> surrogate
    translate --out text.txt -> text.txt
    translate --out nowhere/x.png -> nowhere/x.png
    translate --device cpu -> --device
    sandbox nowhere.py -> nowhere.py
    sandbox empty -> empty
    sandbox latin.txt -> latin.txt
    sandbox one.txt two.txt -> two.txt
    sandbox --walls -> --walls
    humaneval -> run
    humaneval nobody -> nobody
    humaneval first --data nowhere -> nowhere
    humaneval first --data empty -> empty
    humaneval first --data he --questions -1 -> --questions
    humaneval first --data he --questions many -> --questions
    humaneval first --data he --samples 0 -> samples
    humaneval first --data he --samples 2 --temperature 0 -> --temperature
    humaneval first --data he --temperature nan -> temperature
    humaneval first --data he --tokens 0 -> tokens
    humaneval first --data he --batch 0 -> --batch
    humaneval first --data he --seed -1 -> seed
    humaneval first --data he --device tpu -> tpu
    masked text -> no [MASK]
    masked "" -> no [MASK]
    masked "[MASK] \udcff" -> surrogate
    mmlu nobody -> nobody
    mmlu first --data nowhere -> nowhere/test
    mmlu first --data text.txt -> text.txt/test
    mmlu first --data empty --json -> empty/test
    mmlu first --data cut -> x_test.csv cannot be read: question 1
    mmlu first --data quiz -> quiz/dev/x_dev.csv
    mmlu first --data half -> x_dev.csv cannot be read: question 1
    mmlu first --data half --shots 6 -> --shots
    mmlu first --data half --questions -1 -> --questions
    mmlu first --data half --questions many -> --questions
    mmlu first --data half --device tpu -> tpu
    exams nobody -> nobody
    exams first nobody -> nobody
    exams first --exams chess -> chess
    download smollm3 -> smollm3
    exams first --exams mmlu --data nowhere -> nowhere/mmlu is not there
    exams first --questions -1 -> --questions
    exams first --seed -1 -> --seed
    exams first --device tpu -> tpu
    masked --steps 0 -> steps
    masked --n-embd 17 --source text.txt --tokenizer char -> n_embd
    masked --source nowhere -> nowhere
    masked --source text.txt --tokenizer char --context-length 9999 -> context-length
    masked --compare nobody -> nobody
    masked --out text.txt -> text.txt
    masked --device tpu -> tpu
    tweets text.txt -> text.txt
    tweets --task nowhere.csv -> nowhere.csv
    tweets --task "" -> cannot be read
    tweets --task loop -> loop
    tweets --task empty -> empty
    tweets --task empty.txt -> 0 labels
    tweets --task latin.txt -> latin.txt
    tweets --task binary.bin -> binary.bin
    tweets --task bad.csv -> bad.csv
    tweets --task two.csv -> two.csv
    tweets --task no.csv -> --columns
    tweets --task one.csv -> 1 labels
    tweets --task good.csv --columns text body -> --columns
    tweets --task good.csv --columns text text -> 199 labels
    tweets --task good.csv --columns text -> --columns
    fewshot -> run
    fewshot nobody -> nobody
    fewshot first --task nowhere.csv -> nowhere.csv
    fewshot first --task one.csv -> 1 labels
    fewshot first --task good.csv -> no question fits
    fewshot first --task good.csv --shots -1 -> --shots
    fewshot first --task good.csv --shots 999 -> --shots
    fewshot first --task good.csv --shots -> --shots
    fewshot first --task good.csv --shots few -> --shots
    fewshot first --task good.csv --draws 0 -> --draws
    fewshot first --task good.csv --questions -1 -> others
    fewshot first --task good.csv --seed -1 -> others
    fewshot first --task good.csv --out text.txt -> text.txt
    fewshot first --task good.csv --out nowhere/x.png -> nowhere/x.png
    fewshot first --task good.csv --device tpu -> tpu
    answers nobody x y -> nobody
    answers first "" -> answers
    answers first bottle "" -> empty
    answers first bottle 12345678901234567890 -> context
    answers first "a\udcff" x -> surrogate
    learn first -> first
    lora nobody --source text.txt -> nobody
    lora first -> --source
    lora first --source nowhere -> nowhere
    lora first --source empty.txt --window 8 -> empty.txt
    lora first --source text.txt --window 17 -> --window 17
    lora first --source text.txt --window 0 -> --window 0
    lora first --source text.txt --rank 0 -> rank
    lora first --source text.txt --targets head -> --targets
    lora first --source text.txt --ranks 4 0 -> rank
    lora first --source text.txt --name first -> taken
    lora first --source text.txt --name "" -> no name
    lora first --source text.txt --name a/b -> no name
    lora first --source text.txt --device tpu -> tpu
    lora first --adapter nowhere -> nowhere
    lora first --adapter runs/first -> no adapter
    bag --task one.csv -> 1 labels
    bag first -> first
    classify nobody -> nobody
    classify first --task nowhere.csv -> nowhere.csv
    classify first --task one.csv -> 1 labels
    classify first --task good.csv --ways guess -> --ways
    classify first --task good.csv --ways full --steps 0 -> steps
    classify first --task good.csv --name first -> taken
    classify first --task good.csv --name a/b -> no name
    classify first --task good.csv --window 0 -> --window
    classify first --task good.csv --questions -1 -> --questions
    classify first --task good.csv --rank 0 -> rank
    classify first --task good.csv --device tpu -> tpu
    packing nobody -> nobody
    packing first --file nowhere.txt -> nowhere.txt
    packing first --file empty -> empty
    packing first --file empty.txt -> no paragraph
    packing first --window 0 -> --window
    packing first --window 17 -> --window
    instruct -> run
    instruct first -> --data
    instruct nobody --data say.json -> nobody
    instruct first --data "" -> directory
    instruct first --data nowhere.json -> nowhere.json
    instruct first --data empty -> empty
    instruct first --data empty.txt -> two tokens
    instruct first --data latin.txt -> latin.txt
    instruct first --data binary.bin -> binary.bin
    instruct first --data no.jsonl -> no.jsonl
    instruct first --data list.jsonl -> list.jsonl
    instruct first --data none.jsonl -> example 1
    instruct first --data mute.jsonl -> instruction
    instruct first --data half-said.json -> surrogate
    instruct first --data deep.jsonl -> deep.jsonl
    instruct first --data say.json -> two tokens
    instruct first --data say.json --name first --lora 8 -> first is taken
    instruct first --data say.json --name .. -> ..
    instruct first --data say.json --name a/b -> a/b
    instruct first --data say.json --lora 0 -> rank
    instruct first --data say.json --lora many -> --lora
    instruct first --data say.json --window 0 -> --window
    instruct first --data say.json --window 17 -> --window
    instruct first --data say.json --steps 0 -> steps
    instruct first --data say.json --learning-rate nan -> learning_rate
    instruct first --data say.json --rank 8 -> --rank
    instruct first --data say.json --device tpu -> tpu
    distill -> RUN
    distill nobody -> nobody
    distill bare -> bare
    distill first --source nowhere -> nowhere
    distill first --source bad -> bad/b.txt
    distill first --steps 0 -> steps
    distill first --n-head 3 -> n_embd
    distill first --temperature 0 -> --temperature
    distill first --temperature nan -> --temperature
    distill first --temperature 1 inf -> --temperature
    distill first --mix 0 -> --mix
    distill first --mix 0.5 1.1 -> --mix
    distill first --mix nan -> --mix
    distill first --context-length 17 -> 16 tokens
    distill first --name a/b -> a/b
    distill first --name "" -> --name
    distill first --name .. -> ..
    distill first --device tpu -> tpu
    forgetting -> RUN
    forgetting nobody --source text.txt -> nobody
    forgetting first --source text.txt --window 0 -> window
    forgetting first --source text.txt --replay 0 -> replay
    forgetting first --source text.txt --steps many -> --steps
    forgetting first --source text.txt --learning-rate nan -> learning_rate
    forgetting first --source nowhere -> nowhere
    forgetting first --source text.txt --old nowhere -> nowhere
    forgetting first --source one.txt -> too little text
    forgetting first --source text.txt --out text.txt -> text.txt
    forgetting first --source text.txt --name a/b -> a/b
    forgetting first --source text.txt --name .. -> ..
    forgetting first --source text.txt --device tpu -> tpu
    parallel nobody -> nobody
    parallel alone -> alone
    parallel --steps 0 -> steps
    parallel --steps many -> --steps
    parallel --learning-rate nan -> learning_rate
    parallel --n-embd 17 --source text.txt -> n_embd
    parallel --micro-batches 3 --source text.txt -> micro_batches
    parallel --dropout 0.1 --source text.txt -> --dropout
    parallel --resume -> --resume
    parallel --source text.txt -> torchrun
    wire 1 -> 1
    wire -> torchrun
    tensor --ranks 3 -> 3 ranks
    tensor --ranks 0 -> 0 ranks
    tensor --arch gpt5 -> gpt5
    pipeline --ranks 0 -> --ranks
    pipeline --micro-batches 65 -> --micro-batches
    plan 7B -> 7B
    plan --gpus 7 -> --gpus
    plan --gpus 0 -> --gpus
    plan --gpus many -> --gpus
    plan --gpus 4096 -> --batch
    plan --gpu TPU -> --gpu
    plan --share 0 -> --share
    plan --across nan -> --across
    plan --texts -1 -> --texts
    exercises models -> models
    exercises "" -> no file of the road
    exercises --start text.txt -> text.txt is there
    exercises --start "" -> is there
    exercises --start empty -> empty is there
    exercises --start nowhere/my.py -> nowhere/my.py
    exercises model --start -> --start
    exercises --begin my.py -> --begin
    retrieve -> name notes
    retrieve text.txt --ask x -> no runs/smollm2
    retrieve text.txt --ask x --run nobody -> nobody
    retrieve text.txt --ask x --run first -> cannot chat
    retrieve text.txt --ask x --run talks --chunks 0 -> --chunks
    retrieve text.txt --ask x --run talks --by smell -> --by
    retrieve text.txt --ask "a\udcff" --run talks -> surrogate
    retrieve text.txt --ask {"x" * 900} --run talks -> room for
    retrieve nowhere --run talks -> nowhere
    retrieve empty --run talks -> empty
    retrieve blank.txt --run talks -> no text
    retrieve binary.bin --run talks -> binary.bin
    retrieve bad --run talks -> bad/b.txt
    retrieve text.txt --questions q.json --run talks -> name notes
    retrieve --questions nowhere.json --run talks -> nowhere.json
    retrieve --questions text.txt --run talks -> text.txt
    retrieve --questions deep.json --run talks -> deep.json
    retrieve --questions list.json --run talks -> list.json
    retrieve --questions none.json --run talks -> no question
    retrieve --questions none.json --run talks --count 0 -> --count"""))
def test_commands(command, says, there):
    assert says in refused(f"beyond.{command}", there)


ALL = ("bootstrap first --out x.png; memorised --run first; ngram --run first; "
       "probabilities first; anatomy --attention first x; playground first --no-browser; "
       "humaneval first --data he")   # load a run
LAWS = "curves first --out x.png; anatomy --utilisation first"


@pytest.mark.slow
@pytest.mark.parametrize("path, how, commands, says", [
    *((f"{name}.png", FOLDER, command, name) for name, command in (
        ("curves", "curves first"), ("ablation", "ablation --source text.txt"),
        ("runs/first/bootstrap", "bootstrap first"), ("probabilities", "probabilities --plot"),
        ("attention", "anatomy --attention first bottle"), ("parallel", "parallel"))),
    *table(CONFIG, f"{ALL}; {LAWS}", *((how, "config.json") for how in (
        b"", b"[]", DEEP, put("model", None), put("train", 3)))),
    *table(CONFIG, f"{ALL}; anatomy --utilisation first",
           (put("model", "n_embd", "16"), "n_embd"), (put("model", "n_head", 3), "n_head"),
           (put("model", "colour", 1), "colour")),
    *table(CONFIG, "memorised --run first; anatomy --utilisation first",
           (put("train", "seed", "1"), "seed"), (put("train", "batch_size", 0), "batch_size"),
           (put("train", "colour", 1), "colour")),
    *((BEST, how, ALL, BEST) for how in (b"", b"x" * 999, lambda saved: [1], FOLDER,
                                         put("model", "norm.gain", "x"))),
    *table(BEST, "memorised --run first", (put("step", 0), "steps"), (put("step", "1"), "steps"),
           (put("step", put), "steps")),
    *((TOKENS, how, ALL, "tokenizer.json") for how in (b"", b"[]", DEEP, FOLDER, None)),
    *(("he/HumanEval.jsonl", how, "humaneval first --data he", "HumanEval.jsonl") for how in (
        b"", b"7", b"[]", DEEP, b"\xff", None, FOLDER,
        lambda raw: raw.replace(b'"1"', b'""'), lambda raw: raw.replace(b'"x"', b"7"))),
    *((METRICS, how, LAWS, "metrics.jsonl") for how in (
        b"7\n", b"[]\n", b"{}\n", b"null\n", b"{\n", b"\xff\n", DEEP + b"\n", FOLDER,
        b'{"step": "1"}\n', lambda raw: raw.replace(b'"seconds": ', b'"seconds": NaN, "x": '),
        lambda raw: raw.replace(b"train_loss", b"loss"))),
    *table(METRICS, "curves first --out x.png", (b"", "evaluated"), (None, "evaluated"),
           (lambda raw: raw.replace(b"val_loss", b"loss"), "evaluated")),
    *((META, how, "ngram corpus; overlap --leaks corpus; memorised --run first", "corpus")
      for how in (b"", DEEP, None, FOLDER, put("dtype", "O"), put("val", []))),
    ("corpus/val.bin", lambda raw: b"\xff" * len(raw),
     "ngram corpus; overlap --leaks corpus; memorised --run first", "corpus"),
    *((f"theirs/{name}", how, "pretrained theirs", name) for name in ("config.json", "vocab.json")
      for how in (b"", b"7", b"[]", b'"x"', DEEP, b"\xff", None, FOLDER)),
    ("theirs/config.json", put("n_embd", MANY), "pretrained theirs", "theirs"),
    ("theirs/config.json", put("n_layer", MANY), "pretrained theirs", "theirs"),
    ("theirs/config.json", put("n_positions", "8"), "pretrained theirs", "context_length"),
    ("theirs/vocab.json", b'{"a": "b"}', "pretrained theirs", "vocab.json"),
    ("theirs/vocab.json", b'{"a": [], "b": 1}', "pretrained theirs", "vocab.json"),
    ("theirs/merges.txt", b"\xff", "pretrained theirs", "merges.txt"),
    ("theirs/merges.txt", FOLDER, "pretrained theirs", "merges.txt")])
def test_damaged_files(path, how, commands, says, there):
    damage(there / path, how)
    for command in commands.split("; "):
        said = refused(f"beyond.{command}", there)
        assert says in said, said
        assert how is not FOLDER or "damaged" not in said and "delete" not in said, said
