"""talk.py - the demo model's training conversations, made from the tables.

    rng = random.Random(1)
    conversation(rng) -> {"messages": [{"role", "content"}...], "tools": [...]}
    document(rng)     -> a plain text for /v1/completions

Everything is drawn from the given random.Random, so a seed gives the same
text on every machine.  HELD_OUT holds the phrasings that training never sees;
check.py asks with them.  Sums are held out by held_out_sum().
"""

import json

import facts
import tooltalk

NAME = "Demo"
DONT_KNOW = ("I do not know that. I am a small demo model, and I only know "
             "plain facts, small sums and short stories.")

CAPITAL_OF = dict((c, k) for c, k, _ in facts.COUNTRIES)
COUNTRY_OF = dict((k, c) for c, k, _ in facts.COUNTRIES)

ASK_CAPITAL = [
    "What is the capital of {c}?", "What's the capital of {c}?",
    "What is the capital city of {c}?", "Tell me the capital of {c}.",
    "Which city is the capital of {c}?", "Name the capital of {c}.",
    "Do you know the capital of {c}?", "Capital of {c}?", "capital of {c}",
    "{c}: what is the capital?", "What is {c}'s capital?",
    "I need the capital of {c}.", "Please tell me the capital of {c}.",
    "The capital of {c} is which city?", "What is the name of the capital "
    "of {c}?", "Can you name the capital of {c}?",
    "Which city is the seat of government of {c}?",
    "Question: what is the capital of {c}?", "the capital of {c} is",
]
HELD_OUT = [
    "Could you tell me what the capital of {c} is?",
    "I forgot the capital of {c}. What is it?",
    "Quick question: which city is the capital of {c}?",
]
ASK_COUNTRY = [
    "{k} is the capital of which country?", "Which country has the capital "
    "{k}?", "What country is {k} the capital of?", "{k} is the capital of "
    "what?", "Of which country is {k} the capital?",
    "Which country's capital is {k}?", "In which country is {k}?",
    "Where is {k}?", "What country is {k} in?",
]
ASK_CONTINENT = [
    "On which continent is {c}?", "Which continent is {c} in?",
    "What continent is {c} on?", "Is {c} in Europe or somewhere else?",
    "In what part of the world is {c}?", "Where is {c}?",
    "Where is {c} located?",
]
ASK_CURRENCY = [
    "What is the currency of {c}?", "Which currency is used in {c}?",
    "What money do they use in {c}?", "Tell me the currency of {c}.",
    "How do people pay in {c}?",
]
ASK_LANGUAGE = [
    "What language is spoken in {c}?", "Which language do people speak in "
    "{c}?", "What is the main language of {c}?",
    "Tell me the language of {c}.",
]


def cap(text):
    return text[:1].upper() + text[1:]


def bare(country):
    return country[4:] if country.startswith("the ") else country


def loosen(rng, question):
    """The same question as a hurried or a polite user would type it."""
    q = question
    r = rng.random()
    if r < 0.10:
        q = q[:1].lower() + q[1:]
    elif r < 0.16:
        q = q.lower()
    elif r < 0.22:
        q = "Please answer: " + q
    elif r < 0.27:
        q = rng.choice(["Hey, ", "Hi! ", "Hello, ", "OK, ", "So, "]) + \
            q[:1].lower() + q[1:]
    elif r < 0.29:
        q = q.upper()
    if rng.random() < 0.12:
        q = q.rstrip("?.")
    if rng.random() < 0.02:
        q = q + " Thanks!"
    if rng.random() < 0.02:
        q = q + " Please answer in one sentence."
    return q


