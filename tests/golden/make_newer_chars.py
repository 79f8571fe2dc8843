#!/usr/bin/env python3
"""Prints the table of common/text/newer_chars.c: the characters that the `tokenizers` library's regexes know and Unicode 14 does not.

Written for tokenizers 0.23 (Unicode 16), Python 3.11 (Unicode 14: another Python's table would hold other characters).

  make_newer_chars.py
"""
import unicodedata

from tokenizers import Regex, pre_tokenizers

CATEGORIES = "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cf".split()


def categories_of_newer():
    unknown = "".join(chr(c) for c in range(0x80, 0x110000) if not 0xD800 <= c < 0xE000 and unicodedata.category(chr(c)) == "Cn")
    found = {}
    for category in CATEGORIES:
        others_removed = pre_tokenizers.Split(Regex(r"\P{%s}" % category), "removed")
        found.update((ord(c), category) for piece, _ in others_removed.pre_tokenize_str(unknown) for c in piece)
    han = pre_tokenizers.Split(Regex(r"\P{Han}"), "removed")
    found.update((ord(c), "HAN") for piece, _ in han.pre_tokenize_str(unknown) for c in piece if found.get(ord(c)) == "Lo")
    return found


def ranges(found):
    out = []
    for c in sorted(found):
        if out and out[-1][1] == c - 1 and out[-1][2] == found[c]:
            out[-1][1] = c
        else:
            out.append([c, c, found[c]])
    return out


assert unicodedata.unidata_version == "14.0.0", "a table of what is newer than Unicode 14 needs a Python of that Unicode"
line = "   "
for first, last, kind in ranges(categories_of_newer()):
    item = " {0x%x, 0x%x, %s}," % (first, last, kind.upper())
    if len(line + item) > 132:
        print(line)
        line = "   "
    line += item
print(line)
