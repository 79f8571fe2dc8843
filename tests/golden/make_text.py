#!/usr/bin/env python3
"""Golden files for tests/unit/text. compare_tokenizer.py compares with the `tokenizers` library on megabytes of text.

Made with tokenizers 0.23, Python 3.11 (Unicode 14).

  make_text.py tiny DIR                     DIR/text_tiny_tokenizer.json, text_tiny_cases.json: a small tokenizer and ids
  make_text.py llama DIR [ENTRIES]          DIR/text_llama_tokenizer.json, text_llama_cases.json: the same in the style of Llama 3 (1100 entries);
                                            text_llama_decoded.json: what ids drawn at random decode to
  make_text.py real TOKENIZER.json DIR      DIR/text_qwen3_cases.json: ids of the real Qwen3 table
"""
import json
import os
import random
import sys
import unicodedata

BLOCKS = [(0x21, 0x7E), (0xA1, 0x17F), (0x180, 0x24F), (0x250, 0x2FF), (0x370, 0x3FF), (0x400, 0x52F), (0x531, 0x58F), (0x591, 0x5F4), (0x600, 0x6FF),
          (0x900, 0x97F), (0x980, 0x9FF), (0xB80, 0xBFF), (0xE01, 0xE5B), (0xF00, 0xFFF), (0x1000, 0x109F), (0x10A0, 0x10FF), (0x1100, 0x11FF),
          (0x1200, 0x137F), (0x13A0, 0x13FF), (0x1780, 0x17FF), (0x1800, 0x18AF), (0x1E00, 0x1EFF), (0x1F00, 0x1FFF), (0x2000, 0x206F), (0x2070, 0x20CF),
          (0x2100, 0x214F), (0x2150, 0x218F), (0x2190, 0x23FF), (0x2460, 0x24FF), (0x2500, 0x27BF), (0x2C00, 0x2DFF), (0x3000, 0x30FF), (0x3130, 0x318F),
          (0x3200, 0x33FF), (0x4E00, 0x9FFF), (0xA000, 0xA48C), (0xA640, 0xA69F), (0xAC00, 0xD7A3), (0xF900, 0xFAD9), (0xFB00, 0xFDFF), (0xFE20, 0xFE6F),
          (0xFF00, 0xFFEF), (0x10000, 0x100FA), (0x10300, 0x1034A), (0x10400, 0x1049D), (0x11000, 0x1107F), (0x1D100, 0x1D1FF), (0x1D400, 0x1D7FF),
          (0x1F300, 0x1F6FF), (0x1F900, 0x1F9FF), (0x20000, 0x2A6DF), (0x2F800, 0x2FA1D)]
MARKS = [c for c in range(0x300, 0x1E8D7) if unicodedata.combining(chr(c))]
SPACES = [" "] * 12 + ["  ", "   ", "\t", "\n", "\n\n", "\r\n", " \n", "\n ", "\u00a0", "\u2003", "\u3000", "\u0085", "\u180e", "\u200b", "\u2028", "\v", "\f", "\x1c", "\x00"]
WORDS = """the of and a to in is it you that he was for on are with as I his they be at one have this from or had by hot but some what there we can out other
were all your when up use word how said an each she which do their time if will way about many then them would write like so these her long make thing see him two
has look more day could go come did my sound no most number who over know water than call first people may down side been now find any new work part take get place
made live where after back little only round man year came show every good me give our under name very through just form much great think say help low line before
turn cause same mean differ move right boy old too does tell sentence set three want air well also play small end put home read hand port large spell add even land
here must big high such follow act why ask men change went light kind off need house picture try us again animal point mother world near build self earth father
naïve café Ångström Straße ça jalapeño coöperate résumé Zürich Łódź İstanbul ſ Übermut don't I'm you're we've he'll she'd it's 'S 'LL o'clock""".split()
CODE = ["def f(x):\n    return x ** 2\n", "for (int i = 0; i < n; i++) {\n\t a[i] += b[i];\n}\n", "{\"name\": \"search\", \"arguments\": {\"query\": \"Lima\"}}",
        "SELECT * FROM t WHERE a >= 10 AND b IS NOT NULL;", "<div class=\"x\">&nbsp;</div>\r\n", "https://example.org/a/b?c=d&e=%20#f", "x = 1_000_000.5e-7;", "//////****----====",
        "if (a && !b || c) { /* … */ }", "\\frac{\\alpha}{\\beta}^2 $$\\int$$"]