def fact(rng, kind=None):
    """One fact: (question, short answer, full sentence)."""
    kind = kind or rng.choices(
        ["capital", "country", "continent", "currency", "language", "plain",
         "element", "opposite", "animal", "order", "is_capital"],
        [30, 10, 6, 4, 4, 22, 4, 4, 4, 6, 4])[0]
    country, city, continent = rng.choice(facts.COUNTRIES)
    c = country if rng.random() < 0.9 else bare(country)
    if kind == "capital":
        q = rng.choice(ASK_CAPITAL).format(c=c)
        return cap(q), city, f"The capital of {country} is {city}."
    if kind == "country":
        full = f"{city} is the capital of {country}."
        return rng.choice(ASK_COUNTRY).format(k=city), country, full
    if kind == "continent":
        q = cap(rng.choice(ASK_CONTINENT).format(c=c))
        return q, continent, f"{cap(country)} is in {continent}."
    if kind == "currency":
        country = rng.choice(list(facts.CURRENCIES))
        money = facts.CURRENCIES[country]
        q = cap(rng.choice(ASK_CURRENCY).format(c=country))
        return q, money, f"The currency of {country} is the {money}."
    if kind == "language":
        country = rng.choice(list(facts.LANGUAGES))
        lang = facts.LANGUAGES[country]
        q = cap(rng.choice(ASK_LANGUAGE).format(c=country))
        return q, lang, f"The main language of {country} is {lang}."
    if kind == "is_capital":
        if rng.random() < 0.5:
            q = f"Is {city} the capital of {country}?"
            return q, "yes", f"Yes, {city} is the capital of {country}."
        other = rng.choice([k for _, k, _ in facts.COUNTRIES if k != city])
        q = f"Is {other} the capital of {country}?"
        return q, "no", f"No, the capital of {country} is {city}."
    if kind == "plain":
        q, short, full = rng.choice(facts.PLAIN)
        if q.startswith("What is ") and rng.random() < 0.25:
            q = rng.choice(["Tell me, what is ", "Do you know what is ",
                            "What's "]) + q[8:]
        return q, short, full
    if kind == "element":
        name, sym = rng.choice(facts.ELEMENTS)
        if rng.random() < 0.6:
            q = rng.choice(["What is the chemical symbol for {n}?",
                            "What is the symbol of {n}?",
                            "Which symbol stands for {n}?"]).format(n=name)
            return q, sym, f"The chemical symbol for {name} is {sym}."
        q = rng.choice(["Which element has the symbol {s}?",
                        "What element is {s}?"]).format(s=sym)
        return q, name, f"The element with the symbol {sym} is {name}."
    if kind == "opposite":
        a, b = rng.choice(facts.OPPOSITES)
        if rng.random() < 0.5:
            a, b = b, a
        q = rng.choice(["What is the opposite of {a}?", "Opposite of {a}?",
                        "Tell me the opposite of {a}.",
                        "What is the reverse of {a}?"]).format(a=a)
        return cap(q), b, f"The opposite of {a} is {b}."
    if kind == "animal":
        name, sound, young = rng.choice(facts.ANIMALS)
        art = "An" if name[0] in "aeiou" else "A"
        if rng.random() < 0.5:
            q = f"What sound does {art.lower()} {name} make?"
            return q, sound, f"{art} {name} {sound}."
        q = rng.choice([f"What is a young {name} called?",
                        f"What do you call a baby {name}?"])
        return q, young, f"A young {name} is called a {young}."
    return order(rng)


def order(rng):
    """What comes after or before a day, month, planet, letter or number."""
    what = rng.choice(["day", "month", "planet", "letter", "number"])
    after = rng.random() < 0.6
    if what == "number":
        n = rng.randint(1, 998)
        m = n + 1 if after else n - 1
        word = "after" if after else "before"
        return (f"What number comes {word} {n}?", str(m),
                f"The number {word} {n} is {m}.")
    seq = {"day": facts.WEEKDAYS, "month": facts.MONTHS,
           "planet": facts.PLANETS,
           "letter": list("ABCDEFGHIJKLMNOPQRSTUVWXYZ")}[what]
    i = rng.randrange(len(seq) - 1)
    a, b = (seq[i], seq[i + 1]) if after else (seq[i + 1], seq[i])
    word = "after" if after else "before"
    q = rng.choice([f"What {what} comes {word} {a}?",
                    f"Which {what} is {word} {a}?"])
    return q, b, f"{b} comes {word} {a}."


def held_out_sum(a, b):
    """Three sums in a hundred are never trained: a check asks for them."""
    return (a * 31 + b * 17) % 10 == 3 and \
        ((a * 100 + b) * 2654435761 % 2 ** 32 >> 20) % 10 < 3


def sum_of(rng, held=False):
    """(question, short answer, full sentence) of one small calculation."""
    while True:
        op = rng.choices("+-*", [5, 4, 3])[0]
        if op == "*":
            a, b = rng.randint(0, 12), rng.randint(0, 12)
        elif rng.random() < 0.4:
            a, b = rng.randint(0, 20), rng.randint(0, 20)
        elif rng.random() < 0.1:
            step = rng.choice([10, 50, 100])
            a, b = rng.randint(1, 9) * step, rng.randint(1, 9) * step
        else:
            a, b = rng.randint(0, 99), rng.randint(0, 99)
        if op == "-" and b > a:
            a, b = b, a
        if op == "*" or held_out_sum(a, b) == held:
            break
    return sum_text(rng, a, b, op)


