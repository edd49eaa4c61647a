"""Tests `microgpt export --format huggingface` with transformers, and what transformers saves with
microgpt.

usage: python huggingface.py PATH_TO_MICROGPT
"""

import json
import math
import os
import tempfile

import program
import torch
from program import microgpt
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

DATA = os.path.join(os.path.dirname(__file__), "../../../shared/data")
# The difference between bits per token in f32 and in f64.
TOLERANCE = 2e-5


def load(path, **options):
    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=True)
    model = AutoModelForCausalLM.from_pretrained(path, trust_remote_code=True, **options)
    return tokenizer, model.eval()


def lines_of(name, count):
    """Lines of the shared data, or none where it is missing."""
    path = os.path.join(DATA, name)
    if not os.path.exists(path):
        assert "MICROGPT_REQUIRE_SHARED" not in os.environ, f"{path} is missing"
        return []
    with open(path, encoding="utf-8") as file:
        return [line.rstrip("\n") for line in file if line.strip()][:count]


def bits_per_token(directory, model, lines):
    """The bits of each token of each line."""
    output = microgpt(
        directory,
        "score",
        "--model-dir",
        model,
        "--tokens",
        "--json",
        "--unknown",
        "skip",
        input="\n".join(lines),
    )
    return [[token["bits"] for token in json.loads(line)["token_bits"]] for line in output.splitlines()]


@torch.no_grad()
def torch_bits(model, ids):
    logits = model(torch.tensor([ids[:-1]])).logits.double()
    return (
        -logits.log_softmax(-1)[0].gather(1, torch.tensor(ids[1:])[:, None])[:, 0] / math.log(2)
    ).tolist()


def assert_close(found, expected, what):
    assert len(found) == len(expected), (what, len(found), len(expected))
    worst = max((abs(a - b) for a, b in zip(found, expected, strict=True)), default=0.0)
    assert worst < TOLERANCE, (what, worst)
    return worst


def test_text_logits(directory, tokenizer, model):
    """The bits of each character and of the end of names."""
    end = [tokenizer.bos_token_id]
    lines = [line for line in lines_of("names.txt", 500) if len(line) < model.config.block_size]
    worst = 0.0
    for line, expected in zip(lines, bits_per_token(directory, "names", lines), strict=True):
        found = torch_bits(model, tokenizer(line).input_ids + end)
        worst = max(worst, assert_close(found, expected, line))
    print(f"bits of {len(lines)} names differ by at most {worst:.1e}")


def test_continuous_logits(directory):
    """The bits of the lines of a continuous text, each between line breaks."""
    tokenizer, model = load(os.path.join(directory, "text-hf"))
    lines = [
        line for line in lines_of("tinyshakespeare.txt", 300) if len(line) < model.config.block_size
    ]
    for line, expected in zip(lines, bits_per_token(directory, "text", lines), strict=True):
        assert_close(torch_bits(model, tokenizer("\n" + line + "\n").input_ids), expected, line)


def test_chat_logits(directory, tokenizer, model):
    """The bits of conversations under the chat template."""
    lines, ids = [], []
    for line in lines_of("oasst1_chat.jsonl", 1000):
        messages = json.loads(line)
        messages = messages["messages"] if isinstance(messages, dict) else messages
        tokens = tokenizer.apply_chat_template(messages, return_dict=False) + [tokenizer.bos_token_id]
        if len(tokens) <= model.config.block_size and len(lines) < 100:
            lines.append(line)
            ids.append(tokens)
    for tokens, expected in zip(ids, bits_per_token(directory, "chat", lines), strict=True):
        assert_close(torch_bits(model, tokens), expected, tokens)
    print(f"bits of {len(lines)} conversations agree")


def test_tokenizer(tokenizer):
    """Unknown characters are left out, special tokens are not decoded."""
    ids = tokenizer("an Ωna").input_ids
    assert ids == [26, 0, 13, 13, 0], ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == "anna"
    assert tokenizer.decode(ids) == "<bos>anna"


def test_greedy_generation(directory, tokenizer, model):
    """The KV cache of generate(), left padding in a batch, and no cache."""
    prompts = ["a", "jo", "mar", "chris"]
    expected = [
        microgpt(
            directory, "generate", "-m", "names", "-n", "1", "--temperature", "0", "--prompt", prompt
        ).strip()
        for prompt in prompts
    ]
    for use_cache in (True, False):
        batch = tokenizer(prompts, return_tensors="pt", padding=True)
        assert batch.attention_mask[0].tolist() == [0, 0, 0, 0, 1, 1]
        tokens = model.generate(**batch, do_sample=False, use_cache=use_cache)
        assert tokenizer.batch_decode(tokens, skip_special_tokens=True) == expected
    with torch.no_grad():
        padded = model(**batch).logits[:, -1]
        for prompt, row in zip(prompts, padded, strict=True):
            alone = model(**tokenizer(prompt, return_tensors="pt")).logits[0, -1]
            torch.testing.assert_close(row, alone, atol=1e-5, rtol=1e-5)
    generate = pipeline("text-generation", model=model, tokenizer=tokenizer)
    assert generate("jo", do_sample=False)[0]["generated_text"] == expected[1]


