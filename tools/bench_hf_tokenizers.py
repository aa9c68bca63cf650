"""bench_hf_tokenizers.py - the reference for MB/s: Hugging Face's library, one thread.

    python tools/bench_hf_tokenizers.py TOKENIZER_JSON FILE [ROUNDS]

The same work as nginx-llm-bench_tokenizer in the same flat JSON: the file
whole and in pieces of 4 KB, CPU time, best of ROUNDS, no special tokens.
"""
import os
import sys
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
import tokenizers

PIECE_BYTES = 4096


def pieces(data):
    at = 0
    while at < len(data):
        end = min(at + PIECE_BYTES, len(data))
        while end < len(data) and data[end] & 0xC0 == 0x80:
            end -= 1
        yield data[at:end].decode()
        at = end


def best(rounds, work):
    times = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def main():
    tok = tokenizers.Tokenizer.from_file(sys.argv[1])
    data = open(sys.argv[2], "rb").read()
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 2
    text, parts, mb = data.decode(), list(pieces(data)), len(data) * 1e-6
    ids = []
    whole = best(rounds, lambda: ids.append(len(tok.encode(text, add_special_tokens=False))))
    small = best(rounds, lambda: [tok.encode(p, add_special_tokens=False) for p in parts])
    print('{"tokens":%d,"whole_mb_s":%.2f,"pieces_mb_s":%.2f}' % (ids[0], mb / whole, mb / small))


main()