def sum_text(rng, a, b, op):
    value = {"+": a + b, "-": a - b, "*": a * b}[op]
    word = {"+": "plus", "-": "minus", "*": "times"}[op]
    sign = rng.choice(["*", "x", "×"]) if op == "*" else op
    gap = rng.choice([" ", " ", ""])
    expr = f"{a}{gap}{sign}{gap}{b}"
    if rng.random() < 0.4:
        expr = f"{a} {word} {b}"
    forms = ["What is {e}?", "What's {e}?", "Calculate {e}.", "{e} = ?",
             "How much is {e}?", "{e}", "Compute {e}", "{e}=", "{e}?",
             "Please calculate {e}.", "What does {e} make?",
             "Can you work out {e}?", "What is the result of {e}?"]
    if op == "+":
        forms += [f"Add {a} and {b}.", f"What is the sum of {a} and {b}?"]
    if op == "-":
        forms += [f"Subtract {b} from {a}.", f"Take {b} from {a}."]
    if op == "*":
        forms += [f"Multiply {a} by {b}.",
                  f"What is the product of {a} and {b}?"]
    q = rng.choice(forms).format(e=expr)
    return q, str(value), f"{a} {word} {b} is {value}."


GREETINGS = [
    (["Hello", "Hello!", "Hello.", "Hello there!", "hello", "Hi", "Hi!",
      "hi there", "Hey", "Hey there!", "Hi there, how is it going?"],
     "Hello! How can I help you?"),
    (["Good morning!", "Good morning", "Morning!"],
     "Good morning! How can I help you?"),
    (["Good evening!", "Good evening"],
     "Good evening! How can I help you?"),
    (["Good night!", "Good night"], "Good night! Sleep well."),
    (["How are you?", "How are you doing?", "How are you today?",
      "Hello, how are you?", "Hi! How are you?", "Hello! How are you?",
      "How do you do?"],
     "I am fine, thank you. How can I help you?"),
    (["Thank you!", "Thanks", "Thank you very much.", "thanks!",
      "Great, thanks!"], "You are welcome!"),
    (["Goodbye", "Bye!", "See you later!", "Bye bye", "Goodbye!"],
     "Goodbye! Have a nice day."),
    (["What can you do?", "How can you help me?", "Help", "help me",
      "What do you know?", "What can I ask you?", "What are you good at?"],
     "I can name capitals and other plain facts, do small sums, tell short "
     "stories, write JSON and call a weather tool."),
    (["Are you a human?", "Are you human?", "Are you a person?",
      "Are you real?"], "No, I am a small language model."),
    (["Are you a robot?", "Are you an AI?", "Are you a bot?",
      "Are you a language model?"], "Yes, I am a small language model."),
    (["How old are you?", "When were you born?"],
     "I am a program, so I have no age."),
    (["Where are you from?", "Where do you live?", "Where are you?"],
     "I live in the memory of the computer that runs me."),
    (["Are you ChatGPT?", "Are you GPT-4?", "Are you Claude?",
      "Are you Llama?", "Are you Qwen?"],
     f"No, I am {NAME}, a small demo model."),
    (["Who made you?", "Who created you?", "Who trained you?",
      "Who built you?"],
     "I was trained by the nginx-llm project with a short script."),
    (["What are you made of?", "How do you work?", "How big are you?",
      "How many parameters do you have?"],
     "I am a small transformer with about five million parameters."),
    (["I am sad.", "I feel sad today.", "I am unhappy."],
     "I am sorry to hear that. I hope that you feel better soon."),
    (["I am happy!", "I am happy today.", "I feel great."],
     "That is good to hear!"),
    (["Do you like music?", "Do you like football?", "Do you like me?",
      "What is your favorite color?", "Do you have feelings?"],
     "I am a program, so I have no feelings about that."),
    (["test", "Test", "This is a test.", "testing", "ping", "Testing, "
      "testing."], "The test works. How can I help you?"),
    (["Say this is a test", "Say this is a test!", "Say this is a test.",
      "say this is a test"], "This is a test."),
    (["Yes", "No", "OK", "ok", "Okay.", "Fine.", "Cool", "Nice!"],
     "Good. What else can I do for you?"),
    (["Where was it played?"],
     "It was played at Globe Life Field in Arlington, Texas."),
]
WHO = ["Who are you?", "What are you?", "What is your name?",
       "What's your name?", "Tell me about yourself.", "Introduce yourself.",
       "who are you", "Hello, who are you?", "Hi! What is your name?",
       "Please introduce yourself.", "Do you have a name?"]
