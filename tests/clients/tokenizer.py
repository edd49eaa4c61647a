"""Compares the tokens of a model of byte-level BPE with those of Hugging Face's tokenizers.

usage: python tokenizer.py PATH_TO_MICROGPT [DATA_DIRECTORY]

The data directory holds tinyshakespeare.txt, oasst1_chat.jsonl and names.txt; without it, only the
texts below are compared.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import urllib.request

import program
import tokenizers

TEXTS = [
    "Hello, world! It's the user's 1,234th don't-we'll test.",
    "spaces:  two   three\n\n\nlines \n  indented\t\ttabs\r\nCRLF \u00a0\u2003\u3000wide ",
    "emoji 🙂👩‍👩‍👧‍👦🏳️‍🌈 \U0001f1e9\U0001f1ea 👍🏽",
    "combining e\u0301 a\u0308\u0323 \u1100\u1161\u11a8 न\u093fक\u094d\u0937",
    "漢字かな交じり文、한국어 文章。１２３ⅧⅨ½٣",
    "control \0 \x01\x1b[0m \x7f \x85 \u200b \ufeff \u2028 \u2029",
    "العربية עברית ไทย ελληνικά кириллица",
    "\U0010ffff\ue000\ud7ff\ufffd",
    "<bos> <user> <end_turn> <|endoftext|>",
    " ",
    "\n",
    "a" * 5000 + " " * 5000 + "!" * 5000,
]


def byte_alphabet():
    """The byte of each character of a token, as in GPT-2."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(256 + number): byte for number, byte in enumerate(others)}


ALPHABET = byte_alphabet()


def name(token):
    """A token as the program prints it."""
    content = bytes(ALPHABET[character] for character in token)
    try:
        return content.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)


def random_texts(count):
    """Texts of any characters but surrogates, most of them from a few ranges."""
    rng = random.Random(1)
    ranges = [(0, 0x80), (0x80, 0x500), (0x900, 0x1200), (0x2000, 0x2100), (0x4E00, 0x5000),
              (0x1F300, 0x1F700), (0, 0xD800), (0xE000, 0x110000)]
    def text():
        chosen = [ranges[0], rng.choice(ranges), (32, 33)]
        return "".join(chr(rng.randrange(*rng.choice(chosen))) for _ in range(200))
    return [text() for _ in range(count)]


def tokens_of_prompt(url, text):
    """The tokens of a prompt in a response of the server."""
    body = {"prompt": text, "echo": True, "max_tokens": 0, "logprobs": 0}
    request = urllib.request.Request(
        url + "/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    choice = json.load(urllib.request.urlopen(request))["choices"][0]
    assert choice["text"] == text, (choice["text"], text)
    return choice["logprobs"]["tokens"]


def compare(expected, found, text):
    assert expected == found, f"{text[:80]!r}: {found[:20]} instead of {expected[:20]}"


def main():
    # Absolute, since the program runs in another directory.
    data = os.path.abspath(sys.argv[2]) if len(sys.argv) > 2 else None
    files = [os.path.join(data, name) for name in sorted(os.listdir(data))
             if name.endswith((".txt", ".jsonl"))] if data else []
    with tempfile.TemporaryDirectory() as directory:
        training_text = os.path.join(directory, "text")
        with open(training_text, "w", encoding="utf-8", newline="") as file:
            # Training refuses NUL bytes, as of a file that is not text.
            file.write("".join(TEXTS[:-1] * 3).replace("\0", ""))
            for path in files:
                file.write(open(path, encoding="utf-8").read()[:500_000])
        size = "1024" if files else "320"
        program.train(directory, "model", "--text", "--input", training_text, "--vocab-size", size,
                      "--steps", "1", "--n-embd", "8", "--n-head", "1")
        path = os.path.join(directory, "model", "tokenizer.json")
        tokenizer = tokenizers.Tokenizer.from_file(path)
        assert tokenizer.get_vocab_size() == int(size)
        assert json.loads(tokenizer.to_str()) == json.load(open(path, encoding="utf-8"))
        # The program does not look for special tokens in a text.
        tokenizer.encode_special_tokens = True
        names = {id: name(token) for token, id in tokenizer.get_vocab(with_added_tokens=False).items()}

        def encode(text):
            ids = tokenizer.encode(text).ids
            assert tokenizer.decode(ids) == text
            return [names[id] for id in ids]

        with program.Server(directory, "model") as server:
            for text in TEXTS + random_texts(200):
                compare(encode(text), tokens_of_prompt(server.url, text), text)
        lines = 0
        for path in files:
            command = [program.PROGRAM, "score", "--model-dir", "model", "--json", "--tokens", path]
            with subprocess.Popen(command, cwd=directory, stdout=subprocess.PIPE) as scores:
                for score in map(json.loads, scores.stdout):
                    found = [token["token"] for token in score["token_bits"]]
                    compare(encode(score["line"]) + ["\n"], found, score["line"])
                    lines += 1
            assert scores.returncode == 0
        print(f"{len(TEXTS) + 200} texts and {lines} lines have the same tokens")


if __name__ == "__main__":
    main()
