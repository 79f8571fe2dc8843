#!/usr/bin/env python3
"""Makes jobs/quickstart/tokenizer.json (committed; the quickstart itself needs no Python).

A byte-level BPE of 512 entries whose pieces are at most three bytes long: names are spelt, not known, which is what copying is learnt on.
Frozen strings of the tool-call form are added tokens, so that a call costs its query and little else.

Made with tokenizers 0.23.3:  make_tokenizer.py sft.jsonl [more.jsonl ...] > tokenizer.json   (files of `quickstart-data -s 1000 -n 4000`)
"""
import json
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
PLAIN = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>", "<answer>", "</answer>",
         '{"name": "search", "arguments": {"query": "', '"}}']
VOCAB = 512


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
trainer = trainers.BpeTrainer(vocab_size=VOCAB - len(SPECIAL) - len(PLAIN), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), max_token_length=3, show_progress=False)
tokenizer.train_from_iterator(texts(sys.argv[1:]), trainer)
tokenizer.add_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL] + [AddedToken(t, special=False, normalized=False) for t in PLAIN])
assert tokenizer.get_vocab_size() == VOCAB, tokenizer.get_vocab_size()
print(tokenizer.to_str())