# Of Unicode 15 and 16: a Han and a Garay letter, a Garay capital, a Latin capital, a Nag Mundari digit, a Kannada mark, a legacy computing symbol.
NEWER = ["\U00031350", "\U00010d4a", "\U00010d50", "\ua7da", "\U0001e4f0", "\u0cf3", "\U0001cc00"]
EMOJI = ["😀", "👍🏽", "👩‍👩‍👧‍👦", "🏳️‍🌈", "🇵🇪", "❤️", "1️⃣", "🧑🏿‍🚀", "☃", "©️"]


def assigned(r, lo, hi):
    while True:
        c = chr(r.randint(lo, hi))
        if unicodedata.category(c) not in ("Cn", "Cs"):
            return c


def piece(r, added):
    kind = r.random()
    if kind < .40:
        return r.choice(WORDS)
    if kind < .50:
        lo, hi = r.choice(BLOCKS)
        return "".join(assigned(r, lo, hi) for _ in range(r.randint(1, 12)))
    if kind < .55:
        return "".join(assigned(r, *r.choice(BLOCKS)) for _ in range(r.randint(1, 6)))
    if kind < .62:
        return str(r.randint(0, 10 ** r.randint(1, 12)))
    if kind < .68:
        return "".join(r.choice("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~") for _ in range(r.randint(1, 8)))
    if kind < .73:
        return r.choice(CODE)
    if kind < .78:
        return "".join(r.choice(EMOJI) for _ in range(r.randint(1, 4)))
    if kind < .86:  # combining marks, in any order
        return "".join(r.choice("aeiounAEcsyΑαηωиІあかハ가ᄀ") + "".join(chr(r.choice(MARKS)) for _ in range(r.choice([1, 1, 2, 3, 9]))) for _ in range(r.randint(1, 4)))
    if kind < .89:  # Hangul jamo
        return "".join(chr(r.randint(0x1100, 0x1112)) + chr(r.randint(0x1161, 0x1175)) + (chr(r.randint(0x11A8, 0x11C2)) if r.random() < .5 else "") for _ in range(r.randint(1, 5)))
    if kind < .92:
        return r.choice(WORDS).upper()
    if kind < .95 and added:
        return r.choice(added)
    if kind < .96:
        return r.choice(["<|im_", "<|im_end|", "<tool_", "|>", "<", "</", "<|endoftext|>x", "<think"])
    if kind < .97:
        return r.choice("ab=-* \n\t😀é") * r.randint(2, 300)
    return "".join(r.choice(SPACES) for _ in range(r.randint(1, 5)))


def text(r, added, length=400):
    out = ""
    while len(out) < length:
        out += piece(r, added) + (r.choice(SPACES) if r.random() < .7 else "")
    return out


def newer():
    """What decides between letter, number, mark and symbol: a contraction behind it, words and digits beside it."""
    return [around.replace("%", c) for c in NEWER for around in ("%'s", "a%b", " %%1", "1%2", "!%'ll\n", "alone%", "%alone")]


def cases(tokenizer, texts):
    return [{"text": t, "ids": tokenizer.encode(t, add_special_tokens=False).ids} for t in texts]


def dump(path, value):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(value, f, ensure_ascii=False, separators=(",", ":"))
        f.write("\n")


