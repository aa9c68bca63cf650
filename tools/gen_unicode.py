#!/usr/bin/env python3
"""gen_unicode.py - writes engine/text/unicode_tables.inc.

usage: tools/gen_unicode.py > engine/text/unicode_tables.inc

Needs Python 3.11 (its unicodedata is Unicode 14, what PCRE2 10.40..10.42 know)
and `pip install unicodedata2==16.0.0`.  The tables are derived from these two
modules' answers; the lists below say where the reference library (Hugging
Face `tokenizers` 0.23.3, found by comparing it with unicodedata2 over all code
points) uses other Unicode versions than 16:
  - its normaliser (crate unicode-normalization-alignments) knows Unicode 9:
    later marks have combining class 0, later characters do not decompose;
  - its Punctuation (crate unicode_categories) knows Unicode 8;
  - its Digits and Lowercase (Rust's std) know Unicode 17.
"""
import sys
import unicodedata as u14
import unicodedata2 as u16

if u14.unidata_version != "14.0.0" or u16.unidata_version != "16.0.0":
    sys.exit("gen_unicode.py: needs Python 3.11 and unicodedata2==16.0.0, has "
             f"{u14.unidata_version} and {u16.unidata_version}")

CPS = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
CATS = ("Cn Cc Cf Co Cs Ll Lm Lo Lt Lu Mc Me Mn Nd Nl No "
        "Pc Pd Pe Pf Pi Po Ps Sc Sk Sm So Zl Zp Zs").split()
SPACE = set([*range(9, 14), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B),
             0x2028, 0x2029, 0x202F, 0x205F, 0x3000])      # White_Space
# Alphabetic symbols: \w besides L, M, Nd, Nl, Pc (PropList Other_Alphabetic).
CIRCLED = set([*range(0x24B6, 0x24EA), *range(0x1F130, 0x1F14A),
               *range(0x1F150, 0x1F16A), *range(0x1F170, 0x1F18A)])


def expand(text):
    out = set()
    for part in text.split():
        a, _, b = part.partition("-")
        out.update(range(int(a, 16), int(b or a, 16) + 1))
    return out


PUNCT_AFTER_8 = expand("""
    61d 9fd a76 c77 c84 1b4e-1b4f 1b7d-1b7f 2e43-2e4f 2e52-2e5d 10d6e 10ead
    10f55-10f59 10f86-10f89 113d4-113d5 113d7-113d8 1144b-1144f 1145a-1145b
    1145d 11660-1166c 116b9 1183b 11944-11946 119e2 11a3f-11a46 11a9a-11a9c
    11a9e-11aa2 11b00-11b09 11be1 11c41-11c45 11c70-11c71 11ef7-11ef8
    11f43-11f4f 11fff 12ff1-12ff2 16d6d-16d6f 16e97-16e9a 16fe2 1e5ff
    1e95e-1e95f""")
PUNCT_UNTIL_8 = expand("166d 111c9")
NUMERIC_17 = expand("11de0-11de9 16ff4-16ff6")
MARK_AFTER_9 = expand("""
    7fd 897-89f 8ca-8d3 9fe afa-aff b55 c04 c3c cf3 d00 d3b-d3c d81 eba ece
    1715 180f 1abf-1ace 1cf7 1df6-1dfa a82c a8ff 10d24-10d27 10d69-10d6d
    10eab-10eac 10efc-10eff 10f46-10f50 10f82-10f85 11070 11073-11074 110c2
    11145-11146 111c9 111ce-111cf 11241 1133b 113b8-113c0 113c2 113c5
    113c7-113ca 113cc-113d0 113d2 113e1-113e2 1145e 1182c-1183a 11930-11935
    11937-11938 1193b-1193e 11940 11942-11943 119d1-119d7 119da-119e0 119e4
    11a01-11a0a 11a33-11a39 11a3b-11a3e 11a47 11a51-11a5b 11a8a-11a99
    11d31-11d36 11d3a 11d3c-11d3d 11d3f-11d45 11d47 11d8a-11d8e 11d90-11d91
    11d93-11d97 11ef3-11ef6 11f00-11f01 11f03 11f34-11f3a 11f3e-11f42 11f5a
    13440 13447-13455 1611e-1612f 16f4f 16f7f-16f87 16fe4 16ff0-16ff1
    1cf00-1cf2d 1cf30-1cf46 1e08f 1e130-1e136 1e2ae 1e2ec-1e2ef 1e4ec-1e4ef
    1e5ee-1e5ef""")
