#!/usr/bin/env python3
"""Makes jobs/quickstart/tokenizer.json (committed; the quickstart itself needs no Python).

A byte-level BPE whose pieces are at most three bytes long, so that names are spelt, not known, which is what copying is learnt on. The few words that every question
and passage is made of get merges of their own, and the frozen strings of a tool call are added tokens: what is left to read and write is mostly names.

Made with tokenizers 0.23.3:  make_tokenizer.py sft.jsonl [more.jsonl ...] > tokenizer.json   (files of `quickstart-data -s 1000 -n 4000`)
"""
import json
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
PLAIN = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>", "<answer>", "</answer>",
         '{"name": "search", "arguments": {"query": "', '"}}']
WORDS = [" assistant", "assistant", "user", "What", " is", " the", " of", " capital", " currency", " continent", " language", " neighbour", " ISO", " code",
         "capital", "currency", "continent", "language", "neighbour", "ISO", " Capital", " Currency", " Continent", " Language", " Neighbour",
         " country", " whose", " The", "Doc", "(Title"]
VOCAB = 512
PIECES = 392  # bytes and trained merges


def texts(paths):
    for path in paths:
        for line in open(path, encoding="utf-8"):
            for message in json.loads(line).get("messages", []):
                text = message["content"]
                for token in PLAIN:
                    text = text.replace(token, "\n")
                yield text


tokenizer = Tokenizer(models.BPE())
tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(SPLIT), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
tokenizer.decoder = decoders.ByteLevel()
trainer = trainers.BpeTrainer(vocab_size=PIECES, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), max_token_length=3, show_progress=False)
tokenizer.train_from_iterator(texts(sys.argv[1:]), trainer)


def with_words(tokenizer):
    """The same tokenizer with merges, after all others, that join each word's pieces from the left."""
    table = json.loads(tokenizer.to_str())
    model = table["model"]
    for word in WORDS:
        pieces = tokenizer.encode(word).tokens
        while len(pieces) > 1:
            pair, joined = pieces[:2], pieces[0] + pieces[1]
            if pair not in model["merges"]:
                model["merges"].append(pair)
            model["vocab"].setdefault(joined, len(model["vocab"]))
            pieces = [joined] + pieces[2:]
        tokenizer = Tokenizer.from_str(json.dumps(table))
    for spare in range(len(model["vocab"]), VOCAB - len(SPECIAL) - len(PLAIN)):
        model["vocab"][f"<|spare_{spare}|>"] = spare
    return Tokenizer.from_str(json.dumps(table))


tokenizer = with_words(tokenizer)
tokenizer.add_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL] + [AddedToken(t, special=False, normalized=False) for t in PLAIN])
assert tokenizer.get_vocab_size() == VOCAB, tokenizer.get_vocab_size()
print(tokenizer.to_str())
