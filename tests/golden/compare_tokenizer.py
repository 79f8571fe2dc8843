#!/usr/bin/env python3
"""`rlf tokenize` against the `tokenizers` library, text by text, on megabytes of made-up text of every kind.

Written for tokenizers 0.23, Python 3.11 (Unicode 14).

  compare_tokenizer.py MODEL_DIR RLF [MB]   MODEL_DIR/tokenizer.json with the program RLF, on at least MB (20) megabytes; exit status 1 if any differs

Counts the texts whose ids differ, and those where decoding does not give back the normalised text (texts with added tokens that swallow white space are not
counted there). Then the same for every letter, number and mark that the library's Unicode (16) has and Python's has not, in nine surroundings each.
"""
import json
import os
import random
import re
import subprocess
import sys
import sysconfig
import tempfile
import unicodedata

from make_text import BLOCKS, CODE, EMOJI, MARKS, SPACES, WORDS, assigned, text

LENGTHS = [1, 2, 3, 4, 5, 8, 16, 31, 32, 33, 47, 48, 49, 50, 64, 100, 257, 1000, 4096, 20000]
RUNS = ["a", "Z", "ab", "abc", "0", "9", "012", " ", "  \n", "\n", "\r", "\r\n", "\n\r", "\t", " \t", "-", "=", "!?", "'s", "'", "\u00e9", "e\u0301", "\u0301", "\u0316\u0301",
        "\u65e5", "\u65e5\u672c", "\uac00", "\u1100\u1161", "\U0001f600", "\U0001f469\u200d", "\u200d", "\ufe0f", "\u00a0", "\u3000", "\u0662", "\u0e01", "\u0e33", "\u0915\u094d",
        "\U0001d7d8", "\x01", "\x7f", "\x85", "\ufeff", "\ufffd", "\u00df", "\u017f", "\u2028", "\U00020000", "\U0010ffff", "<", "<|", "|>", "{", "\\"]
AROUND = ["%s", " %s", "a%s", "%sa", "1%s", "%s1", "!%s\n", "%s%s", "\n %s's"]


def characters():
    """Every character assigned in Python's Unicode but most ideographs and syllables, alone and beside others."""
    for c in range(1, 0x110000):
        if 0xD800 <= c < 0xE000 or unicodedata.category(chr(c)) in ("Cn", "Co", "Cs"):
            continue
        if (0x3400 <= c < 0xA000 or 0xAC00 <= c < 0xD7A4 or 0x17000 <= c < 0x18D00 or 0x20000 <= c < 0x32000) and c % 16:
            continue
        for around in AROUND:
            yield around.replace("%s", chr(c))


def glued(added):
    """Every added token glued to words, digits, spaces, marks, emoji, itself, the others, and cut short."""
    sides = ["", "a", "Z", "1", " ", "  ", "\n", "\r\n", "\t", ".", "<", "|", ">", "\u0301", "\u0338", "\u00e9", "\u65e5", "\U0001f600", "\u200d", "\u00a0", "_", "'s"]
    for token in added:
        for left in sides:
            for right in sides:
                yield left + token + right
        for other in added:
            yield token + other + token
        for i in range(1, len(token)):
            yield "x" + token[:i] + token
            yield token[i:] + " " + token[:i]


def runs():
    for unit in RUNS:
        for n in LENGTHS:
            yield unit * n
            yield "word " + unit * n + "\nword"
    for n in (200000, 1000000):
        for unit in ("a", " ", "7", "\U0001f600"):
            yield unit * n


def code():
    folder = sysconfig.get_paths()["stdlib"]
    for name in sorted(os.listdir(folder)):
        if name.endswith(".py"):
            with open(os.path.join(folder, name), encoding="utf-8", newline="") as f:
                source = f.read()
            yield source
            yield source.replace("\n", "\r\n")[:20000]


def mixed(r, added):
    """Words of one script at a time, both normal forms, controls, white space, contractions, numbers."""
    kind = r.random()
    if kind < .5:
        return text(r, added, r.choice([20, 200, 2000, 20000]))
    lo, hi = r.choice(BLOCKS)
    words = ["".join(assigned(r, lo, hi) for _ in range(r.randint(1, 9))) for _ in range(r.randint(3, 60))]
    if kind < .6:
        words = [w + chr(r.choice(MARKS)) * r.randint(0, 2) for w in words]
    elif kind < .7:
        words = [r.choice(WORDS) + r.choice(["'s", "'S", "'\u017f", "'t", "'RE", "'vE", "'m", "'Ll", "'d", "\u2019s"]) + r.choice(["", "x", "'"]) for _ in words]
    elif kind < .75:
        words = ["".join(chr(r.choice([r.randint(1, 31), r.randint(127, 159), r.randint(32, 126)])) for _ in range(r.randint(1, 9))) for _ in words]
    elif kind < .8:
        words = ["".join(r.choice("0123456789\u0661\u0967\u00b2\u00bd\u2167\U0001d7ce,.eE+-") for _ in range(r.randint(1, 20))) for _ in words]
    elif kind < .85:
        words = [r.choice(CODE) if r.random() < .5 else "".join(r.choice(EMOJI) for _ in range(r.randint(1, 5))) for _ in words]
    out = "".join(w + "".join(r.choice(SPACES) for _ in range(r.choice([0, 1, 1, 1, 2, 4]))) for w in words)
    form = r.choice([None, None, "NFC", "NFD", "NFKD"])
    return unicodedata.normalize(form, out) if form else out