def tiny(folder):
    """Trained on the made-up text; with a lstrip, an rstrip and a normalised added token, which the Qwen3 table has not."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.NFC()
    split = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(split), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    r = random.Random(1)
    trainer = trainers.BpeTrainer(vocab_size=1200, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
                                  special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    t.train_from_iterator([text(r, []) for _ in range(400)], trainer)
    t.add_tokens([AddedToken("<tool_call>", normalized=False), AddedToken("</tool_call>", normalized=False), AddedToken("<tool_response>", normalized=False),
                  AddedToken("</tool_response>", normalized=False), AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False),
                  AddedToken("<left>", lstrip=True, normalized=False), AddedToken("<right>", rstrip=True, normalized=False),
                  AddedToken("<right>er", normalized=False), AddedToken("Ame\u0301lie", normalized=True), AddedToken("\t\t", rstrip=True, normalized=False),
                  AddedToken("alone", single_word=True, normalized=False), AddedToken("<both>", lstrip=True, rstrip=True, single_word=True)])
    path = os.path.join(folder, "text_tiny_tokenizer.json")
    t.save(path, pretty=False)
    t = Tokenizer.from_file(path)
    added = [a.content for a in t.get_added_tokens_decoder().values()] + ["Am\u00e9lie", " <left>", "<right>  ", "<right>era", "<right> \t\t\t\t ", "alonealone",
                                                                                                            "\u00e9alone", "alone\u0301", "alone_", "-alone-", "\u200dalone", " <both> "]
    dump(os.path.join(folder, "text_tiny_cases.json"), cases(t, ["", " ", "\n", "a", "'s", "\0\0a\0"] + [text(r, added, 120) for _ in range(90)] + ["ab" * 400, "=" * 700] + newer()))


LLAMA_SPECIAL = ["<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>", "<|finetune_right_pad_id|>",
                 "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>"]


def llama(folder, entries):
    """Llama 3: no normalizer, digits by threes, ignore_merges, a template of <|begin_of_text|> as post-processor. As in the real table, which was converted
    from another format, some entries cannot be reached by merging: every fifth merge is dropped. Merges are written as text."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    t = Tokenizer(models.BPE(ignore_merges=True))
    split = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(split), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    r = random.Random(4)
    trainer = trainers.BpeTrainer(vocab_size=entries, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    t.train_from_iterator([text(r, []) for _ in range(400 if entries <= 2000 else 10000)], trainer)
    t.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in LLAMA_SPECIAL])
    t.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(
        single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A <|begin_of_text|>:1 $B:1", special_tokens=[("<|begin_of_text|>", entries)])])
    document = json.loads(t.to_str())
    document["model"]["merges"] = [" ".join(m) for i, m in enumerate(document["model"]["merges"]) if i % 5 != 4]
    path = os.path.join(folder, "text_llama_tokenizer.json")
    dump(path, document)
    t = Tokenizer.from_file(path)
    unreachable = [k for k in document["model"]["vocab"] if len(k) > 3 and k.isalpha()][:40]
    texts = ["", " ", "\n", "12345678", "'S it's I'LL we'\u017f", "\0a\0", " ".join(unreachable)] + [text(r, LLAMA_SPECIAL, 120) for _ in range(60)]
    size = t.get_vocab_size()
    drawn = [[r.randrange(size) if r.random() < .4 else t.token_to_id(chr(r.randint(0xA1, 0xAC) if r.random() < .3 else r.choice(range(0xC2, 0xF5))))
              for _ in range(r.randint(1, 30))] for _ in range(80)]
    dump(os.path.join(folder, "text_llama_decoded.json"), [{"ids": ids, "text": t.decode(ids, skip_special_tokens=True)} for ids in drawn])
    dump(os.path.join(folder, "text_llama_cases.json"), cases(t, texts + ["ab" * 400, "=" * 700, "a" + "\u0301" * 60, "\r\n" * 40]))


def real(source, folder):
    from tokenizers import Tokenizer
    t = Tokenizer.from_file(source)
    r = random.Random(2)
    added = [a.content for a in t.get_added_tokens_decoder().values()]
    dump(os.path.join(folder, "text_qwen3_cases.json"), cases(t, ["", " ", "Hello, world!"] + [text(r, added, 150) for _ in range(60)] + ["ab" * 400, "\u0301\u0316" * 60]))


def main():
    a = sys.argv[1:]
    if len(a) == 2 and a[0] == "tiny":
        return tiny(a[1])
    if len(a) in (2, 3) and a[0] == "llama":
        return llama(a[1], int(a[2]) if len(a) == 3 else 1100)
    if len(a) == 3 and a[0] == "real":
        return real(a[1], a[2])
    sys.exit(__doc__)


if __name__ == "__main__":
    sys.exit(main())
