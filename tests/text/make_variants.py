#!/usr/bin/env python3
"""make_variants.py - tokenizer.json files of structures that the archive lacks.

usage: make_variants.py BYTE_LEVEL_DIR SPM_DIR OUT_DIR

Takes the vocabulary of a byte-level tokenizer (gpt2) and of a SentencePiece
style one (mistral-v3), and writes one directory per combination of normalizer,
pre-tokenizer, decoder and added-token flags, for compare_hf.py.  The structures
are those of the published files of StarCoder, Falcon, DeepSeek, tekken, Qwen,
Kimi, Llama 4, cl100k and of each type's options.
"""
import json
import os
import sys

byte_dir, spm_dir, out_dir = sys.argv[1:]
BYTE = json.load(open(byte_dir + "/tokenizer.json"))
SPM = json.load(open(spm_dir + "/tokenizer.json"))


def split(regex, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior,
            "invert": invert}


def literal(text, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": {"String": text}, "behavior": behavior,
            "invert": invert}


def seq(*items):
    return {"type": "Sequence", "pretokenizers": list(items)}


def norms(*items):
    return {"type": "Sequence", "normalizers": list(items)}


def byte_level(regex=False, prefix=False):
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True,
            "use_regex": regex}


def metaspace(scheme, do_split):
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme,
            "split": do_split}


CONTR = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+%s|"
         r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*%s|")