MARK_UNTIL_9 = expand("1cf2-1cf3")
DECOMPOSES_AFTER_9 = expand("""
    32ff a7f2-a7f4 ab69 105c9 105e4 10781-10785 10787-107b0 107b2-107ba
    11383 11385 1138e 11391 113c5 113c7-113c8 11938 16121-16128 16d68-16d6a
    1ccd6-1ccf9 1e030-1e06d 1f16c 1fbf0-1fbf9""")
# Case pairs newer than Unicode 14.
LOWER_NEWER = {0x1C89: 0x1C8A, 0xA7CB: 0x264, 0xA7CC: 0xA7CD, 0xA7CE: 0xA7CF,
               0xA7D2: 0xA7D3, 0xA7D4: 0xA7D5, 0xA7DA: 0xA7DB, 0xA7DC: 0x19B,
               **{c: c + 32 for c in range(0x10D50, 0x10D66)},
               **{c: c + 27 for c in range(0x16EA0, 0x16EB9)}}

NFD_NO, NFKD_NO, NFC_CHECK, NFKC_CHECK = 1, 2, 4, 8


def cat(c):
    return u16.category(chr(c))


def changed(c):
    return cat(c) != u14.category(chr(c))


def prop(c):
    return (CATS.index(cat(c)) | (0x20 if c in SPACE else 0)
            | (0x40 if c in CIRCLED else 0) | (0x80 if changed(c) else 0))


def old_flags(c):
    """1: Punctuation's, 2: Digits', 4: StripAccents' idea of c."""
    punct = (cat(c)[0] == "P" and c not in PUNCT_AFTER_8) or c in PUNCT_UNTIL_8
    if c < 128 and u16.category(chr(c))[0] in "PS":
        punct = True
    mark = (cat(c)[0] == "M" and c not in MARK_AFTER_9) or c in MARK_UNTIL_9
    return (1 * punct | 2 * (cat(c)[0] == "N" or c in NUMERIC_17) | 4 * mark)


def ccc(c):
    return 0 if c in MARK_AFTER_9 else u16.combining(chr(c))


def decompositions():
    canon, compat = {}, {}
    for c in CPS:
        d = u16.decomposition(chr(c))
        if not d or c in DECOMPOSES_AFTER_9:
            continue
        if d.startswith("<"):
            compat[c] = [int(x, 16) for x in d.split()[1:]]
        else:
            canon[c] = [int(x, 16) for x in d.split()]
    return canon, compat


CANON, COMPAT = decompositions()


def full(c, compat):
    d = CANON.get(c) or (COMPAT.get(c) if compat else None)
    return [c] if d is None else [y for x in d for y in full(x, compat)]


def compose_pairs():
    pairs = {}
    for c, d in CANON.items():
        if len(d) == 2 and u16.normalize("NFC", chr(c)) == chr(c):
            pairs[(d[0], d[1])] = c
    return pairs


PAIRS = compose_pairs()
SECONDS = {b for _, b in PAIRS} | set(range(0x1161, 0x1176)) | set(
    range(0x11A8, 0x11C3))


def norm_flags(c):
    hangul = 0xAC00 <= c <= 0xD7A3
    f = 0
    if c in CANON or hangul:
        f |= NFD_NO
    if c in CANON or c in COMPAT or hangul:
        f |= NFKD_NO
    nfc_no = c in CANON and c not in PAIRS.values()
    if nfc_no or c in SECONDS or ccc(c):
        f |= NFC_CHECK
    nfkc = COMPAT.keys() & {c} or full(c, True) != full(c, False)
    if nfc_no or c in SECONDS or ccc(c) or nfkc:
        f |= NFKC_CHECK
    return f