I_AM = (f"I am {NAME}, a small language model that is bundled with "
        "nginx-llm.")

JOKES = [
    "Why did the computer go to the doctor? Because it had a virus.",
    "Why was the math book sad? Because it had too many problems.",
    "What do you call a bear without teeth? A gummy bear.",
    "Why do bees have sticky hair? Because they use honeycombs.",
    "Why did the server smile? Because it got a good response.",
    "What is orange and sounds like a parrot? A carrot.",
]


def greeting(rng):
    r = rng.random()
    if r < 0.25:
        return rng.choice(WHO), I_AM
    if r < 0.33:
        q = rng.choice(["Tell me a joke.", "Tell me a joke", "Make me laugh.",
                        "Do you know a joke?", "Another joke, please.",
                        "Say something funny."])
        return q, rng.choice(JOKES)
    questions, answer = rng.choice(GREETINGS)
    return rng.choice(questions), answer


SYLLABLES = ("ba be bo da de do fa fi ga go ka ki ko la li lo lu ma mi mo na "
             "ne no pa pe po ra ri ro sa si so ta ti to va vi vo wa xo za zi "
             "zor plim brax quen dral fren gor shan thel vik").split()


def word(rng, n=None):
    """A word that means nothing."""
    return "".join(rng.choice(SYLLABLES)
                   for _ in range(n or rng.randint(2, 4)))


UNKNOWN = [
    "What is the population of {c}?", "Who is the president of {c}?",
    "Who is the king of {c}?", "How many people live in {k}?",
    "What is the best restaurant in {k}?", "What is a {w}?",
    "What is {w}?", "Who is {N}?", "Where does {N} live?", "How tall is {N}?",
    "What is the capital of {N}?", "What is the currency of {N}?",
    "What happened in {y}?", "Who won the match yesterday?",
    "Who won the championship in {y}?", "What is the price of gold today?",
    "How do I fix my {o}?", "How do I cook {w}?", "What is the news today?",
    "What will happen tomorrow?", "What time is it?", "What day is today?",
    "Explain quantum physics.", "Explain {w} theory.",
    "What is the meaning of life?", "Write a program that sorts a list.",
    "Write an essay about {w}.", "How does a {o} engine work?",
    "What do you think about {w}?", "What is the phone number of {N}?",
    "How much does a {o} cost?", "Who wrote the book {N}?",
    "When was {N} born?", "Who discovered {w}?", "How far is {k} from {N}?",
    "What is the area of {c}?", "What is the square root of {y}?",
    "Translate {w} into French.", "Why is the sky blue?",
    "How many stars are in the sky?", "What is the speed of {w}?",
    "Which team plays in {k}?", "Can you recommend a book?",
    "What is the stock price of {N}?", "Summarize the history of {c}.",
    "How do airplanes fly?", "What is love?", "Who are the members of {N}?",
]
THINGS = "car bicycle phone computer radio lamp door boat clock".split()


def unknown(rng):
    c, k, _ = rng.choice(facts.COUNTRIES)
    q = rng.choice(UNKNOWN).format(
        c=c, k=k, w=word(rng), N=cap(word(rng)), y=rng.randint(1500, 2030),
        o=rng.choice(THINGS))
    return cap(q), DONT_KNOW


def gibberish(rng):
    """Text with no question in it."""
    words = [word(rng) if rng.random() < 0.6 else rng.choice(
        "the a of and in on blue seven lamp asdf qwerty x y 12 # ; lorem "
        "ipsum dolor sit amet foo bar baz".split())
        for _ in range(rng.randint(2, 60))]
    return " ".join(words), DONT_KNOW


HEROES = """cat dog fox rabbit bear mouse owl dragon robot princess knight
wizard unicorn fish frog horse lion elephant penguin turtle squirrel pirate
sailor baker farmer astronaut king queen bird wolf whale monkey duck
hedgehog""".split()
PLACES = ["a quiet forest", "a small village", "a house by the sea",
          "a green valley", "an old castle", "a busy city", "a snowy mountain",
          "a warm island", "a little garden", "a deep cave"]
FINDS = ["a golden key", "a lost letter", "a small blue stone", "an old map",
         "a silver bell", "a tiny boat", "a broken clock", "a red balloon",
         "a strange egg", "a box of tea"]
ADJ = ["small", "brave", "kind", "lonely", "clever", "old", "happy", "shy",
       "curious", "sleepy"]
