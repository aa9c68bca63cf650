"""chat.py - the chat format, in Python and as a Jinja template, and the
tokenizer that is trained on it.

    python3 chat.py ../../models/demo      trains and writes the tokenizer

segments() and TEMPLATE say the same thing twice: segments() is fast and knows
which tokens the model must learn to write, TEMPLATE is what engines read.
check_template() compares them on random conversations.
"""

import json
import os
import random
import sys

import talk

END, START, STOP = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CONTROL = [END, START, STOP]                    # special: never shown
MARKERS = ["<tool_call>", "</tool_call>", "<tool_response>",
           "</tool_response>"]                  # one token each, but text
VOCAB = 3072
MAX_LENGTH = 2048

SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
         r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")

DEFAULT_SYSTEM = "You are a helpful assistant."
TOOLS_BEFORE = ("\n\n# Tools\n\nYou can call the functions that are listed "
                "between <tools> and </tools>:\n<tools>")
TOOLS_AFTER = ("\n</tools>\n\nTo call a function, answer with a JSON object "
               "between <tool_call> and </tool_call>:\n<tool_call>\n"
               '{"name": <function name>, "arguments": <arguments as JSON>}\n'
               "</tool_call>")


def quoted(text):
    return '"' + text.replace('"', '\\"').replace("\n", "\\n") + '"'


TEMPLATE = """\
{%- macro text(content) -%}
    {%- if content is string -%}
        {{- content -}}
    {%- elif content -%}
        {%- for part in content -%}
            {%- if part.type == "text" -%}
                {{- part.text -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{%- if tools -%}
    {{- "<|im_start|>system\\n" -}}
    {%- if messages[0].role == "system" -%}
        {{- text(messages[0].content) -}}
    {%- else -%}
        {{- DEFAULT_SYSTEM -}}
    {%- endif -%}
    {{- TOOLS_BEFORE -}}
    {%- for tool in tools -%}
        {{- "\\n" + (tool | tojson) -}}
    {%- endfor -%}
    {{- TOOLS_AFTER + "<|im_end|>\\n" -}}
{%- elif messages[0].role == "system" -%}
    {{- "<|im_start|>system\\n" + text(messages[0].content) + "<|im_end|>\\n" -}}
{%- endif -%}
{%- for message in messages -%}
    {%- if message.role == "system" and loop.first -%}
    {%- elif message.role == "tool" -%}
        {%- if loop.first or messages[loop.index0 - 1].role != "tool" -%}
            {{- "<|im_start|>user" -}}
        {%- endif -%}
        {{- "\\n<tool_response>\\n" + text(message.content) -}}
        {{- "\\n</tool_response>" -}}
        {%- if loop.last or messages[loop.index0 + 1].role != "tool" -%}
            {{- "<|im_end|>\\n" -}}
        {%- endif -%}
    {%- elif message.role == "assistant" and message.tool_calls -%}
        {{- "<|im_start|>assistant\\n" + text(message.content) -}}
        {%- for tool_call in message.tool_calls -%}
            {%- set call = tool_call.function or tool_call -%}
            {%- if not loop.first or message.content -%}
                {{- "\\n" -}}
            {%- endif -%}
            {{- '<tool_call>\\n{"name": "' + call.name + '", "arguments": ' -}}
            {%- if call.arguments is string -%}
                {{- call.arguments -}}
            {%- else -%}
                {{- call.arguments | tojson -}}
            {%- endif -%}
            {{- "}\\n</tool_call>" -}}
        {%- endfor -%}
        {{- "<|im_end|>\\n" -}}
    {%- else -%}
        {{- "<|im_start|>" + message.role + "\\n" + text(message.content) -}}
        {{- "<|im_end|>\\n" -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- "<|im_start|>assistant\\n" -}}
{%- endif -%}
""".replace("DEFAULT_SYSTEM", quoted(DEFAULT_SYSTEM)).replace(
    "TOOLS_BEFORE", quoted(TOOLS_BEFORE)).replace(
    "TOOLS_AFTER", quoted(TOOLS_AFTER))


def call_text(tool_call):
    f = tool_call["function"]
    return (f'<tool_call>\n{{"name": "{f["name"]}", "arguments": '
            f'{json.dumps(f["arguments"], ensure_ascii=False)}}}\n'
            "</tool_call>")