PATTERNS = {
    "llama3": CONTR + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + TAIL,
    "qwen2": CONTR + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*" + TAIL,
    "qwen35": CONTR + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*" + TAIL,
    "cl100k": CONTR + r"|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
    "cl100k-new": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
    "o200k": O200K % (CONTR + "?", CONTR + "?") + r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + TAIL,
    "tekken": O200K % ("", "") + r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + TAIL,
    # The same patterns made unknown to the hand scanners.
    "llama3-regex": "(?:" + CONTR + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + TAIL + ")",
    "o200k-regex": "(?:" + O200K % (CONTR + "?", CONTR + "?") + r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + TAIL + ")",
    "gpt2-regex": r"(?:'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)",
    "kimi": r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+" + CONTR
            + r"?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*" + CONTR
            + r"?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + TAIL,
    "word": r"\w+|[^\w\s]+", "edges": r"\b\w|\w\b|\B", "hex": r"\h+|\H", "not": r"[\W\d]+|[^\S\n]",
    "lines": r"^.|.$", "fixed": r"(?:ab|\p{L}){2}?x?|\d{,2}[^0-9]", "posix": r"[[:alpha:]]+|[[:^space:]]|[[:punct:]]+",
    "union": r"[a-c[x-z]\d]+|[^a[b-d]\s]", "lookbehind": r"(?<=\p{L})\p{N}+|(?<!\s)\p{P}", "empty": r"\p{N}*",
    "nel": r"[\s&&[^\n]]+|\S+", "upper": r"(?i)straße|ÀÉ|[A-Z]+",
}
DS_V3 = [split(r"\p{N}{1,3}"), split(r"[一-龥぀-ゟ゠-ヿ]+"),
         split(r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"),
         byte_level()]
DS_LLM = [split(r"[\r\n]"), split(r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅ]+"),
          split(r"\s?[!-/:-~！-／：-～‘-‟　-。]+"), split(r"\s+$"), split(r"[一-龥ࠀ-一가-퟿]+"),
          {"type": "Digits", "individual_digits": True}, byte_level()]
BYTE_PRETOKS = {
    **{"re-" + k: seq(split(v), byte_level()) for k, v in PATTERNS.items()},
    "starcoder": seq({"type": "Digits", "individual_digits": True}, byte_level(True)),
    "digits-run": seq({"type": "Digits", "individual_digits": False}, byte_level(True)),
    "falcon": seq({"type": "Punctuation", "behavior": "Contiguous"}, byte_level(True),
                  {"type": "Digits", "individual_digits": False}, split("[0-9][0-9][0-9]")),
    "deepseek-v3": seq(*DS_V3), "deepseek-llm": seq(*DS_LLM),
    "prefix-space": byte_level(True, True), "no-regex": byte_level(),
    "invert-removed": seq(split(PATTERNS["llama3"], "Removed", True), byte_level()),
    "words-removed": seq(split(r"\s+", "Removed"), byte_level()),
    **{"behavior-" + b: seq(literal(" ", b), split("[aeiou]", b, True), byte_level())
       for b in ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous")},
    "punct-prev": seq({"type": "Punctuation", "behavior": "MergedWithPrevious"}, byte_level()),
    "whitespace": seq({"type": "Whitespace"}, byte_level()),
    "whitespace-split": seq({"type": "WhitespaceSplit"}, byte_level()),
    "bert": seq({"type": "BertPreTokenizer"}, byte_level()),
    "char-delimiter": seq({"type": "CharDelimiterSplit", "delimiter": "e"}, byte_level()),
}
NORMS = {
    **{f: {"type": f} for f in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase")},
    "nfkd-strip-lower": norms({"type": "NFKD"}, {"type": "StripAccents"}, {"type": "Lowercase"}),
    "strip": {"type": "Strip", "strip_left": True, "strip_right": True},
    "strip-accents": {"type": "StripAccents"},
    "replace-re": {"type": "Replace", "pattern": {"Regex": r"\s+|[0-9]"}, "content": "_x"},
    "replace-str": norms({"type": "Replace", "pattern": {"String": "``"}, "content": '"'},
                         {"type": "Replace", "pattern": {"String": "a"}, "content": ""}),
    "prepend": {"type": "Prepend", "prepend": "Xy"},
}
REPLACE = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
STRIP1 = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
SPM_KINDS = {
    "meta-always": dict(pre=metaspace("always", False)), "meta-never": dict(pre=metaspace("never", True)),
    "meta-first-split": dict(pre=metaspace("first", True)), "meta-always-split": dict(pre=metaspace("always", True)),
    "ws-meta-first": dict(pre=seq({"type": "WhitespaceSplit"}, metaspace("first", False))),
    "strip-meta-first": dict(norm={"type": "Strip", "strip_left": True, "strip_right": False}, pre=metaspace("first", False)),
    "dec-metaspace": dict(pre=metaspace("always", True), dec=metaspace("always", True)),
    "dec-metaspace-never": dict(pre=metaspace("never", True), dec=metaspace("never", True)),
    "dec-none": dict(pre=metaspace("always", True), dec=None),
    "dec-nofuse-strip": dict(dec={"type": "Sequence", "decoders": [REPLACE, {"type": "ByteFallback"}, STRIP1]}),
    "dec-fuse-first": dict(dec={"type": "Sequence", "decoders": [{"type": "Fuse"}, REPLACE]}),
    "dec-wordpiece": dict(pre=metaspace("always", True), dec={"type": "WordPiece", "prefix": "▁", "cleanup": True}),
    "dec-suffix": dict(dec={"type": "BPEDecoder", "suffix": "e"}),
    "dec-re": dict(dec={"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"Regex": "▁+"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}),
    "no-fallback": dict(model=dict(byte_fallback=False)),
    "no-fallback-no-fuse": dict(model=dict(byte_fallback=False, fuse_unk=False)),
    "no-unk": dict(model=dict(byte_fallback=False, unk_token=None)),
    "ignore-merges": dict(model=dict(ignore_merges=True), pre=metaspace("always", True)),
    "legacy-norm": dict(pre=None, norm=norms({"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"})),
}


def added_variants(first_id):
    def tok(k, content, **kw):
        return {"id": first_id + k, "content": content, "special": False, "normalized": False,
                "lstrip": False, "rstrip": False, "single_word": False, **kw}
    return [tok(0, "<|im_start|>", special=True), tok(1, "<|im_end|>", special=True, rstrip=True),
            tok(2, "<|user|>", special=True, lstrip=True, rstrip=True), tok(3, "fox", single_word=True),
            tok(4, "Über", normalized=True), tok(5, "  ", normalized=True), tok(6, "    "),
            tok(7, "<|im_", lstrip=True), tok(8, "ǅ", normalized=True, special=True, single_word=True),
            tok(9, "\n\n\n", rstrip=True), tok(10, "é", normalized=True), tok(11, "the quick", normalized=True, lstrip=True)]


def write(name, base, **kw):
    d = dict(base)
    d["added_tokens"] = kw.get("added", base["added_tokens"])
    for key, field in (("norm", "normalizer"), ("pre", "pre_tokenizer"), ("dec", "decoder"), ("post", "post_processor")):
        if key in kw:
            d[field] = kw[key]
    d["model"] = {**base["model"], **kw.get("model", {})}
    os.makedirs(f"{out_dir}/{name}", exist_ok=True)
    json.dump(d, open(f"{out_dir}/{name}/tokenizer.json", "w"), ensure_ascii=False)


for k, v in BYTE_PRETOKS.items():
    write("byte-" + k, BYTE, pre=v)
for k, v in NORMS.items():
    # The reference panics on added tokens that normalise to nothing.
    write("norm-" + k, BYTE, norm=v, added=BYTE["added_tokens"] + [
        t for t in added_variants(50257) if k != "strip" or t["content"].strip()])
    write("spm-norm-" + k, SPM, norm=v)
write("byte-added", BYTE, added=BYTE["added_tokens"] + added_variants(50257))
write("byte-ignore-merges", BYTE, model=dict(ignore_merges=True))
write("byte-norm-bytelevel", BYTE, norm={"type": "ByteLevel"}, pre=None)
write("byte-roberta", BYTE, post={"type": "RobertaProcessing", "sep": ["a", 64], "cls": ["b", 65], "trim_offsets": True, "add_prefix_space": False})
for k, v in SPM_KINDS.items():
    write("spm-" + k, SPM, **v)
write("spm-added", SPM, added=SPM["added_tokens"][:3] + added_variants(32768))
write("spm-legacy-added", SPM, added=SPM["added_tokens"][:3] + added_variants(32768), **SPM_KINDS["legacy-norm"])