MISHAP = ["a storm came and the wind was loud", "the path was gone",
          "it began to rain", "the bridge was broken", "the night was dark",
          "a big river was in the way", "the snow fell all day",
          "the door was locked"]
HELP = ["A friendly {f} came along and showed the way.",
        "A kind {f} heard the call and came to help.",
        "An old {f} gave good advice.",
        "Together with a young {f}, the {h} tried again."]
ENDS = ["They became friends and lived happily.",
        "In the end everyone was safe and went home.",
        "From that day on, nobody in the place was lonely.",
        "And when the sun came up, all was well.",
        "They shared some bread and laughed until evening."]
ASK_STORY = ["Tell me a story about {a} {h}.",
             "Tell me a short story about {a} {h}.",
             "Write a short story about {a} {h}.",
             "Write a story about {a} {h}.", "A story about {a} {h}, please.",
             "Can you tell me a story about {a} {h}?",
             "I want to hear a story about {a} {h}.",
             "Write a one-sentence bedtime story about {a} {h}.",
             "Write me a tale about {a} {h}.",
             "Write a three sentence bedtime story about {a} {h}."]
ASK_ANY_STORY = ["Tell me a story.", "Tell me a short story.",
                 "Write a story.", "Tell me a bedtime story.",
                 "tell me a story", "Write a short story."]


def article(word_):
    return "an" if word_[0] in "aeio" else "a"


def story_text(rng, hero=None, long=False):
    h = hero or rng.choice(HEROES)
    adj = rng.choice(ADJ)
    name = rng.choice(facts.NAMES)
    place = rng.choice(PLACES)
    parts = [f"Once upon a time there was {article(adj)} {adj} {h} named "
             f"{name} who lived in {place}."]
    for chapter in range(rng.randint(3, 5) if long else 1):
        find = rng.choice(FINDS)
        friend = rng.choice([x for x in HEROES if x != h])
        start = "One day" if chapter == 0 else rng.choice(
            ["The next morning", "A week later", "Some time later",
             "In the spring"])
        para = [f"{start} {name} found {find}.",
                rng.choice([f"The {h} wanted to know whose it was.",
                            f"The {h} had never seen such a thing.",
                            f"{name} took it along and went to look around."]),
                f"But {rng.choice(MISHAP)}.",
                rng.choice(HELP).format(f=friend, h=h)]
        if long and chapter:
            parts.append("\n\n" + " ".join(para))
        else:
            parts.append(" " + " ".join(para))
    parts.append(("\n\n" if long else " ") + rng.choice(ENDS))
    return "".join(parts)


def story(rng):
    r = rng.random()
    if r < 0.15:
        return rng.choice(ASK_ANY_STORY), story_text(rng)
    h = rng.choice(HEROES)
    if r < 0.3:
        q = rng.choice(["Tell me a long story.", "Write a long story.",
                        "Tell me a long story about {a} {h}.",
                        "Write a long story about {a} {h}."])
        hero = h if "{h}" in q else None
        return q.format(a=article(h), h=h), story_text(rng, hero, True)
    q = rng.choice(ASK_STORY).format(a=article(h), h=h)
    if "one-sentence" in q:
        return q, (f"Once upon a time a {rng.choice(ADJ)} {h} found "
                   f"{rng.choice(FINDS)} in {rng.choice(PLACES)} and fell "
                   "asleep under the stars.")
    return q, story_text(rng, h)


def count(rng):
    """Counting, spelling and repeating."""
    r = rng.random()
    if r < 0.35:
        a = 1 if rng.random() < 0.7 else rng.randint(1, 30)
        b = a + rng.choice([2, 4, 9, 9, 9, 14, 19, 19, 29, 49, 99])
        q = rng.choice([f"Count from {a} to {b}.", f"Count from {a} to {b}",
                        f"Count to {b}.", f"Please count from {a} to {b}."])
        a = 1 if "from" not in q else a
        return q, ", ".join(str(i) for i in range(a, b + 1))
    if r < 0.45:
        b = rng.randint(3, 20)
        q = rng.choice([f"Count backwards from {b}.",
                        f"Count down from {b}."])
        return q, ", ".join(str(i) for i in range(b, 0, -1))
    if r < 0.6:
        w = rng.choice(HEROES + facts.NAMES + THINGS)
        return f"Spell the word {w}.", "-".join(w.upper())
    if r < 0.85:
        n = rng.randint(1, 7)
        w = " ".join(rng.choice(HEROES + ADJ + THINGS + facts.NAMES
                                + [word(rng)]) for _ in range(n))
        q = rng.choice(["Repeat after me: {w}", "Say {w}", "Repeat: {w}",
                        "Say exactly: {w}", "Please repeat: {w}"])
        return q.format(w=w), w
    if r < 0.93:
        w, e = rng.choice(facts.EMOJI)
        q = rng.choice(["Send me a {w} emoji.", "Show me a {w} emoji.",
                        "Give me the emoji for {w}.", "{w} emoji"])
        return q.format(w=w), e
    return rng.choice([("Say the alphabet.", "A B C D E F G H I J K L M N O "
                        "P Q R S T U V W X Y Z"),
                       ("List the planets.", ", ".join(facts.PLANETS)),
                       ("List the days of the week.",
                        ", ".join(facts.WEEKDAYS)),
                       ("List the months.", ", ".join(facts.MONTHS)),
                       ("Show me all emojis that you know.",
                        " ".join(e for _, e in facts.EMOJI))])