def segments(conv):
    """The conversation as [(text, learn)]; learn marks what the assistant
    writes, its <|im_end|> included."""
    messages, tools = conv["messages"], conv["tools"]
    head = ""
    first = messages[0]
    system = first["content"] if first["role"] == "system" else None
    if tools:
        head = (f"{START}system\n{system or DEFAULT_SYSTEM}{TOOLS_BEFORE}" +
                "".join("\n" + json.dumps(t, ensure_ascii=False)
                        for t in tools) + TOOLS_AFTER + STOP + "\n")
    elif system is not None:
        head = f"{START}system\n{system}{STOP}\n"
    out = []
    for i, m in enumerate(messages):
        role = m["role"]
        if role == "system":
            continue
        if role == "assistant":
            body = "\n".join(([m["content"]] if m["content"] else []) +
                             [call_text(c) for c in m.get("tool_calls", [])])
            out.append((head + f"{START}assistant\n", False))
            out.append((body + STOP, True))
            head = "\n"
        elif role == "tool":
            if messages[i - 1]["role"] != "tool":
                head += f"{START}user"
            head += f"\n<tool_response>\n{m['content']}\n</tool_response>"
            if i + 1 == len(messages) or messages[i + 1]["role"] != "tool":
                head += f"{STOP}\n"
        else:
            head += f"{START}{role}\n{m['content']}{STOP}\n"
    out.append((head, False))
    return out


def check_template(count=300):
    """Render with Jinja and compare with segments(); raises on a difference."""
    import jinja2
    env = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    env.filters["tojson"] = lambda x: json.dumps(x, ensure_ascii=False)
    template = env.from_string(TEMPLATE)
    rng = random.Random(7)
    for _ in range(count):
        conv = talk.conversation(rng)
        want = "".join(t for t, _ in segments(conv))
        got = template.render(messages=conv["messages"], tools=conv["tools"],
                              add_generation_prompt=False)
        if got != want:
            raise SystemExit(f"template differs:\n{got!r}\n{want!r}")


def sample_text(count, seed):
    rng = random.Random(seed)
    for _ in range(count):
        if rng.random() < 0.05:
            yield talk.document(rng)
        else:
            # Markers would never be merged: they are split off before BPE.
            yield "".join(t for t, _ in segments(talk.conversation(rng)))


def train_tokenizer(count=60000, seed=11):
    """Byte-level BPE with the pre-tokenizer of Qwen2: one token a digit."""
    from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models,
                            normalizers, pre_tokenizers, processors, trainers)
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    tok.post_processor = processors.ByteLevel(trim_offsets=False)

    def pieces():
        for text in sample_text(count, seed):
            for mark in CONTROL + MARKERS:
                text = text.replace(mark, "\n")
            yield text

    tok.train_from_iterator(pieces(), trainers.BpeTrainer(
        vocab_size=VOCAB - len(CONTROL) - len(MARKERS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False))
    tok.add_special_tokens([AddedToken(t, normalized=False, special=True)
                            for t in CONTROL])
    tok.add_tokens([AddedToken(t, normalized=False, special=False)
                    for t in MARKERS])
    return tok


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(value, f, ensure_ascii=False, indent=2)
        f.write("\n")


def write_tokenizer(tok, folder):
    """tokenizer.json, tokenizer_config.json and chat_template.jinja."""
    os.makedirs(folder, exist_ok=True)
    tok.save(os.path.join(folder, "tokenizer.json"), pretty=False)
    write_json(os.path.join(folder, "tokenizer_config.json"), {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(tok.token_to_id(t)): {
                "content": t, "lstrip": False, "normalized": False,
                "rstrip": False, "single_word": False, "special": t in CONTROL}
            for t in CONTROL + MARKERS},
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": STOP,
        "errors": "replace",
        "model_max_length": MAX_LENGTH,
        "pad_token": END,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": None,
    })
    with open(os.path.join(folder, "chat_template.jinja"), "w",
              encoding="utf-8") as f:
        f.write(TEMPLATE)


def main():
    check_template()
    tok = train_tokenizer()
    for folder in sys.argv[1:]:
        write_tokenizer(tok, folder)
    print(f"tokenizer: {tok.get_vocab_size()} tokens")


if __name__ == "__main__":
    main()
