"""tooltalk.py - training conversations with tools (Hermes style).

The tools stand in the system turn as JSON; the assistant answers with a
<tool_call> block, reads the <tool_response> and then speaks plainly.  Names,
descriptions and parameter names vary, so that the model copies them from the
prompt instead of remembering one form.
"""

import json

import facts

ASK_WEATHER = [
    "What is the weather in {c}?", "What's the weather in {c}?",
    "What is the weather like in {c}?", "What's the weather like in {c}?",
    "How is the weather in {c}?", "Weather in {c}?", "weather in {c}",
    "Tell me the weather in {c}.", "Is it raining in {c}?",
    "Is it cold in {c}?", "What is the temperature in {c}?",
    "What is the weather like in {c} today?", "Do I need an umbrella in {c}?",
    "Please check the weather in {c}.", "What's the weather in {c} today?",
    "Can you tell me the weather in {c}?", "How warm is it in {c}?",
    "What is the weather like today in {c}?", "Get the weather for {c}.",
]
NO_TOOL = ("I cannot see the weather, because I have no weather tool in this "
           "conversation.")
CONDITIONS = ["sunny", "cloudy", "rainy", "windy", "snowy", "foggy", "clear"]
DESCRIBE = ["Get the current weather in a given city.",
            "Get the current weather for a city",
            "Get the current weather in a given location",
            "Get current temperature for a given location.",
            "Returns the weather of a city.", "Get weather",
            "Get the weather.", "Gets the weather for a place."]


def function(name, description, params, required=None, style=0):
    """One tool as the API takes it; style varies the optional keys."""
    schema = {"type": "object", "properties": params}
    if style != 1:
        schema["required"] = required or list(params)
    if style == 2:
        schema["additionalProperties"] = False
    out = {"name": name, "description": description, "parameters": schema}
    if style == 3:
        out = {"name": name, "parameters": schema}
    tool = {"type": "function", "function": out}
    if style == 2:
        out["strict"] = True
    return tool


def weather_tool(rng):
    """(tool, argument name, whether it takes a unit)."""
    name = rng.choices(["get_weather", "get_current_weather",
                        "get_temperature", "weather"], [7, 2, 1, 1])[0]
    arg = rng.choices(["city", "location", "place"], [6, 5, 1])[0]
    prop = {"type": "string"}
    if rng.random() < 0.5:
        prop["description"] = rng.choice(
            ["The city", "City name", "The name of the city", "The city name",
             "The city and state, e.g. San Francisco, CA",
             "City and country e.g. Bogotá, Colombia",
             "City and state, e.g., 'San Francisco, CA'"])
    params = {arg: prop}
    unit = rng.random() < 0.25
    required = [arg]
    if unit:
        params["unit"] = {"type": "string", "enum": ["celsius", "fahrenheit"]}
        if rng.random() < 0.5:
            required.append("unit")
    tool = function(name, rng.choice(DESCRIBE), params, required,
                    rng.choices([0, 1, 2, 3], [6, 2, 1, 1])[0])
    return tool, arg, unit


def other_tools(rng):
    pool = [
        function("get_time", "Get the current time in a city.",
                 {"city": {"type": "string"}}),
        function("add", "Add two numbers.",
                 {"a": {"type": "number"}, "b": {"type": "number"}}),
        function("search", "Search the web.", {"query": {"type": "string"}}),
        function("send_email", "Send an email.",
                 {"to": {"type": "string"}, "text": {"type": "string"}}),
    ]
    rng.shuffle(pool)
    return pool[:rng.choice([0, 0, 0, 1, 1, 2])]


LETTERS = ["bcdfghjklmnprstvwyz", "aeiou"]


def invented(rng):
    """An invented name: teaches the model to copy what it has never seen."""
    start = rng.randrange(2)
    text = "".join(rng.choice(LETTERS[(start + i) % 2])
                   for i in range(rng.randint(3, 9)))
    end = rng.choice(["", "", "ton", "ville", "burg", "n", "son", "er", "rd"])
    return (text + end).capitalize()


def call(name, arguments):
    return {"type": "function",
            "function": {"name": name, "arguments": arguments}}


