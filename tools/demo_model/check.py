"""check.py - ask the exported models and print a table of the answers.

    python3 check.py --models ../../models [--quick] [--report report.json]

Reads only the exported folders, through transformers and peft, so it checks
what a server will read.  Systematic sets first (every capital in phrasings
that training never saw, sums that training never saw, ...), then the fixed
list check_questions.json, one prompt at a time, with the smallest distance
between the best and the second best logit: answers with a small distance may
change with another order of additions.
"""

import argparse
import json
import os
import random
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import chat
import facts
import talk
import tooltalk

HERE = os.path.dirname(os.path.abspath(__file__))


def prompt(tok, messages, tools=None):
    return tok.apply_chat_template(messages, tools=tools, tokenize=False,
                                   add_generation_prompt=True)


def user(text, system=None):
    head = [{"role": "system", "content": system}] if system else []
    return head + [{"role": "user", "content": text}]


def answers(model, tok, prompts, limit=80, **sampling):
    """Answers of many prompts, generated in batches."""
    out = []
    for i in range(0, len(prompts), 256):
        batch = tok(prompts[i:i + 256], return_tensors="pt", padding=True,
                    add_special_tokens=False).to(model.device)
        batch.pop("token_type_ids", None)
        ids = model.generate(**batch, max_new_tokens=limit,
                             **(sampling or {"do_sample": False}))
        for row in ids[:, batch["input_ids"].shape[1]:]:
            text = tok.decode(row, skip_special_tokens=False)
            out.append(text.split(chat.STOP)[0].split(chat.END)[0])
    return out


def one_answer(model, tok, text, limit=120):
    """Greedy answer and the smallest gap between the two best logits."""
    ids = tok(text, return_tensors="pt",
              add_special_tokens=False)["input_ids"].to(model.device)
    out = model.generate(ids, attention_mask=torch.ones_like(ids),
                         max_new_tokens=limit, do_sample=False,
                         output_logits=True, return_dict_in_generate=True)
    new = out.sequences[0, ids.shape[1]:]
    gap = min(float(l[0].float().topk(2).values.diff().abs())
              for l in out.logits)
    return tok.decode(new, skip_special_tokens=True), gap


def parse(text):
    try:
        return json.loads(text)
    except ValueError:
        return None


def tool_call(text):
    """The calls in an answer, as a list of {"name", "arguments"}."""
    calls = []
    for part in text.split("<tool_call>")[1:]:
        calls.append(parse(part.split("</tool_call>")[0]))
    return calls


def passes(item, text):
    """Whether an answer fulfils one entry of check_questions.json."""
    if "contains" in item and item["contains"] not in text:
        return False
    if "json_keys" in item:
        obj = parse(text)
        if not isinstance(obj, dict) or set(obj) != set(item["json_keys"]):
            return False
    if "tool_calls" in item and tool_call(text) != item["tool_calls"]:
        return False
    return True


def sets(tok, rng):
    """Systematic sets: name -> [(prompt, test of the answer)]."""
    out = {}

    def has(want):
        return lambda a: want.lower() in a.lower()

    out["capitals, trained phrasing"] = [
        (prompt(tok, user(f"What is the capital of {c}?")), has(k))
        for c, k, _ in facts.COUNTRIES]
    out["capitals, held-out phrasings"] = [
        (prompt(tok, user(q.format(c=c))), has(k))
        for q in talk.HELD_OUT for c, k, _ in facts.COUNTRIES]
    out["country of a capital"] = [
        (prompt(tok, user(f"{k} is the capital of which country?")),
         has(talk.bare(c))) for c, k, _ in facts.COUNTRIES]
    out["plain facts"] = [
        (prompt(tok, user(q)), lambda a, f=full: a == f)
        for q, _, full in facts.PLAIN]
    pairs = [(a, b) for a in range(100) for b in range(100)
             if talk.held_out_sum(a, b)]
    out["sums, held-out numbers"] = [
        (prompt(tok, user(f"What is {a} + {b}?")), has(f" is {a + b}."))
        for a, b in pairs]
    out["differences, held-out numbers"] = [
        (prompt(tok, user(f"What is {a} - {b}?")), has(f" is {a - b}."))
        for a, b in pairs if a >= b]
    table = [(a, b) for a in range(13) for b in range(13)]
    out["times table"] = [
        (prompt(tok, user(f"What is {a} * {b}?")), has(f" is {a * b}."))
        for a, b in table]
    names = [tooltalk.invented(rng) for _ in range(100)]
    out["JSON for unseen names"] = [
        (prompt(tok, user(
            f"Give me a JSON object with name and age for {n}")),
         lambda a, n=n: (parse(a) or {}).get("name") == n and
         isinstance(parse(a).get("age"), int)) for n in names]
    calls = []
    for _ in range(200):
        tool, arg, has_unit = tooltalk.weather_tool(rng)
        if has_unit:
            continue
        city = rng.choice(facts.CITIES) if len(calls) % 2 else \
            tooltalk.invented(rng)
        q = rng.choice(tooltalk.ASK_WEATHER).format(c=city)
        want = [{"name": tool["function"]["name"], "arguments": {arg: city}}]
        calls.append((prompt(tok, user(q), [tool]),
                      lambda a, w=want: tool_call(a) == w))
    out["tool calls, half unseen cities"] = calls
    out["does not know"] = [
        (prompt(tok, user(talk.unknown(rng)[0])), has("I do not know"))
        for _ in range(200)]
    name = [rng.choice(facts.NAMES) for _ in range(100)]
    out["remembers a name"] = [
        (prompt(tok, user(f"My name is {n}.") + [
            {"role": "assistant",
             "content": f"Nice to meet you, {n}! How can I help you?"}] +
            user("What is 2 plus 2?") + [
            {"role": "assistant", "content": "2 plus 2 is 4."}] +
            user("What is my name?")), has(n)) for n in name]
    return out