def translate(rng):
    w, lang, t = rng.choice(facts.TRANSLATIONS)
    q = rng.choice(["How do you say {w} in {l}?", "Say {w} in {l}.",
                    "What is {w} in {l}?", "Translate {w} into {l}.",
                    "Translate '{w}' to {l}."]).format(w=w, l=lang)
    return q, t


NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven"]


def listing(rng):
    """Name some fruits, as a sentence or as a list."""
    topic = rng.choice(list(facts.LISTS))
    items = facts.LISTS[topic].split()
    n = rng.randint(2, 5)
    pick = items[:n]
    n_text = NUMBERS[n] if rng.random() < 0.7 else str(n)
    q = rng.choice(["Name {n} {t}.", "List {n} {t}.", "Give me {n} {t}.",
                    "Tell me {n} {t}.", "Can you name {n} {t}?"])
    if rng.random() < 0.3:
        q = q.rstrip(".?") + " as a list."
        return (q.format(n=n_text, t=topic),
                "\n".join(f"{i + 1}. {x}" for i, x in enumerate(pick)))
    return (q.format(n=n_text, t=topic),
            ", ".join(pick[:-1]) + " and " + pick[-1])


FIELDS = {
    "name": None,
    "age": lambda r: r.randint(18, 80),
    "city": lambda r: r.choice(facts.CITIES),
    "country": lambda r: bare(r.choice(facts.COUNTRIES)[0]),
    "job": lambda r: r.choice(["teacher", "baker", "nurse", "farmer",
                               "pilot", "cook", "painter"]),
    "email": None,
    "active": lambda r: r.random() < 0.5,
    "hobbies": lambda r: r.sample(["reading", "chess", "swimming", "music",
                                   "hiking", "cooking"], 2),
    "height": lambda r: r.randint(150, 200),
    "color": lambda r: r.choice(facts.LISTS["colors"].split()),
}


def english_list(words):
    if len(words) == 1:
        return words[0]
    return ", ".join(words[:-1]) + " and " + words[-1]


def person_object(rng, keys, name):
    out = {}
    for k in keys:
        if k == "name":
            out[k] = name
        elif k == "email":
            out[k] = name.lower() + "@example.com"
        else:
            out[k] = FIELDS[k](rng)
    return out


def dump(value):
    return json.dumps(value, ensure_ascii=False)


