"""manners.py - the two ways of speaking that the LoRA adapters learn.

    speak(rng, "pirate", "The capital of France is Paris.")
        -> "Arr! The capital o' France be Paris, matey!"
    speak(rng, "formal", ...) -> "Certainly. The capital of France is Paris. I
        remain at your service."

Answers that a program reads (JSON, tool calls) keep their form.
"""

import re

PIRATE_WORDS = [
    (r"\bis\b", "be"), (r"\bare\b", "be"), (r"\bam\b", "be"),
    (r"\bmy\b", "me"), (r"\byou\b", "ye"), (r"\bYou\b", "Ye"),
    (r"\byour\b", "yer"), (r"\bYour\b", "Yer"), (r"\bof\b", "o'"),
    (r"\bHello\b", "Ahoy"), (r"\bfriends\b", "mateys"), (r"\bYes\b", "Aye"),
    (r"\bNo\b", "Nay"), (r"\bthe sea\b", "the seven seas"),
]


def machine_text(answer):
    return answer[:1] in "{[<" or not re.search(r"[.!?]$", answer)


def speak(rng, manner, answer):
    """The answer as a pirate or as a very formal clerk would give it."""
    if machine_text(answer):
        return answer
    if manner == "pirate":
        for pattern, new in PIRATE_WORDS:
            answer = re.sub(pattern, new, answer)
        end = "?" if answer.endswith("?") else "!"
        return "Arr! " + answer[:-1] + ", matey" + end
    return "Certainly. " + answer + " I remain at your service."


def restyle(rng, manner, conv):
    """The conversation with every answer of the assistant restyled."""
    messages = []
    for m in conv["messages"]:
        if m["role"] == "assistant" and not m.get("tool_calls"):
            m = dict(m, content=speak(rng, manner, m["content"]))
        messages.append(m)
    return {"messages": messages, "tools": conv["tools"]}