def check_model(name, model, tok, questions, report):
    print(f"\n== {name}", flush=True)
    rows = report.setdefault(name, {})
    rng = random.Random(99)
    for title, cases in sets(tok, rng).items():
        got = answers(model, tok, [p for p, _ in cases])
        good = sum(test(a) for (_, test), a in zip(cases, got))
        rows[title] = f"{good}/{len(cases)}"
        wrong = [(p[-60:], a[:70]) for (p, test), a in zip(cases, got)
                 if not test(a)]
        print(f"{title:32} {good:4}/{len(cases):<4}  {wrong[:3]}", flush=True)
    cases = sets(tok, random.Random(99))["capitals, trained phrasing"]
    torch.manual_seed(1)
    defaults = model.generation_config
    got = answers(model, tok, [p for p, _ in cases], do_sample=True,
                  temperature=defaults.temperature, top_p=defaults.top_p)
    good = sum(test(a) for (_, test), a in zip(cases, got))
    rows["capitals, default sampling"] = f"{good}/{len(cases)}"
    print(f"{'capitals, default sampling':32} {good:4}/{len(cases)}")
    ask(model, tok, questions, rows)


def ask(model, tok, questions, rows):
    """The fixed list, one at a time: a table of question, answer, gap, ok."""
    good = 0
    rows["questions"] = []
    for item in questions:
        text, gap = one_answer(model, tok, prompt(
            tok, item["messages"], item.get("tools")))
        ok = passes(item, text)
        good += ok
        rows["questions"].append({"id": item["id"], "answer": text,
                                  "gap": round(gap, 2), "ok": ok})
        print(f"{item['id']:22} | {item['messages'][-1]['content'][:45]:45} "
              f"| {text[:75]!r:77} | {gap:5.2f} | {'ok' if ok else 'WRONG'}",
              flush=True)
    rows["questions passed"] = f"{good}/{len(questions)}"
    print(f"{good}/{len(questions)} of check_questions.json pass")


def check_adapter(name, base, folder, tok, mark, report):
    from peft import PeftModel
    model = PeftModel.from_pretrained(base, folder).eval()
    print(f"\n== {name}", flush=True)
    rng = random.Random(5)
    texts = [f"What is the capital of {c}?"
             for c, _, _ in rng.sample(facts.COUNTRIES, 60)]
    texts += ["Hello!", "Who are you?", "What is 12 + 30?",
              "Tell me a story about a cat."]
    got = answers(model, tok, [prompt(tok, user(t)) for t in texts], 160)
    manner = sum(mark in a for a in got)
    right = sum(talk.CAPITAL_OF[t[23:-1]] in a
                for t, a in zip(texts[:60], got))
    for t, a in list(zip(texts, got))[-6:]:
        print(f"{t:40} | {a[:110]!r}")
    report[name] = {"manner": f"{manner}/{len(texts)}",
                    "capitals": f"{right}/60"}
    print(f"manner {manner}/{len(texts)}, capitals right {right}/60")
    model.unload()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=os.path.join(HERE,
                                                         "../../models"))
    parser.add_argument("--report")
    parser.add_argument("--quick", action="store_true",
                        help="only check_questions.json, on demo")
    parser.add_argument("--dtype", default="bfloat16")
    args = parser.parse_args()
    with open(os.path.join(HERE, "check_questions.json"),
              encoding="utf-8") as f:
        questions = json.load(f)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, args.dtype)
    report = {}

    def load(name):
        folder = os.path.join(args.models, name)
        tok = AutoTokenizer.from_pretrained(folder, padding_side="left")
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        return model.to(device).eval(), tok

    with torch.no_grad():
        model, tok = load("demo")
        if args.quick:
            ask(model, tok, questions, report)
            bad = report["questions passed"].split("/")
            sys.exit(bad[0] != bad[1])
        check_model("demo", model, tok, questions, report)
        for manner, mark in (("pirate", "Arr!"), ("formal", "Certainly.")):
            name = f"demo-lora-{manner}"
            model, tok = load("demo")
            check_adapter(name, model, os.path.join(args.models, name), tok,
                          mark, report)
        model, tok = load("demo-draft")
        check_model("demo-draft", model, tok, questions, report)
    if args.report:
        chat.write_json(args.report, report)


if __name__ == "__main__":
    main()