def classes(c):
    """The UNICODE_* bits of unicode.h."""
    k = cat(c)
    return (1 * (k[0] == "L") | 2 * (k[0] == "N") | 4 * (c in SPACE)
            | 8 * (k[0] == "M") | 16 * (k in ("Lu", "Lt", "Lm", "Lo")
                                        or k[0] == "M")
            | 32 * (k in ("Ll", "Lm", "Lo") or k[0] == "M")
            | 64 * (c in (10, 13)))


def emit(ctype, name, values, per_line=16):
    scope = "" if name.startswith("unicode_") else "static "
    print(f"{scope}const {ctype} {name}[{len(values)}] = {{")
    for i in range(0, len(values), per_line):
        print("    " + ", ".join(str(v) for v in values[i:i + per_line]) + ",")
    print("};\n")


def two_stage(name, values):
    blocks, first = {}, []
    for i in range(0, 0x110000, 128):
        b = tuple(values[i:i + 128])
        first.append(blocks.setdefault(b, len(blocks)))
    assert len(blocks) <= 65535
    emit("uint16_t", name + "_first", first, 24)
    emit("uint8_t", name + "_block", [v for b in blocks for v in b], 24)


def table(f):
    values = [0] * 0x110000
    for c in range(0x110000):
        values[c] = f(c) if not 0xD800 <= c <= 0xDFFF else 0
    return values


def utf8_len(c):
    return 1 if c < 0x80 else 2 if c < 0x800 else 3 if c < 0x10000 else 4


def representatives():
    """[4][30]: a code point of that UTF-8 length and category that every
    supported PCRE2 knows; 0 where there is none."""
    rep = [[0] * 30 for _ in range(4)]
    for c in CPS:
        n, k = utf8_len(c) - 1, CATS.index(cat(c))
        if rep[n][k] == 0 and c > 0 and not changed(c) and c not in SPACE:
            rep[n][k] = c
    # Unassigned means forever unassigned: noncharacters.
    rep[2][0], rep[3][0] = 0xFDD0, 0x1FFFE
    return [c for row in rep for c in row]


def main():
    print("/* unicode_tables.inc - written by tools/gen_unicode.py from "
          "unicodedata2 16.0.0;\n * do not edit.  Meanings: unicode.c. */\n")
    two_stage("unicode_class", table(classes))
    two_stage("prop", table(prop))
    two_stage("old", table(old_flags))
    recs, norm = {}, [0] * 0x110000
    for c in range(0x110000):
        r = (0, 0) if 0xD800 <= c <= 0xDFFF else (ccc(c), norm_flags(c))
        norm[c] = recs.setdefault(r, len(recs))
    assert len(recs) < 256
    two_stage("norm", norm)
    emit("uint8_t", "norm_ccc", [r[0] for r in recs])
    emit("uint8_t", "norm_flags", [r[1] for r in recs])
    for name, keys, compat in (("canon", CANON, False),
                               ("compat", {**CANON, **COMPAT}, True)):
        cps = [c for c in sorted(keys) if full(c, compat) != [c]
               and (not compat or full(c, True) != full(c, False))]
        flat, off = [], [0]
        for c in cps:
            flat += full(c, compat)
            off.append(len(flat))
        emit("uint32_t", f"{name}_cp", cps, 12)
        emit("uint16_t", f"{name}_off", off)
        emit("uint32_t", f"{name}_map", flat, 12)
    pairs = sorted((a << 32 | b, c) for (a, b), c in PAIRS.items())
    emit("uint64_t", "compose_key", [f"{k}u" for k, _ in pairs], 6)
    emit("uint32_t", "compose_to", [c for _, c in pairs], 12)
    lower = {c: ord(chr(c).lower()) for c in CPS
             if len(chr(c).lower()) == 1 and chr(c).lower() != chr(c)}
    lower.update(LOWER_NEWER)
    emit("uint32_t", "lower_cp", sorted(lower), 12)
    emit("uint32_t", "lower_to", [lower[c] for c in sorted(lower)], 12)
    emit("uint32_t", "representative", representatives(), 10)


main()