def make_texts(added, megabytes):
    r = random.Random(5)
    texts = [*characters(), *glued(added), *runs(), *code()]
    size = sum(len(t.encode()) for t in texts)
    while size < megabytes * 1e6:
        texts.append(mixed(r, added))
        size += len(texts[-1].encode())
    return [t.replace("\0", " ") for t in texts]  # a NUL ends a text for rlf tokenize --null


def newer_characters():
    """Those the library's regex engine takes for letters, numbers or marks and Python for unassigned."""
    from tokenizers import Regex, pre_tokenizers
    split = pre_tokenizers.Split(Regex(r"[\p{L}\p{N}\p{M}]"), "removed")
    unknown = [c for c in range(0x80, 0x110000) if not 0xD800 <= c < 0xE000 and unicodedata.category(chr(c)) == "Cn"]
    return [chr(c) for c in unknown if not split.pre_tokenize_str(chr(c))]


def run_rlf(rlf, model, texts):
    """Ids of each text, and the text that decoding them gives."""
    tokenize = [rlf, "tokenize", "--null", model]
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as ids:
        given.write(b"".join(t.encode() + b"\0" for t in texts))
        given.seek(0)
        subprocess.run(tokenize, stdin=given, stdout=ids, check=True)
        ids.seek(0)
        lines = ids.read().splitlines()
        ids.seek(0)
        back = subprocess.run(tokenize + ["--decode"], stdin=ids, stdout=subprocess.PIPE, check=True).stdout
    return [json.loads(line) for line in lines], [t.decode() for t in back.split(b"\0")[:-1]]


def library_ids(tokenizer, texts):
    out = []
    for i in range(0, len(texts), 4096):
        out += [e.ids for e in tokenizer.encode_batch(texts[i:i + 4096], add_special_tokens=False)]
    return out


def normalised(tokenizer, raw, given):
    """The text as the library's normaliser leaves it: tokens found before it stay as they are and part the text."""
    if not tokenizer.normalizer:
        return given
    parts = re.split(raw, given) if raw else [given]
    return "".join(p if i % 2 else tokenizer.normalizer.normalize_str(p) for i, p in enumerate(parts))


def show(tokenizer, given, want, got):
    at = next((k for k, (a, b) in enumerate(zip(want, got)) if a != b), min(len(want), len(got)))
    print("  token %d: expected %s, got %s, in %r" % (at, want[at:at + 6], got[at:at + 6], tokenizer.decode(want[max(0, at - 3):at + 6], skip_special_tokens=False)))


def compare(tokenizer, model, rlf, texts, label):
    tokens = sorted(tokenizer.get_added_tokens_decoder().values(), key=lambda t: -len(t.content))
    raw = "|".join(re.escape(t.content) for t in tokens if not t.normalized)
    raw = "(%s)" % raw if raw else None
    swallow = [t.content for t in tokens if t.lstrip or t.rstrip]
    want, (got, back) = library_ids(tokenizer, texts), run_rlf(rlf, model, texts)
    assert len(want) == len(got) == len(back)
    wrong = [i for i in range(len(texts)) if want[i] != got[i]]
    checked = [i for i in range(len(texts)) if not any(s in texts[i] for s in swallow)]
    changed = [i for i in checked if back[i] != normalised(tokenizer, raw, texts[i])]
    for i in wrong[:5]:
        show(tokenizer, texts[i], want[i], got[i])
    for i in changed[:5]:
        print("  decoded to %r from %r" % (back[i][:60], texts[i][:60]))
    print("%s: %d texts, %.1f MB, %d tokens: ids of %d texts differ; of %d decoded, %d differ" % (
        label, len(texts), sum(len(t.encode()) for t in texts) / 1e6, sum(map(len, got)), len(wrong), len(checked), len(changed)))
    return len(wrong) + len(changed)


def main():
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    from tokenizers import Tokenizer
    model, rlf, megabytes = sys.argv[1], sys.argv[2], float(sys.argv[3]) if len(sys.argv) == 4 else 20
    tokenizer = Tokenizer.from_file(os.path.join(model, "tokenizer.json"))
    added = [t.content for t in tokenizer.get_added_tokens_decoder().values()]
    differences = compare(tokenizer, model, rlf, make_texts(added, megabytes), "texts")
    newer = newer_characters()
    differences += compare(tokenizer, model, rlf, [a.replace("%s", c) for c in newer for a in AROUND], "%d newer characters" % len(newer))
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
