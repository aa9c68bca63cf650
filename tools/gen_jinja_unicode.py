#!/usr/bin/env python3
"""gen_jinja_unicode.py - writes engine/text/jinja_unicode_tables.inc from
Python's own str methods, because Python is what templates were written for.
usage: tools/gen_jinja_unicode.py > engine/text/jinja_unicode_tables.inc"""
import sys
import unicodedata

N = 0x110000
CPS = [chr(c) for c in range(N)]


def ranges(name, test):
    out, start = [], None
    for c in range(N + 1):
        ok = c < N and not 0xD800 <= c <= 0xDFFF and test(CPS[c])
        if ok and start is None:
            start = c
        elif not ok and start is not None:
            out.append((start, c - 1))
            start = None
    print(f"static const struct jinja_range  jinja_{name}[] = {{")
    line = "   "
    for a, b in out:
        item = f" {{ 0x{a:X}, 0x{b:X} }},"
        if len(line) + len(item) > 96:
            print(line)
            line = "   "
        line += item
    print(line + "\n};\n")


def mapping(name, fn):
    runs, special = [], []
    for c in range(N):
        if 0xD800 <= c <= 0xDFFF:
            continue
        m = fn(CPS[c])
        if m == CPS[c]:
            continue
        if len(m) > 1:
            special.append((c, [ord(x) for x in m]))
            continue
        d = ord(m) - c
        if runs and runs[-1][3] == d:
            a, b, step, _ = runs[-1]
            if a == b and c - b in (1, 2):
                runs[-1] = (a, c, c - b, d)
                continue
            if c - b == step and a != b:
                runs[-1] = (a, c, step, d)
                continue
        runs.append((c, c, 1, d))
    print(f"static const struct jinja_case_run  jinja_{name}_runs[] = {{")
    line = "   "
    for a, b, step, d in runs:
        item = f" {{ 0x{a:X}, 0x{b:X}, {step}, {d} }},"
        if len(line) + len(item) > 96:
            print(line)
            line = "   "
        line += item
    print(line + "\n};\n")
    print(f"static const struct jinja_case_special  jinja_{name}_special[] = {{")
    line = "   "
    for c, m in special:
        m = m + [0] * (3 - len(m))
        item = f" {{ 0x{c:X}, {{ 0x{m[0]:X}, 0x{m[1]:X}, 0x{m[2]:X} }} }},"
        if len(line) + len(item) > 96:
            print(line)
            line = "   "
        line += item
    print(line + "\n};\n")


def ignorable(ch):
    # Python's own definition is visible in the final sigma: U+03A3 after a
    # letter and this character is final, after this character alone it is not
    # (letters such as U+02B0 are looked past too).
    return ("a" + ch + "\u03a3").lower()[-1] == "\u03c2" \
        and (ch + "\u03a3").lower()[-1] != "\u03c2"


print("/* jinja_unicode_tables.inc - made by tools/gen_jinja_unicode.py from Unicode "
      f"{unicodedata.unidata_version}. */\n")
ranges("space", str.isspace)
ranges("printable", str.isprintable)
ranges("alpha", str.isalpha)
ranges("decimal", str.isdecimal)
ranges("digit", str.isdigit)
ranges("numeric", str.isnumeric)
ranges("upper", str.isupper)
ranges("lower", str.islower)
ranges("title", lambda c: c.istitle() and not c.isupper())
ranges("ignorable", ignorable)
ranges("id_start", str.isidentifier)
ranges("id_continue", lambda c: ("a" + c).isidentifier())
mapping("to_upper", str.upper)
mapping("to_lower", str.lower)
mapping("to_title", str.title)
mapping("to_fold", str.casefold)
sys.exit(0)