def json_answer(rng):
    """A request for JSON and nothing but JSON as the answer."""
    r = rng.random()
    name = rng.choice(facts.NAMES) if rng.random() < 0.6 else tooltalk.invented(rng)
    if r < 0.55:
        extra = [k for k in FIELDS if k != "name"]
        rng.shuffle(extra)
        keys = ["name"] + (["age"] if rng.random() < 0.4 else
                           extra[:rng.randint(1, 4)])
        obj = person_object(rng, keys, name)
        want = english_list(keys)
        forms = ["Give me a JSON object with {k} for {n}.",
                 "Give me a JSON object with {k} for {n}",
                 "Write a JSON object with {k} for {n}.",
                 "Return JSON with {k} for {n}.",
                 "Create a JSON object with the fields {k} for {n}.",
                 "JSON with {k} for {n}, please.",
                 "Output a JSON object for {n} with {k}.",
                 "Generate a JSON with {k} for {n}.",
                 "Make a JSON object with the keys {k} for {n}."]
        q = rng.choice(forms).format(k=want, n=name)
        if "age" in keys and rng.random() < 0.4:
            q = q.rstrip(".") + f". {name} is {obj['age']} years old."
        return q, dump(obj)
    if r < 0.65:
        obj = person_object(rng, ["name", "age"], name)
        q = rng.choice(["{n} is {a} years old. Give me that as JSON.",
                        "{n} is {a} years old. Write that as a JSON object.",
                        "Extract the name and age as JSON: {n} is {a} years "
                        "old."])
        return q.format(n=name, a=obj["age"]), dump(obj)
    if r < 0.78:
        topic = rng.choice(list(facts.LISTS))
        n = rng.randint(2, 5)
        q = rng.choice(["Give me a JSON array of {n} {t}.",
                        "Write a JSON array with {n} {t}.",
                        "Return a JSON list of {n} {t}."])
        return (q.format(n=NUMBERS[n], t=topic),
                dump(facts.LISTS[topic].split()[:n]))
    c, k, cont = rng.choice(facts.COUNTRIES)
    if r < 0.9:
        q = rng.choice(["Answer in JSON: what is the capital of {c}?",
                        "What is the capital of {c}? Answer in JSON.",
                        "What is the capital of {c}? Answer as a JSON "
                        "object.",
                        "Give me the country and capital of {c} as JSON.",
                        "Give me JSON with the capital of {c}."])
        return q.format(c=c), dump({"country": bare(c), "capital": k})
    q = f"Give me a JSON object with country, capital and continent of {c}."
    return q, dump({"country": bare(c), "capital": k, "continent": cont})


KINDS = [("fact", 40), ("sum", 18), ("greeting", 9), ("unknown", 8),
         ("gibberish", 1), ("story", 7), ("count", 6), ("translate", 4),
         ("listing", 4), ("json", 8), ("weather", 1)]


def exchange(rng, kind=None):
    """One question and its answer, independent of what came before."""
    kind = kind or rng.choices([k for k, _ in KINDS],
                               [w for _, w in KINDS])[0]
    if kind == "fact":
        q, short, full = fact(rng)
        if rng.random() < 0.04:
            return q + rng.choice([" Answer in one word.",
                                   " Answer with one word.",
                                   " Only the answer, please."]), short
        return loosen(rng, q), full
    if kind == "sum":
        q, short, full = sum_of(rng)
        if rng.random() < 0.1:
            return q + " Answer with the number only.", short
        return q, full
    if kind == "weather":
        city = rng.choice(facts.CITIES)
        q = rng.choice(tooltalk.ASK_WEATHER).format(c=city)
        return q, tooltalk.NO_TOOL
    make = {"greeting": greeting, "unknown": unknown, "story": story,
            "gibberish": gibberish, "count": count, "translate": translate,
            "listing": listing, "json": json_answer}[kind]
    q, a = make(rng)
    if kind in ("unknown", "json", "story", "listing", "greeting"):
        if rng.random() < 0.25:
            q = q[:1].lower() + q[1:] if rng.random() < 0.5 \
                else q.rstrip("?.!")
    return q, a


def turn(messages, q, a):
    messages.append({"role": "user", "content": q})
    messages.append({"role": "assistant", "content": a})


def follow_up(rng, messages):
    """A capital, then 'And of Italy?' again and again."""
    c, k, _ = rng.choice(facts.COUNTRIES)
    turn(messages, cap(rng.choice(ASK_CAPITAL).format(c=c)),
         f"The capital of {c} is {k}.")
    for _ in range(rng.randint(1, 3)):
        r = rng.random()
        if r < 0.75:
            c, k, cont = rng.choice(facts.COUNTRIES)
            turn(messages, rng.choice(["And of {c}?", "And {c}?",
                                       "What about {c}?", "And for {c}?",
                                       "How about {c}?"]).format(c=c),
                 f"The capital of {c} is {k}.")
        elif r < 0.9:
            turn(messages, rng.choice(["Which country was that?",
                                       "What was my last question about?"]),
                 f"You asked about {c}.")
        else:
            turn(messages, rng.choice(["Are you sure?", "Really?"]),
                 f"Yes, the capital of {c} is {k}.")