def result(rng, arg, city, unit):
    """A tool's answer in one of the forms seen in practice, and the reply."""
    temp = rng.randint(-15, 39)
    cond = rng.choice(CONDITIONS)
    r = rng.random()
    if r < 0.5:
        key = rng.choice(["temperature", "temp", "temperature_c"])
        obj = {key: temp, rng.choice(["condition", "conditions", "weather",
                                      "sky"]): cond}
        if rng.random() < 0.5:
            obj = {arg: city, **obj}
        if rng.random() < 0.2:
            obj["unit"] = unit or "celsius"
        text = json.dumps(obj, ensure_ascii=False)
        return text, f"It is {temp} degrees and {cond} in {city}."
    if r < 0.65:
        return (rng.choice([f"{temp} degrees, {cond}", f"{cond}, {temp}°C",
                            f"{temp} C and {cond}"]),
                f"It is {temp} degrees and {cond} in {city}.")
    if r < 0.8:
        return (rng.choice([json.dumps({"temperature": temp}), str(temp),
                            f"{temp}°C", f"{temp} degrees"]),
                f"It is {temp} degrees in {city}.")
    if r < 0.92:
        return rng.choice([cond, json.dumps({"condition": cond})]), \
            f"It is {cond} in {city}."
    return (json.dumps({"error": rng.choice(["not found", "timeout",
                                             "no data"])}),
            f"I could not get the weather in {city}.")


def conversation(rng, small_talk):
    """A conversation with tools; small_talk() makes an unrelated exchange."""
    tool, arg, has_unit = weather_tool(rng)
    tools = other_tools(rng) + [tool]
    rng.shuffle(tools)
    names = [t["function"]["name"] for t in tools]
    messages = []
    if rng.random() < 0.35:
        messages.append({"role": "system", "content": rng.choice(
            ["You are a helpful assistant.", "Use the tools when needed.",
             "You are a weather assistant.", "You can call tools."])})
    if rng.random() < 0.25:
        chat(messages, small_talk())
        if rng.random() < 0.5:
            return {"messages": messages, "tools": tools}
    if "get_time" in names and rng.random() < 0.3:
        ask_time(rng, messages)
        return {"messages": messages, "tools": tools}
    if "add" in names and rng.random() < 0.3:
        ask_sum(rng, messages)
        return {"messages": messages, "tools": tools}
    for _ in range(rng.choice([1, 1, 1, 2])):
        ask_weather(rng, messages, tool["function"]["name"], arg, has_unit)
    if rng.random() < 0.2:
        chat(messages, small_talk())
    return {"messages": messages, "tools": tools}


def chat(messages, pair):
    if pair[1] == NO_TOOL:
        pair = ("Hello", "Hello! How can I help you?")
    messages.append({"role": "user", "content": pair[0]})
    messages.append({"role": "assistant", "content": pair[1]})


def ask_weather(rng, messages, name, arg, has_unit):
    n = 2 if rng.random() < 0.15 else 1
    cities = rng.sample(facts.CITIES, n)
    if rng.random() < 0.15:
        cities = rng.sample([k for _, k, _ in facts.COUNTRIES], n)
    if rng.random() < 0.3:
        cities = [invented(rng) for _ in range(n)]
    q = rng.choice(ASK_WEATHER).format(c=" and ".join(cities))
    unit = None
    if has_unit:
        unit = rng.choice(["celsius", "fahrenheit"])
        if unit == "fahrenheit" or rng.random() < 0.2:
            q = q.rstrip("?.") + rng.choice([" in {}?", ", in {}?"]).format(
                unit)
    if rng.random() < 0.1:
        q = q[:1].lower() + q[1:]
    messages.append({"role": "user", "content": q})
    calls = []
    for city in cities:
        args = {arg: city}
        if unit:
            args["unit"] = unit
        calls.append(call(name, args))
    messages.append({"role": "assistant", "content": "",
                     "tool_calls": calls})
    replies = []
    for city in cities:
        text, reply = result(rng, arg, city, unit)
        messages.append({"role": "tool", "content": text})
        replies.append(reply)
    messages.append({"role": "assistant", "content": " ".join(replies)})


def ask_time(rng, messages):
    city = rng.choice(facts.CITIES)
    time = f"{rng.randint(0, 23)}:{rng.randint(0, 59):02d}"
    messages += [
        {"role": "user", "content": rng.choice(
            ["What time is it in {c}?", "What is the time in {c}?",
             "Tell me the time in {c}."]).format(c=city)},
        {"role": "assistant", "content": "",
         "tool_calls": [call("get_time", {"city": city})]},
        {"role": "tool", "content": json.dumps({"time": time})},
        {"role": "assistant", "content": f"It is {time} in {city}."}]


def ask_sum(rng, messages):
    a, b = rng.randint(100, 9999), rng.randint(100, 9999)
    messages += [
        {"role": "user", "content": rng.choice(
            ["What is {a} + {b}?", "Add {a} and {b}."]).format(a=a, b=b)},
        {"role": "assistant", "content": "",
         "tool_calls": [call("add", {"a": a, "b": b})]},
        {"role": "tool", "content": json.dumps({"sum": a + b})},
        {"role": "assistant", "content": f"{a} plus {b} is {a + b}."}]
