#!/usr/bin/env python3
"""compare_hf.py - our tokenizer against Hugging Face's, on random texts.

usage: compare_hf.py DRIVER DIR_OF_TOKENIZERS [--cases N] [--seed S] [--only X]

DRIVER is tests/text/tok_driver.c built; every */tokenizer.json below the
directory is compared: ids with and without special tokens, decode with and
without them, the streamed chunks, and that they join to the decode.  Needs
`pip install tokenizers`.  Exit status 1 on the first ten differences.
"""
import argparse
import os
import random
import subprocess
import sys

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

ap = argparse.ArgumentParser()
ap.add_argument("driver")
ap.add_argument("dir")
ap.add_argument("--cases", type=int, default=1000)
ap.add_argument("--seed", type=int, default=random.randrange(1 << 30))
ap.add_argument("--only", default="")
args = ap.parse_args()
print("seed", args.seed)

WORDS = ("the quick brown Fox JUMPS over lazy dogs don't it's we'LL I'M 'S "
         "they've naïve façade Ünïcödé straße Привет мир Ελληνικά ΣΊΣΥΦΟΣ "
         "中文字符 日本語テキスト かな 한국어 텍스트 العربية עברית हिन्दी ไทย "
         "def foo(x): return x+1 // comment /* c */ #include <stdio.h> {} [] "
         "https://example.com/a?b=c&d=1 3.14159 1234567890 12 1,000,000 ½ Ⅷ ٣ "
         "café\u0301 e\u0301 a\u0308\u0323 \u0323\u0308 ﬁ ﷺ ① ㍿ ｱｲｳ ＡＢＣ 'ſ "
         "👍🏽 👨‍👩‍👧‍👦 🇩🇪 ☃️ 🤷‍♀️ \u200d \u200b \ufeff \u00ad camelCase "
         "HTTPServer XMLParser iPhone ǅungla ʰello ªº ||| *** --- ... !!! ?!").split()
SPACES = [" ", " ", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", " \n", "\n ",
          "\u00a0", "\u3000", "\u2003", "\u2028", "\u0085", "\u180e", ""]


def random_char(r):
    k = r.random()
    if k < 0.3:
        return chr(r.randrange(32, 127))
    if k < 0.4:
        return chr(r.randrange(0, 0x250))
    if k < 0.5:
        return chr(r.choice([r.randrange(0x300, 0x370), r.randrange(0x590, 0xE00),
                             r.randrange(0x1D00, 0x2100), r.randrange(0xAC00, 0xD7B0),
                             r.randrange(0x1100, 0x1200)]))
    if k < 0.6:
        return chr(r.choice([r.randrange(0x4E00, 0x9FFF), r.randrange(0x3040, 0x3100),
                             r.randrange(0x1F300, 0x1FAFF), r.randrange(0x10000, 0x20000)]))
    while True:
        c = r.randrange(0x110000)
        if not 0xD800 <= c <= 0xDFFF:
            return chr(c)


def random_text(r, added):
    n = r.choice([1, 2, 3, 5, 8, 20, 60])
    out = []
    for _ in range(n):
        k = r.random()
        if k < 0.45:
            out.append(r.choice(WORDS))
        elif k < 0.65:
            out.append(r.choice(SPACES) * r.choice([1, 1, 1, 2, 7]))
        elif k < 0.72:
            out.append(r.choice(added) if added else "<s>")
        elif k < 0.76:
            out.append(random_char(r) * r.choice([2, 3, 9, 40]))
        elif k < 0.8:
            out.append(str(r.randrange(10 ** r.randrange(1, 12))))
        elif k < 0.85:
            out.append("".join(r.choice("abcXYZ '\n\t1.") for _ in range(r.randrange(30))))
        else:
            out.append("".join(random_char(r) for _ in range(r.randrange(1, 6))))
        if r.random() < 0.4:
            out.append(r.choice(SPACES))
    return "".join(out)


def hf_stream(hf, ids, skip):
    """The reference's chunks; None where its own stream is not its decode."""
    stream = DecodeStream(skip_special_tokens=skip)
    try:
        chunks = [stream.step(hf, i) or "" for i in ids]
    except Exception:               # "Invalid prefix encountered"
        return None
    whole = hf.decode(ids, skip_special_tokens=skip)
    return chunks if whole.startswith("".join(chunks)) else None


class Driver:
    def __init__(self, path):
        self.p = subprocess.Popen([args.driver, "serve", path], stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE)

    def send(self, op, flag, data):
        self.p.stdin.write(b"%s %d %d\n" % (op, flag, len(data)) + data)
        self.p.stdin.flush()

    def encode(self, text, special):
        self.send(b"e", special, text.encode())
        line = self.p.stdout.readline().decode()
        return line if line.startswith("ERROR") else [int(x) for x in line.split()]

    def chunk(self):
        return self.p.stdout.read(int(self.p.stdout.readline())).decode()

    def decode(self, ids, skip):
        self.send(b"d", skip, " ".join(map(str, ids)).encode())
        return self.chunk()

    def stream(self, ids, skip):
        self.send(b"s", skip, " ".join(map(str, ids)).encode())
        return [self.chunk() for _ in range(len(ids) + 1)]


def main():
    bad = total = 0
    for name in sorted(os.listdir(args.dir)):
        path = os.path.join(args.dir, name)
        if args.only not in name or not os.path.exists(path + "/tokenizer.json"):
            continue
        hf = Tokenizer.from_file(path + "/tokenizer.json")
        hf.no_padding()
        hf.no_truncation()
        ours = Driver(path)
        r = random.Random(args.seed)
        added = [t.content for t in hf.get_added_tokens_decoder().values()]
        size = hf.get_vocab_size() + 3
        for case in range(args.cases):
            text = random_text(r, added)
            special = case % 2 == 0
            want = hf.encode(text, add_special_tokens=special).ids
            got = ours.encode(text, special)
            checks = [("encode", text, want, got)]
            ids = want if case % 3 else [r.randrange(size) for _ in range(r.randrange(1, 12))]
            skip = case % 5 < 3
            want = hf.decode(ids, skip_special_tokens=skip)
            checks.append(("decode", ids, want, ours.decode(ids, skip)))
            if case % 3:
                chunks = hf_stream(hf, ids, skip)
                if chunks is not None:
                    got = ours.stream(ids, skip)
                    checks.append(("chunks", ids, chunks, got[:-1]))
                    checks.append(("stream", ids, want, "".join(got)))
            for what, inp, want, got in checks:
                total += 1
                if want != got:
                    bad += 1
                    print(f"DIFFERENT {name} {what} case {case}\n  in   {inp!r}\n"
                          f"  want {want!r}\n  got  {got!r}")
                    if bad >= 10:
                        sys.exit(1)
        print(f"{name}: {args.cases} cases", flush=True)
    print(f"{total} comparisons, {bad} different")
    sys.exit(bad > 0)


main()