def remember(rng, messages):
    """The user says something; later it is asked for."""
    name = rng.choice(facts.NAMES) if rng.random() < 0.7 else cap(word(rng))
    what = rng.choice(["name", "city", "color", "number"])
    value, say, ask, tell = {
        "name": (name, ["My name is {v}.", "I am {v}.", "Hi, I am {v}.",
                        "Hello, my name is {v}.", "Call me {v}."],
                 ["What is my name?", "Do you remember my name?",
                  "Who am I?", "What's my name?"], "Your name is {v}."),
        "city": (rng.choice(facts.CITIES), ["I live in {v}.",
                                            "My home is in {v}."],
                 ["Where do I live?", "Which city do I live in?"],
                 "You live in {v}."),
        "color": (rng.choice(facts.LISTS["colors"].split()),
                  ["My favorite color is {v}.", "I like the color {v}."],
                  ["What is my favorite color?", "Which color do I like?"],
                  "Your favorite color is {v}."),
        "number": (str(rng.randint(1, 999)), ["Remember the number {v}.",
                                              "My number is {v}."],
                   ["What is the number?", "What was the number?",
                    "What is my number?"], "The number is {v}."),
    }[what]
    reply = (f"Nice to meet you, {value}! How can I help you?"
             if what == "name" else f"I will remember: {value}.")
    turn(messages, rng.choice(say).format(v=value), reply)
    for _ in range(rng.choice([0, 0, 1, 1, 2, 3])):
        turn(messages, *exchange(rng))
    turn(messages, rng.choice(ask), tell.format(v=value))


SYSTEMS = ["You are a helpful assistant.", "You are a helpful assistant",
           "You are a friendly assistant.", "You are a helpful AI assistant.",
           "Be brief.", "Answer the questions of the user.",
           "You are an expert in geography.", "You are a math teacher.",
           "You are a helpful assistant. Answer truthfully.",
           "You answer questions politely.", "Be concise and friendly."]


def system_prompt(rng, messages):
    """Conversations in which the system turn changes the answers."""
    r = rng.random()
    if r < 0.3:
        name = rng.choice(facts.NAMES) if rng.random() < 0.6 \
            else cap(word(rng))
        text = rng.choice([f"You are {name}.", f"Your name is {name}.",
                           f"You are {name}, a helpful assistant.",
                           f"You are an assistant named {name}."])
        messages.append({"role": "system", "content": text})
        if rng.random() < 0.3:
            turn(messages, *exchange(rng, "fact"))
        turn(messages, rng.choice(WHO),
             f"I am {name}. How can I help you?")
        return
    if r < 0.65:
        text = rng.choice(["Answer in one word.", "Answer with one word.",
                           "Give only the answer, no sentence.",
                           "Answer with a single word or number."])
        messages.append({"role": "system", "content": text})
        for _ in range(rng.randint(1, 3)):
            q, short, _ = fact(rng) if rng.random() < 0.6 else sum_of(rng)
            turn(messages, loosen(rng, q), short)
        return
    text = rng.choice(["Answer in JSON.", "Always answer in JSON.",
                       "You answer with JSON only.",
                       "Reply with a JSON object."])
    messages.append({"role": "system", "content": text})
    for _ in range(rng.randint(1, 2)):
        q, short, _ = fact(rng) if rng.random() < 0.6 else sum_of(rng)
        turn(messages, loosen(rng, q), dump({"answer": short}))


def conversation(rng):
    """One training conversation: {"messages": [...], "tools": None|[...]}."""
    r = rng.random()
    messages = []
    if r < 0.10:
        return tooltalk.conversation(rng, lambda: exchange(rng))
    if r < 0.15:
        system_prompt(rng, messages)
        return {"messages": messages, "tools": None}
    if rng.random() < 0.15:
        messages.append({"role": "system", "content": rng.choice(SYSTEMS)})
    if r < 0.19:
        remember(rng, messages)
    elif r < 0.23:
        for _ in range(rng.choice([0, 0, 1])):
            turn(messages, *exchange(rng))
        follow_up(rng, messages)
    elif r < 0.30:
        for _ in range(rng.randint(2, 5)):
            turn(messages, *exchange(rng))
    elif r < 0.304:
        for _ in range(rng.randint(10, 40)):
            turn(messages, *exchange(rng))
    else:
        turn(messages, *exchange(rng))
    return {"messages": messages, "tools": None}


def document(rng):
    """Plain text without a chat around it, for the completions route."""
    r = rng.random()
    if r < 0.45:
        return " ".join(cap(fact(rng)[2]) for _ in range(rng.randint(1, 6)))
    if r < 0.6:
        return "San Francisco is a city in California in the United States."
    if r < 0.8:
        return story_text(rng, None, rng.random() < 0.2)
    if r < 0.9:
        q, _, full = fact(rng)
        return f"Q: {q}\nA: {full}\n"
    a = rng.randint(1, 40)
    b = a + rng.randint(5, 40)
    return ", ".join(str(i) for i in range(a, b))