def test_greedy_reply(directory, tokenizer, model):
    """A reply to a conversation in the chat template."""
    messages = [{"role": "user", "content": "hello"}]
    batch = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")
    tokens = model.generate(**batch, do_sample=False)[0, batch["input_ids"].shape[1] :]
    expected = microgpt(
        directory, "chat", "-m", "chat", "--temperature", "0", input="hello\n"
    ).removesuffix("\n")
    assert tokenizer.decode(tokens, skip_special_tokens=True) == expected
    chat = pipeline("text-generation", model=model, tokenizer=tokenizer)
    reply = chat(messages, do_sample=False)[0]["generated_text"][-1]
    assert reply == {"role": "assistant", "content": expected}, reply


def test_context(model):
    """An input that exceeds the context is an error with its length."""
    try:
        model(torch.zeros(1, model.config.block_size + 1, dtype=torch.long))
    except ValueError as error:
        assert "17 tokens, more than the model's context of 16" in str(error), error
    else:
        raise AssertionError("the context has no limit")


def test_attention_implementations(directory):
    path = os.path.join(directory, "chat-hf")
    ids = torch.arange(20)[None] % 20
    with torch.no_grad():
        logits = [load(path, attn_implementation=name)[1](ids).logits for name in ("sdpa", "eager")]
    torch.testing.assert_close(*logits, atol=1e-5, rtol=1e-5)


def test_outputs_and_parallel_plans(model):
    outputs = model(torch.zeros(1, 4, dtype=torch.long), output_hidden_states=True)
    assert len(outputs.hidden_states) >= model.config.n_layer
    names = [name for name, _ in model.model.named_modules()]
    for plan in (model.config.base_model_tp_plan, model.config.base_model_pp_plan):
        for pattern in plan:
            assert pattern.replace("*", "0") in names, pattern


def gradients(model, ids):
    model.zero_grad()
    model(ids, labels=ids, use_cache=False).loss.backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


def test_gradient_checkpointing(directory):
    _, model = load(os.path.join(directory, "chat-hf"))
    model.train()
    ids = torch.arange(24)[None]
    expected = gradients(model, ids)
    model.activation_checkpointing_enable()
    assert model.is_activation_checkpointing
    for found, gradient in zip(gradients(model, ids), expected, strict=True):
        torch.testing.assert_close(found, gradient)


def test_save_pretrained(directory, tokenizer, model):
    """microgpt reads what transformers saves, in any of its number formats and in shards."""
    expected = microgpt(directory, "generate", "-m", "names", "-n", "20")
    for name, options in (("saved", {}), ("sharded", {"max_shard_size": "4KB"})):
        path = os.path.join(directory, name)
        model.save_pretrained(path, **options)
        tokenizer.save_pretrained(path)
        assert microgpt(directory, "generate", "-m", name, "-n", "20") == expected
        load(path)
    assert os.path.exists(os.path.join(directory, "sharded/model.safetensors.index.json"))
    for dtype, name in ((torch.float16, "f16"), (torch.bfloat16, "bf16")):
        _, half = load(os.path.join(directory, "names-hf"), dtype=dtype)
        half.save_pretrained(os.path.join(directory, name))
        assert json.loads(microgpt(directory, "info", "-m", name, "--json"))["dtype"] == name
        expected = microgpt(directory, "score", "-m", "names", "--summary", input="emma\n").split()[0]
        found = microgpt(directory, "score", "-m", name, "--summary", input="emma\n").split()[0]
        assert abs(float(found) - float(expected)) < 0.05, (name, found, expected)
        microgpt(
            directory, "train", "--init-from", name, "-o", name + "-more", "--steps", "2", "--quiet"
        )


def main():
    torch.manual_seed(1)
    with tempfile.TemporaryDirectory() as directory:
        program.train(directory, "names", "--steps", "300")
        program.train(
            directory, "chat", "--chat", "--steps", "60", "--n-layer", "2", "--block-size", "128"
        )
        text = os.path.join(directory, "text.txt")
        with open(text, "w", encoding="utf-8") as file:
            file.write("\n".join(lines_of("tinyshakespeare.txt", 1000) or ["to be", "or not"]))
        program.train(
            directory, "text", "--text", "--input", text, "--steps", "40", "--block-size", "64"
        )
        for model in ("names", "chat", "text"):
            microgpt(directory, "export", "-m", model, "--format", "huggingface", "-o", model + "-hf")
        tokenizer, model = load(os.path.join(directory, "names-hf"))
        chat_tokenizer, chat_model = load(os.path.join(directory, "chat-hf"))
        test_text_logits(directory, tokenizer, model)
        test_continuous_logits(directory)
        test_chat_logits(directory, chat_tokenizer, chat_model)
        test_tokenizer(tokenizer)
        test_greedy_generation(directory, tokenizer, model)
        test_greedy_reply(directory, chat_tokenizer, chat_model)
        test_context(model)
        test_attention_implementations(directory)
        test_outputs_and_parallel_plans(chat_model)
        test_gradient_checkpointing(directory)
        test_save_pretrained(directory, tokenizer, model)
        print("transformers agrees with microgpt")


if __name__ == "__main__":
    main()
